# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keys, teams and users between the inventory's words and LiteLLM's rows."""

from __future__ import annotations

import datetime as dt
import math
import typing as t
from collections.abc import Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import Item, expiry

Row = Mapping[str, t.Any]

OURS = "baremetal_llm"  # what is ours in the metadata; it also says that the row is
#: The inventory's word, LiteLLM's column.
COMMON = (
    ("models", "models"),
    ("max_budget", "max_budget"),
    ("budget_duration", "budget_duration"),
    ("requests_per_minute", "rpm_limit"),
    ("tokens_per_minute", "tpm_limit"),
)
FIELDS = {
    "team": COMMON,
    "user": (*COMMON, ("email", "user_email")),
    "key": (*COMMON, ("parallel", "max_parallel_requests"), ("team", "team_id"), ("user", "user_id"), ("expires", "expires")),
}
ROUTES = ["llm_api_routes"]  # a key may use the models, and none of LiteLLM's own routes
_CLOSE = 120  # seconds by which LiteLLM's clock and ours may differ in an expiry


def wanted(kind: str, item: Item) -> dict[str, t.Any]:
    """The columns that a row shall have; ``expires`` as a moment."""
    row: dict[str, t.Any] = {column: item.get(word) for word, column in FIELDS[kind]}
    row["models"] = list(item.get("models") or [])
    row["metadata"] = {**(item.get("metadata") or {}), OURS: {"managed": True}}
    row["max_budget"] = None if item.get("max_budget") is None else float(item["max_budget"])
    if kind == "key":
        row["expires"] = None if item.get("expires") is None else expiry(item["expires"])
        row["allowed_routes"] = ROUTES
    return row


def is_ours(row: Row) -> bool:
    return bool(notes(row))


def notes(row: Row) -> dict[str, t.Any]:
    """What we wrote down in a row: that it is ours, and of a rotated key what is carried over."""
    found = (row.get("metadata") or {}).get(OURS)
    return dict(found) if isinstance(found, Mapping) else {}


def with_notes(row: dict[str, t.Any], **added: t.Any) -> dict[str, t.Any]:
    mine = {**row["metadata"][OURS], **{name: value for name, value in added.items() if value is not None}}
    return {**row, "metadata": {**row["metadata"], OURS: mine}}


def differences(row: Row, wish: Row) -> dict[str, tuple[t.Any, t.Any]]:
    """Column -> what is there, what shall be; only where they differ."""
    found = {}
    for column, value in wish.items():
        there = row.get(column)
        if column == "expires":
            there = moment(there)
            if _same_moment(there, value):
                continue
        elif column in ("models", "allowed_routes"):
            there = list(there or [])
            if sorted(there) == sorted(value):
                continue
        elif column == "metadata":
            there = dict(there or {})
        if isinstance(value, float) and isinstance(there, (int, float)):
            if math.isclose(there, value, rel_tol=1e-9, abs_tol=1e-9):
                continue
        elif there == value:
            continue
        found[column] = (there, value)
    return found


def shown(kind: str, column: str, value: t.Any) -> str | None:
    """A value for the diff. Our own notes are no news to the reader."""
    if value is None or (isinstance(value, (list, dict)) and not value):
        return None
    if column == "metadata":
        value = {key: entry for key, entry in value.items() if key != OURS}
        return str(value) if value else None
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.timezone.utc).isoformat(timespec="minutes")
    return ", ".join(value) if isinstance(value, list) else str(value)


def word(kind: str, column: str) -> str:
    """The inventory's word for a column."""
    return next((name for name, mine in FIELDS[kind] if mine == column), column)


def moment(value: t.Any) -> dt.datetime | None:
    if value is None:
        return None
    if isinstance(value, dt.datetime):
        return value
    found = dt.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=dt.timezone.utc)


def as_request(columns: Mapping[str, t.Any], now: dt.datetime) -> dict[str, t.Any]:
    """LiteLLM is told how long a key lives, not when it ends."""
    body = dict(columns)
    if "expires" in body:
        ends = body.pop("expires")
        body["duration"] = None if ends is None else f"{max(1, math.ceil((ends - now).total_seconds()))}s"
    return body


def _same_moment(there: dt.datetime | None, value: dt.datetime | None) -> bool:
    if there is None or value is None:
        return there is value
    return abs((there - value).total_seconds()) <= _CLOSE
