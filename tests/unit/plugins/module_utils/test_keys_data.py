# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import (
    alive,
    expiry,
    grace_seconds,
    key_warnings,
    rotation_day,
    seconds,
)

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.timezone.utc)


def test_durations() -> None:
    assert seconds("90d") == 90 * 86400
    assert seconds("1mo", months=True) == 30 * 86400
    assert (grace_seconds({}), grace_seconds({"grace": 0}), grace_seconds({"grace": "15m"})) == (86400, 0, 900)
    for wrong in ("0d", "-1d", "1", "1y", "1mo", 5):
        with pytest.raises(InputError):
            seconds(wrong)


@pytest.mark.parametrize(
    ("value", "ends"),
    [
        ("2026-11-21", "2026-11-22T00:00:00+00:00"),
        (dt.date(2026, 11, 21), "2026-11-22T00:00:00+00:00"),
        ("2026-11-21T10:00:00", "2026-11-21T10:00:00+00:00"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00+00:00"),
        ("2026-11-21T10:00:00+02:00", "2026-11-21T10:00:00+02:00"),
        (dt.datetime(2026, 11, 21, 10), "2026-11-21T10:00:00+00:00"),
    ],
)
def test_a_day_is_used_up_whole(value: t.Any, ends: str) -> None:
    assert expiry(value).isoformat() == ends


def test_the_day_of_a_rotation_is_its_beginning() -> None:
    assert rotation_day("2026-11-21").isoformat() == rotation_day(dt.date(2026, 11, 21)).isoformat() == "2026-11-21T00:00:00+00:00"
    assert rotation_day("2026-11-21T09:00:00Z").isoformat() == "2026-11-21T09:00:00+00:00"


def test_who_is_let_in() -> None:
    keys = [{"name": "a"}, {"name": "b", "state": "absent"}, {"name": "c", "expires": "2026-11-20"}, {"name": "d", "expires": "2026-11-21"}]
    assert [key["name"] for key in alive(keys, NOW)] == ["a", "d"]


def test_what_nginx_cannot_hold_is_said_by_name() -> None:
    keys: list[dict[str, t.Any]] = [
        {"name": "a", "models": ["chat"], "expires": "2027-01-01"},
        {"name": "b", "models": ["chat"], "max_budget": 0, "budget_duration": "1d"},
        {"name": "c", "expires": "2026-01-01"},
        {"name": "gone", "state": "absent", "models": ["chat"]},
    ]
    found = key_warnings(keys, database=False, now=NOW)
    assert [sentence.partition(":")[0] for sentence in found] == [
        "The key of c expired on 2026-01-01",
        "Without llm_database nothing holds models of a, b",
        "Without llm_database nothing holds max_budget of b",
        "Without llm_database expires of a takes effect with the first run of playbooks/keys.yml after it.",
    ]
    assert len(key_warnings(keys, database=True, now=NOW)) == 1


@pytest.mark.parametrize(
    ("period", "moves"),
    [("1d", False), ("24h", False), ("7d", False), ("1w", False), ("30d", False), ("1mo", False), ("14d", True), ("2w", True)],
)
def test_a_rotation_moves_some_budgets_and_says_so(period: str, moves: bool) -> None:
    key = {"name": "ci", "max_budget": 1, "budget_duration": period}
    assert key_warnings([key], database=True, now=NOW) == []
    found = key_warnings([{**key, "rotate_after": "90d"}], database=True, now=NOW)
    assert [sentence.partition(",")[0] for sentence in found] == (["The budget of ci begins anew with every rotation"] if moves else [])
