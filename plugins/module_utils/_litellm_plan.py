# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to be done so that LiteLLM has the keys, teams and users of the inventory.

A rotated key has two rows for a while: the new one has the name, the old one ``<name>.previous`` and an end that LiteLLM itself keeps. The steps are
ordered so that a run that is killed between any two of them leaves what the next run recognises:

1. the old row is renamed, gets its end, and its share of what is left of the budget: half,
2. the new row is made with the old one's spend and the other half,
3. when the old one has ended, what it spent meanwhile is added to the new one, which gets the whole budget back; a note in the new row says that
   this has been done,
4. the old row is deleted.

So both together never spend more than the budget.
"""

from __future__ import annotations

import datetime as dt
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import DEFAULT_GRACE, PREVIOUS, Item, expiry, grace_seconds, is_absent, is_over
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import hashed
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_rows import (
    OURS,
    Row,
    differences,
    is_ours,
    moment,
    notes,
    wanted,
    with_notes,
)

_SETTLED = 16  # digits of the old key's hash that the note in the new row has
_CLOCKS = dt.timedelta(minutes=2)  # by which the clocks of the controller and of the gateway may differ
PATHS = {"team": "/team", "user": "/user", "key": "/key"}
NAMES = {"team": "team_id", "user": "user_id", "key": "key_alias"}


@dataclass(frozen=True)
class Step:
    """One request. ``fresh`` asks for the row's spend just before, since it may have grown: it is added to ``spend`` then."""

    path: str
    body: Mapping[str, t.Any] = field(repr=False)
    fresh: str = ""


@dataclass
class Work:
    """All steps for one name, in order, and what of it is worth showing."""

    kind: str
    name: str
    steps: list[Step] = field(default_factory=list)
    shown: list[tuple[str, t.Any, t.Any]] = field(default_factory=list)  # column, before, after
    event: str = ""  # made, removed, rotated, or the end of the previous key


@dataclass(frozen=True)
class There:
    """What LiteLLM has."""

    teams: Sequence[Row] = ()
    users: Sequence[Row] = ()
    keys: Sequence[Row] = ()

    def of(self, kind: str) -> dict[str, Row]:
        rows = {"team": self.teams, "user": self.users, "key": self.keys}[kind]
        return {str(row[NAMES[kind]]): row for row in rows if row.get(NAMES[kind])}


@dataclass(frozen=True)
class OneKey:
    name: str
    item: Item
    wish: dict[str, t.Any]  # the columns that it shall have
    value: str = field(repr=False)
    current: Row | None  # the row that has its name
    previous: Row | None  # the one that was rotated away

    @property
    def token(self) -> str:
        return hashed(self.value)


def owners(kind: str, items: Sequence[Item], there: There, purge: bool) -> tuple[list[Work], list[Work]]:
    """Teams or users: what is made and changed before the keys, and what is removed after them."""
    rows, before, after = there.of(kind), [], []
    named = {item["name"]: item for item in items}
    for name, item in named.items():
        row = rows.get(name)
        if is_absent(item):
            if row is not None:
                after.append(_removed(kind, name))
            continue
        wish = wanted(kind, item)
        found = differences(row, wish) if row is not None else {column: (None, value) for column, value in wish.items()}
        if not found:
            continue
        work = Work(kind, name, event="" if row is not None else "made", shown=_shown(found))
        body = {NAMES[kind]: name, **{column: value for column, (_before, value) in found.items()}}
        if row is None:
            body = {column: value for column, value in body.items() if value is not None}
            body.update({"team_alias": name} if kind == "team" else {"user_alias": name, "auto_create_key": False, "user_role": "internal_user"})
        work.steps.append(Step(f"{PATHS[kind]}/{'update' if row is not None else 'new'}", body))
        before.append(work)
    if purge:
        after += [_removed(kind, name) for name, row in rows.items() if name not in named and is_ours(row)]
    return before, after


def keys(items: Sequence[Item], values: Mapping[str, str], there: There, purge: bool, now: dt.datetime) -> list[Work]:
    """``values`` has the keys themselves by name. Raises InputError before anything is changed."""
    rows, by_hash = there.of("key"), {str(row["token"]): row for row in there.keys}
    named = {item["name"]: item for item in items}
    found = []
    for name, item in named.items():
        current, previous = rows.get(name), rows.get(name + PREVIOUS)
        if previous is not None and not is_ours(previous):
            previous = None
        if is_absent(item):
            found.append(_revoked(name, current, previous))
            continue
        if name not in values and is_over(item, now + _CLOCKS):
            found.append(_ended(name, item, current, now))
            continue
        if name not in values:
            raise InputError(f"key_values has no value for the key {name}: give it one.")
        one = OneKey(name, item, {"key_alias": name, **wanted("key", item)}, values[name], current, previous)
        _check(one, by_hash.get(one.token), now)
        found.append(_key(one, now))
    if purge:
        known = {*named, *(name + PREVIOUS for name in named)}
        for name, row in rows.items():
            if name not in known and is_ours(row):
                found.append(_revoked(name, row, None))
    return [work for work in found if work.steps]


def _key(one: OneKey, now: dt.datetime) -> Work:
    wish, current, previous, work = one.wish, one.current, one.previous, Work("key", one.name)
    if previous is not None and previous["token"] == one.token:  # the old key was put back
        return _put_back(work, wish, current, previous)
    if current is not None and current["token"] == one.token:
        return _kept(work, wish, current, previous, now)
    if current is not None:
        if previous is not None:  # the one before has to make room
            current = _settled(work, previous, current)
        step, previous = _renamed(one, current, now)
        work.steps.append(step)
        work.event = f"rotated, the old key lives for {one.item.get('grace', DEFAULT_GRACE)}" if grace_seconds(one.item) else "rotated, the old key has ended"
        work.shown = _shown({column: pair for column, pair in differences(current, wish).items() if column != "metadata"})
    else:
        work.event = "made" if previous is None else "rotated"
        work.shown = _shown({column: (None, after) for column, after in wish.items()})
    carried = notes(previous).get("spent_before") if previous is not None else None
    body = _of_the_new(wish, previous)
    body = {column: after for column, after in body.items() if after is not None}
    spend = {"spend": carried} if carried else {}
    work.steps.append(Step("/key/generate", {**body, **spend, "key": one.value}))
    return work


def _kept(work: Work, wish: dict[str, t.Any], current: Row, previous: Row | None, now: dt.datetime) -> Work:
    over = previous is not None and (moment(previous.get("expires")) or now) <= now
    mine = notes(current)
    if previous is not None and not over:
        found = differences(current, _of_the_new(wish, previous, mine))
    else:
        found = differences(current, with_notes(wish, settled=_mark(previous) if previous is not None else mine.get("settled")))
    if found:
        body = {"key": current["token"], **{column: value for column, (_before, value) in found.items()}}
        extra = _extra(previous, current) if previous is not None and over else 0.0
        # LiteLLM begins a new period with every budget_duration that it is told, so it is told one only where that changes.
        work.steps.append(Step("/key/update", {**body, **({"spend": extra} if extra else {})}, fresh=str(current["token"]) if extra else ""))
        work.shown = _shown(found)
    if previous is not None and over:
        work.steps.append(_delete(previous))
        work.event = "the previous key has ended"
    return work


def _settled(work: Work, previous: Row, current: Row) -> Row:
    """What the old key spent goes to the new one, and the old one goes."""
    extra = _extra(previous, current)
    if extra:
        metadata = {**(current.get("metadata") or {}), OURS: {**notes(current), "settled": _mark(previous)}}
        work.steps.append(Step("/key/update", {"key": current["token"], "metadata": metadata, "spend": extra}, fresh=str(current["token"])))
        current = {**current, "metadata": metadata, "spend": float(current.get("spend") or 0) + extra}
    work.steps.append(_delete(previous))
    return current


def _put_back(work: Work, wish: dict[str, t.Any], current: Row | None, previous: Row) -> Work:
    """The key file has the old key again: the newer one goes, and leaves what was spent with it."""
    mine = notes(previous)
    spend = float(previous.get("spend") or 0)
    if current is not None:
        spend += max(0.0, float(current.get("spend") or 0) - float(mine.get("spent_before") or 0))
        work.steps.append(_delete(current))
    work.steps.append(Step("/key/update", {"key": previous["token"], **wish, "spend": spend}))
    work.event = "the previous key is the key again"
    return work


def _renamed(one: OneKey, current: Row, now: dt.datetime) -> tuple[Step, Row]:
    wish = one.wish
    spent = float(current.get("spend") or 0)
    left = max(0.0, (wish["max_budget"] or 0.0) - spent)
    grace = grace_seconds(one.item)
    reserve = left / 2 if wish["max_budget"] is not None and grace else 0.0
    ends = now + dt.timedelta(seconds=grace or 1)
    if (sooner := moment(current.get("expires"))) is not None:
        ends = min(ends, sooner)
    mine = {"managed": True, "spent_before": spent, "reserve": reserve, "rotated": now.isoformat(timespec="seconds")}
    changed = {
        "key_alias": one.name + PREVIOUS,
        "expires": ends,
        "metadata": {**{key: value for key, value in (current.get("metadata") or {}).items() if key != OURS}, OURS: mine},
        **({"max_budget": spent + reserve, "budget_duration": None} if wish["max_budget"] is not None else {}),
    }
    return Step("/key/update", {"key": current["token"], **changed}), {**current, **changed}


def _of_the_new(wish: dict[str, t.Any], previous: Row | None, mine: Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
    """The new row as long as the old one lives: what is kept for the old one of the budget is not the new one's."""
    if previous is None:
        return wish
    kept = notes(previous)
    settled = (mine or {}).get("settled")
    reserve = float(kept.get("reserve") or 0)
    budget = {} if wish["max_budget"] is None else {"max_budget": max(0.0, wish["max_budget"] - reserve)}
    return with_notes({**wish, **budget}, carried=kept.get("spent_before"), settled=settled)


def _extra(previous: Row, current: Row) -> float:
    """What the old key spent after the new one was made, as far as nobody added it yet and the new one's budget has not begun anew since."""
    kept = notes(previous)
    if notes(current).get("settled") == _mark(previous):
        return 0.0
    if float(current.get("spend") or 0) + 1e-9 < float(notes(current).get("carried") or 0):
        return 0.0
    return max(0.0, float(previous.get("spend") or 0) - float(kept.get("spent_before") or 0))


def _mark(previous: Row) -> str:
    return str(previous["token"])[:_SETTLED]


def _check(one: OneKey, same: Row | None, now: dt.datetime) -> None:
    """``same`` is the row that has its value."""
    name, ends = one.name, one.wish["expires"]
    if one.current is not None and not is_ours(one.current) and one.current["token"] != one.token:
        raise InputError(
            f"LiteLLM has a key called {name} that somebody else made, with another value: delete it there, or give yours in llm_keys another name."
        )
    if same is not None and same.get("key_alias") not in (name, name + PREVIOUS):
        raise InputError(
            f"The value of the key {name} is in LiteLLM already, as {same.get('key_alias') or 'a key without a name'}: delete that one, or rotate {name}."
        )
    if one.current is None and one.previous is None and ends is not None and ends <= now:
        raise InputError(f"The key {name} would be made with an end in the past ({ends:%Y-%m-%d %H:%M %Z}): give it a later expires.")


def _revoked(name: str, current: Row | None, previous: Row | None) -> Work:
    rows = [row for row in (current, previous) if row is not None]
    if not rows:
        return Work("key", name)
    return Work("key", name, [Step("/key/delete", {"keys": [row["token"] for row in rows]})], event="removed")


def _ended(name: str, item: Item, current: Row | None, now: dt.datetime) -> Work:
    """A key that has expired has no value any more. LiteLLM ends it by itself, unless it knew of another end."""
    work, ends = Work("key", name), moment((current or {}).get("expires"))
    if current is not None and is_ours(current) and (ends is None or ends > now + _CLOCKS):
        work.steps.append(Step("/key/update", {"key": current["token"], "expires": now}))
        work.shown = [("expires", ends, expiry(item["expires"]))]
    return work


def _delete(row: Row) -> Step:
    return Step("/key/delete", {"keys": [row["token"]]})


def _removed(kind: str, name: str) -> Work:
    return Work(kind, name, [Step(f"{PATHS[kind]}/delete", {f"{kind}_ids": [name]})], event="removed")


def _shown(found: Mapping[str, tuple[t.Any, t.Any]]) -> list[tuple[str, t.Any, t.Any]]:
    return [(column, before, after) for column, (before, after) in found.items() if column not in ("key_alias", "allowed_routes")]
