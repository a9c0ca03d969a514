# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_spend import as_csv, spend, table

FIRST, LAST = dt.date(2026, 11, 1), dt.date(2026, 11, 21)


def entry(alias: str | None, cost: float, requests: int = 1) -> dict[str, t.Any]:
    metrics = {"spend": cost, "api_requests": requests, "failed_requests": 0, "prompt_tokens": 10, "completion_tokens": 5}
    return {"metrics": metrics, "metadata": {"key_alias": alias, "team_id": None, "user_id": "eve"}}


def page(day: str, model: str, more: bool, **keys: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"results": [{"date": day, "breakdown": {"models": {model: {"api_key_breakdown": keys}}}}], "metadata": {"has_more": more}}


class Pages(Api):
    def __init__(self, *pages: dict[str, t.Any]) -> None:
        self.pages_left = list(pages)

    def get(self, path: str, **query: t.Any) -> t.Any:
        assert (path, query["start_date"], query["end_date"]) == ("/user/daily/activity", "2026-11-01", "2026-11-21")
        return self.pages_left.pop(0)


def test_rows_are_added_up_over_pages_and_rotations() -> None:
    api = Pages(
        page("2026-11-20", "openai/chat", True, a=entry("laptop", 1.5), b=entry("laptop.previous", 0.25, 2)),
        page("2026-11-20", "openai/chat", True, a=entry("laptop", 0.25)),
        page("2026-11-21", "openai/chat", False, a=entry("laptop", 1), deadbeef99=entry(None, 3)),
    )
    rows = spend(api, FIRST, LAST)
    assert [(row["day"], row["key"], row["model"], row["requests"], row["spend"]) for row in rows] == [
        ("2026-11-20", "laptop", "chat", 4, 2.0),
        ("2026-11-21", "laptop", "chat", 1, 1),
        ("2026-11-21", "without a name (deadbeef)", "chat", 1, 3),
    ]
    assert table(rows, FIRST, LAST) == [
        "key                        team  model  requests  failed  prompt  completion   spend",
        "laptop                           chat          5       0      40          20  3.0000",
        "without a name (deadbeef)        chat          1       0      10           5  3.0000",
        "",
        "2026-11-01 to 2026-11-21 (UTC): 6.0000 in all.",
    ]
    assert as_csv(rows).splitlines()[:2] == [
        "day,key,team,user,model,requests,failed,prompt_tokens,completion_tokens,spend",
        "2026-11-20,laptop,,eve,chat,4,0,30,15,2.0",
    ]


def test_nothing_and_nonsense() -> None:
    assert table([], FIRST, LAST) == ["Nothing was spent from 2026-11-01 to 2026-11-21."]
    with pytest.raises(InputError, match="must not be after"):
        spend(Pages(), LAST, FIRST)
