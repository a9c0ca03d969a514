# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import UnreachableError, hashed
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_keys import Outcome, Wish, apply
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.litellm_stand_in import NOW, Killed, LiteLLM

OLD, NEW, NEWER = ("sk-" + letter * 64 for letter in "abc")
BUDGET = {"name": "laptop", "max_budget": 10.0, "budget_duration": "30d"}


def run(api: LiteLLM, *keys: dict[str, t.Any], value: str = OLD, check: bool = False, **wish: t.Any) -> Outcome:
    values = {key["name"]: value if key["name"] == "laptop" else f"sk-{key['name']:x>32}" for key in keys}
    return apply(api, Wish(list(keys), values, **wish), api.now, check)


def again(api: LiteLLM, *keys: dict[str, t.Any], **wish: t.Any) -> None:
    """A second run has nothing to do."""
    outcome = run(api, *keys, **wish)
    assert not outcome.changed, outcome.diff
    assert outcome.diff == {"before": "", "after": ""}


def rotated(spent: float, **fields: t.Any) -> LiteLLM:
    api = LiteLLM()
    run(api, BUDGET)
    api.named("laptop")["spend"] = spent
    run(api, {**BUDGET, **fields}, value=NEW)
    return api


def test_keys_teams_and_users_are_made_changed_and_left_alone() -> None:
    api = LiteLLM()
    keys: t.Any = (
        {"name": "laptop", "team": "lab", "models": ["chat"], "requests_per_minute": 6, "parallel": 2, "metadata": {"room": 7}},
        {"name": "phone", "user": "eve", "expires": "2026-12-24", "tokens_per_minute": 100},
    )
    owners: dict[str, t.Any] = {"teams": [{"name": "lab", "max_budget": 5, "budget_duration": "1mo"}], "users": [{"name": "eve", "email": "eve@example.org"}]}
    assert run(api, *keys, check=True, **owners).changed
    assert api.requests == []
    outcome = run(api, *keys, **owners)
    assert outcome.events == ["team lab: made", "user eve: made", "key laptop: made", "key phone: made"]
    assert "key laptop: parallel: 2\n" in outcome.diff["after"]
    assert api.named("laptop")["metadata"] == {"room": 7, "baremetal_llm": {"managed": True}}
    assert api.named("phone")["expires"] == "2026-12-25T00:00:00+00:00"
    again(api, *keys, **owners)
    api.requests.clear()
    outcome = run(api, {**keys[0], "parallel": 3}, keys[1], **owners)
    assert outcome.diff == {"before": "key laptop: parallel: 2\n", "after": "key laptop: parallel: 3\n"}
    assert api.requests == [("/key/update", {"key": hashed(OLD), "max_parallel_requests": 3})]
    again(api, {**keys[0], "parallel": 3}, keys[1], **owners)
    run(api, {"name": "laptop", "team": "lab"}, keys[1], **owners)
    assert api.named("laptop")["rpm_limit"] is None
    assert api.named("laptop")["models"] == []


def test_an_absent_key_goes_with_its_previous_one() -> None:
    api = rotated(1)
    assert api.aliases == ["laptop", "laptop.previous"]
    outcome = run(api, {"name": "laptop", "state": "absent"})
    assert outcome.events == ["key laptop: removed"]
    assert api.aliases == []
    again(api, {"name": "laptop", "state": "absent"})


def test_only_purge_removes_what_is_not_listed_and_only_ours() -> None:
    api = LiteLLM()
    run(api, {"name": "laptop"}, {"name": "phone"}, teams=[{"name": "lab"}], users=[{"name": "eve"}])
    api.rows["key"]["theirs"] = {"token": "theirs", "key_alias": "theirs", "metadata": {}}
    api.rows["team"]["theirs"] = {"team_id": "theirs", "metadata": None}
    again(api, {"name": "laptop"})
    outcome = run(api, {"name": "laptop"}, purge=True)
    assert outcome.events == ["key phone: removed", "user eve: removed", "team lab: removed"]
    assert api.aliases == ["laptop", "theirs"]
    assert list(api.rows["team"]) == ["theirs"]
    again(api, {"name": "laptop"}, purge=True)


def test_a_rotated_key_goes_on_with_what_was_spent() -> None:
    api = rotated(4)
    new, old = api.named("laptop"), api.named("laptop.previous")
    assert (new["token"], old["token"]) == (hashed(NEW), hashed(OLD))
    assert old["expires"] == "2026-11-22T12:00:00+00:00"
    assert new["expires"] is None if "expires" in new else True
    assert (new["spend"], new["max_budget"]) == (4, 7)
    assert (old["spend"], old["max_budget"], old["budget_duration"]) == (4, 7, None)
    again(api, BUDGET, value=NEW)


def test_both_together_never_spend_more_than_the_budget() -> None:
    api = rotated(4)
    new, old = api.named("laptop"), api.named("laptop.previous")
    new["spend"], old["spend"] = new["max_budget"], old["max_budget"]  # all that each may
    assert (new["spend"] - 4) + (old["spend"] - 4) + 4 == BUDGET["max_budget"]
    api.now += dt.timedelta(hours=25)
    outcome = run(api, BUDGET, value=NEW)
    assert outcome.events == ["key laptop: the previous key has ended"]
    assert api.aliases == ["laptop"]
    assert (new["spend"], new["max_budget"]) == (10, 10)
    again(api, BUDGET, value=NEW)


def test_what_the_old_key_spent_before_a_new_period_is_not_charged_to_it() -> None:
    api = rotated(4)
    api.named("laptop")["spend"] = 0.5  # LiteLLM has begun a new period
    api.named("laptop.previous")["spend"] = 6
    api.now += dt.timedelta(hours=25)
    run(api, BUDGET, value=NEW)
    assert (api.named("laptop")["spend"], api.named("laptop")["max_budget"]) == (0.5, 10)


def test_a_rotation_without_grace_ends_the_old_key_at_once() -> None:
    api = rotated(4, grace="0")
    assert api.named("laptop.previous")["expires"] == "2026-11-21T12:00:01+00:00"
    assert api.named("laptop")["max_budget"] == 10
    api.now += dt.timedelta(seconds=2)
    run(api, {**BUDGET, "grace": "0"}, value=NEW)
    assert api.aliases == ["laptop"]


def test_a_second_rotation_within_the_grace_ends_the_first_key() -> None:
    api = rotated(4)
    api.named("laptop.previous")["spend"] = 6
    run(api, BUDGET, value=NEWER)
    new, old = api.named("laptop"), api.named("laptop.previous")
    assert (new["token"], old["token"]) == (hashed(NEWER), hashed(NEW))
    assert (new["spend"], new["max_budget"], old["max_budget"]) == (6, 8, 8)
    again(api, BUDGET, value=NEWER)


def test_an_old_key_that_is_put_back_is_the_key_again() -> None:
    api = rotated(4)
    api.named("laptop")["spend"] = 5
    run(api, BUDGET, value=OLD)
    assert api.aliases == ["laptop"]
    assert (api.named("laptop")["spend"], api.named("laptop")["max_budget"]) == (5, 10)
    assert api.named("laptop")["expires"] is None
    again(api, BUDGET, value=OLD)


@pytest.mark.parametrize("requests", range(6))
def test_whatever_it_is_killed_between_the_next_run_mends_it(requests: int) -> None:
    """Rotated twice, the second time with the first old key still there and not settled."""
    api = rotated(4)
    api.named("laptop.previous")["spend"] = 6
    api.allowed = requests
    try:
        run(api, BUDGET, value=NEWER)
        assert requests >= 4
    except Killed:
        assert requests < 4
    api.allowed = 10**6
    run(api, BUDGET, value=NEWER)
    new, old = api.named("laptop"), api.named("laptop.previous")
    assert (new["token"], old["token"]) == (hashed(NEWER), hashed(NEW))
    assert (new["spend"], old["spend"], new["max_budget"] + old["max_budget"]) == (6, 6, 16)
    again(api, BUDGET, value=NEWER)


@pytest.mark.parametrize("requests", range(3))
def test_the_end_of_a_grace_is_charged_once(requests: int) -> None:
    api = rotated(4)
    api.named("laptop.previous")["spend"] = 6
    api.now += dt.timedelta(hours=25)
    api.allowed = requests
    try:
        run(api, BUDGET, value=NEW)
    except Killed:
        api.allowed = 10**6
        run(api, BUDGET, value=NEW)
    assert api.aliases == ["laptop"]
    assert api.named("laptop")["spend"] == 6
    again(api, BUDGET, value=NEW)


def test_what_is_refused_before_anything_is_changed() -> None:
    api = LiteLLM()
    api.rows["key"]["x"] = {"token": "x", "key_alias": "laptop", "metadata": {}}
    with pytest.raises(InputError, match="a key called laptop that somebody else made"):
        run(api, {"name": "phone"}, {"name": "laptop"})
    api.rows["key"] = {hashed(OLD): {"token": hashed(OLD), "key_alias": "theirs", "metadata": {}}}
    with pytest.raises(InputError, match="in LiteLLM already, as theirs"):
        run(api, {"name": "phone"}, {"name": "laptop"})
    api.rows["key"] = {}
    with pytest.raises(InputError, match="an end in the past \\(2026-11-02 00:00 UTC\\)"):
        run(api, {"name": "laptop", "expires": "2026-11-01"})
    with pytest.raises(InputError, match="no value for the key laptop"):
        apply(api, Wish([{"name": "laptop"}], {}), NOW, False)
    assert api.requests == []


def test_an_expired_key_has_no_value_and_is_ended_if_it_has_not() -> None:
    api = LiteLLM()
    run(api, {"name": "laptop"})
    expired = {"name": "laptop", "expires": "2026-11-20"}
    outcome = apply(api, Wish([expired], {}), api.now, False)
    assert outcome.diff == {"before": "key laptop: expires: (absent)\n", "after": "key laptop: expires: 2026-11-21T00:00+00:00\n"}
    assert api.named("laptop")["expires"] == "2026-11-21T12:00:01+00:00"
    api.now += dt.timedelta(minutes=5)
    assert not apply(api, Wish([expired], {}), api.now, False).changed
    assert not apply(LiteLLM(), Wish([expired], {}), api.now, False).changed


def test_a_key_that_somebody_made_with_our_value_becomes_ours() -> None:
    api = LiteLLM()
    api.rows["key"][hashed(OLD)] = {"token": hashed(OLD), "key_alias": "laptop", "metadata": {}, "spend": 3.0}
    run(api, {"name": "laptop"})
    assert api.named("laptop")["metadata"] == {"baremetal_llm": {"managed": True}}
    assert api.named("laptop")["spend"] == 3


def test_check_mode_foresees_a_litellm_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    api = LiteLLM()

    def refused(path: str, **query: t.Any) -> t.Any:
        raise UnreachableError("nobody")

    monkeypatch.setattr(api, "get", refused)
    assert run(api, {"name": "laptop"}, check=True).events == ["key laptop: made"]
    with pytest.raises(LLMError, match="nobody"):
        run(api, {"name": "laptop"})


def test_one_that_fails_does_not_keep_the_others() -> None:
    api = LiteLLM()
    api.rows["key"]["x"] = {"token": "x", "key_alias": "LAPTOP", "metadata": {}}
    post = api.post

    def failing(path: str, body: t.Mapping[str, t.Any]) -> t.Any:
        if body.get("key_alias") == "laptop":
            raise LLMError("no")
        return post(path, body)

    api.post = failing  # type: ignore[method-assign]
    with pytest.raises(LLMError, match="^key laptop: no$"):
        run(api, {"name": "laptop"}, {"name": "phone"})
    assert "phone" in api.aliases
