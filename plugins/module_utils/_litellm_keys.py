# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes LiteLLM's keys, teams and users what the inventory says: reads what is there, plans, and carries the plan out."""

from __future__ import annotations

import datetime as dt
import typing as t
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import Item
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api, UnreachableError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_plan import Step, There, Work, keys, owners
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_rows import as_request, shown, word

_AT_ONCE = 8


@dataclass(frozen=True)
class Wish:
    keys: Sequence[Item]
    values: Mapping[str, str] = field(repr=False)
    teams: Sequence[Item] = ()
    users: Sequence[Item] = ()
    purge: bool = False


@dataclass(frozen=True)
class Outcome:
    changed: bool
    diff: dict[str, str]
    events: list[str]  # what was made, removed or rotated, in words


def apply(api: Api, wish: Wish, now: dt.datetime, check: bool) -> Outcome:
    """Raises InputError before anything is changed, and ApiError with what was done so far in place."""
    there = _read(api, check)
    stages = plan(wish, there, now)
    if not check:
        for stage in stages:
            _carry_out(api, stage, now)
    return _outcome([work for stage in stages for work in stage])


def plan(wish: Wish, there: There, now: dt.datetime) -> list[list[Work]]:
    """Stages, one after the other; what is in one stage may be done at the same time."""
    teams, old_teams = owners("team", wish.teams, there, wish.purge)
    users, old_users = owners("user", wish.users, there, wish.purge)
    return [teams, users, keys(wish.keys, wish.values, there, wish.purge, now), old_users, old_teams]


def _read(api: Api, check: bool) -> There:
    def teams() -> list[dict[str, t.Any]]:
        answer = api.get("/team/list")
        return answer if isinstance(answer, list) else []

    try:
        with ThreadPoolExecutor(3) as pool:
            found = [
                pool.submit(teams),
                pool.submit(api.pages, "/user/list", "users", "page_size"),
                pool.submit(api.pages, "/key/list", "keys", "size", return_full_object="true"),
            ]
            return There(*(one.result() for one in found))
    except UnreachableError:
        if check:
            return There()  # what check mode finds missing may be what the run would bring
        raise


def _carry_out(api: Api, stage: Sequence[Work], now: dt.datetime) -> None:
    failed: list[str] = []

    def one(work: Work) -> None:
        try:
            for step in work.steps:
                _do(api, step, now)
        except LLMError as exc:
            failed.append(f"{work.kind} {work.name}: {exc}")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, stage))
    if failed:
        more = f" ({len(failed) - 5} more like these)" if len(failed) > 5 else ""
        raise LLMError(" ".join(sorted(failed)[:5]) + more)


def _do(api: Api, step: Step, now: dt.datetime) -> None:
    body = as_request(step.body, now)
    if step.fresh:
        body["spend"] += float(api.get("/key/info", key=step.fresh)["info"].get("spend") or 0)
    api.post(step.path, body)


def _outcome(works: Sequence[Work]) -> Outcome:
    difference, events, changed = Difference(), [], False
    for work in works:
        changed = changed or bool(work.steps)
        what = f"{work.kind} {work.name}"
        if work.event:
            events.append(f"{what}: {work.event}")
            before, after = {"made": (None, "present"), "removed": ("present", None)}.get(work.event, ("as it was", work.event))
            difference.add(what, before, after)
        for column, before, after in work.shown:
            difference.add(f"{what}: {word(work.kind, column)}", shown(work.kind, column, before), shown(work.kind, column, after))
    return Outcome(changed, difference.as_dict(), events)
