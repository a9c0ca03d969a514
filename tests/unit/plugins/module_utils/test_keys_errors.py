# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._keys_errors import key_file_errors, keys_errors, shared_database_errors

PRICED = {"chat": {"price": {"input": 1, "output": 2}}, "small": {"price": {"input": 0, "output": 0}}}
TEAM = {"name": "lab", "models": ["chat"], "max_budget": 10, "budget_duration": "1mo", "requests_per_minute": 60, "tokens_per_minute": 1000}


def errors(*keys: t.Any, models: t.Any = None, **variables: t.Any) -> list[str]:
    box = {"llm_database": True, "llm_keys": list(keys), "llm_routes": {"auto": {}}, "llm_teams": [TEAM], "llm_users": [{"name": "eve"}], **variables}
    return keys_errors("box", box, PRICED if models is None else models)


def key(**fields: t.Any) -> dict[str, t.Any]:
    return {"name": "laptop", **fields}


def test_good_keys_have_none() -> None:
    assert errors(key()) == []
    full = key(
        key="sk-" + "a" * 64,
        team="lab",
        user="eve",
        models=["chat"],
        max_budget=5,
        budget_duration="1mo",
        requests_per_minute=6,
        tokens_per_minute=1000,
        parallel=2,
        burst=0,
        expires=dt.date(2036, 1, 1),
        metadata={"room": 7},
        grace="0",
    )
    assert errors(full) == []
    assert errors(key(models=["auto"], rotate_after="90d", rotate="2026-01-01", expires="2036-01-01T12:00:00Z")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "A b"}, "'A b' is no name here"),
        ({"name": "default"}, "'default' is no name here"),
        ({"name": "x.previous"}, "ends in .previous"),
        ({"name": "x.removed"}, "ends in .previous or .removed"),
        ({"modles": ["chat"]}, "unknown field 'modles': did you mean models"),
        ({"state": "abscent"}, "state 'abscent': did you mean absent"),
        ({"requests_per_minute": 0}, "requests_per_minute 0: it must be a whole number of at least 1"),
        ({"parallel": "many"}, "parallel 'many'"),
        ({"tokens_per_minute": True}, "tokens_per_minute True"),
        ({"max_budget": 5}, "max_budget without budget_duration: a budget is an amount and its period"),
        ({"budget_duration": "1d"}, "budget_duration without max_budget"),
        ({"max_budget": -1, "budget_duration": "1d"}, "max_budget -1: it must be an amount"),
        ({"max_budget": 1, "budget_duration": "monthly"}, "budget_duration 'monthly': it must be a whole number with s, m, h, d, w or mo"),
        ({"max_budget": 1, "budget_duration": "2mo"}, "budget_duration '2mo': of months it can only be 1mo"),
        ({"models": ["chatt"]}, "may use 'chatt', which is neither in llm_models nor in llm_routes: did you mean chat"),
        ({"models": []}, "models []: list at least one"),
        ({"metadata": {"baremetal_llm": {}}}, "is ours"),
        ({"expires": "soon"}, "expires 'soon': it must be a day or a time"),
        ({"rotate_after": "1mo"}, "rotate_after '1mo'"),
        ({"rotate": True}, "rotate True: say since when"),
        ({"grace": "a while"}, "grace 'a while'"),
        ({"team": "labb"}, "belongs to the team 'labb', which is not present in llm_teams: did you mean lab"),
        ({"user": "bob"}, "belongs to the user 'bob'"),
        ({"team": "lab", "models": ["small"]}, "may use small, but its team lab may not"),
        ({"team": "lab", "requests_per_minute": 61}, "requests_per_minute 61, more than the 60 of its team lab"),
        ({"team": "lab", "tokens_per_minute": 1001}, "tokens_per_minute 1001, more than the 1000"),
        ({"team": "lab", "max_budget": 11, "budget_duration": "7d"}, "max_budget 11 per 7d, more than the 10 per 1mo of its team lab"),
        ({"key": "sk-short"}, "shorter than 32 characters"),
        ({"key": 'sk-with"quote' + "x" * 32}, "a header cannot carry"),
        ({"key": "a" * 64}, "does not begin with sk-"),
        ({"key": "sk-" + "a" * 64, "rotate_after": "90d"}, "a key of its own and rotate_after"),
        ({"email": "x@y"}, "unknown field 'email'"),
    ],
)
def test_a_wrong_key(change: dict[str, t.Any], said: str) -> None:
    found = errors(key(**change))
    assert len(found) == 1, found
    assert said in found[0]
    assert "box" in found[0]
    assert str(change.get("key", "none of it")) not in found[0]


def test_names_and_values_are_there_once() -> None:
    (found,) = errors(key(), key())
    assert found == "llm_keys of box names laptop 2 times: each has one entry."
    value = "sk-" + "a" * 64
    (found,) = errors({"name": "a", "key": value}, {"name": "b", "key": value.upper().replace("SK-", "sk-")})
    assert "a and b have the same key" in found
    assert value not in found


def test_a_list_that_is_none() -> None:
    assert "llm_keys of box is []: it must be a list" in errors()[0]
    assert "it must be a list of mappings" in errors("laptop")[0]
    (found,) = errors(key(state="absent"))
    assert "has nobody who is present" in found
    (found,) = errors(key(), llm_database=False, llm_users=[])
    assert found == "llm_teams of box needs LiteLLM's database: set llm_database to true, or take llm_teams out."


def test_a_budget_needs_prices() -> None:
    budget = {"max_budget": 1, "budget_duration": "1d"}
    models: dict[str, t.Any] = {"chat": {}, "small": PRICED["small"]}
    (found,) = errors(key(**budget), models=models, llm_teams=[])
    assert "but chat in llm_models has no price" in found
    assert errors(key(models=["small"], **budget), models=models, llm_teams=[]) == []
    (found,) = errors(key(models=["auto"], **budget), models=models, llm_teams=[])
    assert "but chat in llm_models has no price" in found


def test_the_key_files_of_a_time_without_database() -> None:
    variables: dict[str, t.Any] = {"llm_database": True, "llm_keys": [key(), {"name": "phone"}, {"name": "new"}]}
    files = {"laptop": "a" * 64, "phone": "sk-" + "a" * 64, "tablet": "b" * 64}
    variables["llm_keys"].append({"name": "tablet"})
    (found,) = key_file_errors("box", variables, files.get)
    assert "-e llm_rotate=laptop,tablet: they get new keys" in found
    assert "a" * 64 not in found
    assert key_file_errors("box", variables, files.get, rotated=["laptop", "tablet"]) == []
    assert key_file_errors("box", {**variables, "llm_database": False}, files.get) == []


def test_gateways_that_differ() -> None:
    same = {"llm_database": True, "postgresql_external": {"host": "db"}, "litellm_redis": {"host": "db"}, "llm_keys": [key()]}
    assert shared_database_errors({"a": same, "b": same}, ["a", "b"]) == []
    (found,) = shared_database_errors({"a": same, "b": {**same, "llm_keys": [key(parallel=1)]}}, ["a", "b"])
    assert "llm_keys of b differs from that of a" in found
    (found,) = shared_database_errors({"a": same, "b": {**same, "llm_database": False}}, ["a", "b"])
    assert "llm_database of b is false, but true of a" in found
