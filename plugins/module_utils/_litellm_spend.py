# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was spent, by day, key and model, out of LiteLLM's daily records, which only ever grow: a new period of a budget does not empty them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import typing as t
from collections.abc import Iterable, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import PREVIOUS
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api

COLUMNS = ("day", "key", "team", "user", "model", "requests", "failed", "prompt_tokens", "completion_tokens", "spend")
_COUNTS = {
    "requests": "api_requests",
    "failed": "failed_requests",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "spend": "spend",
}
_PAGE = 1000

Row = dict[str, t.Any]


def spend(api: Api, first: dt.date, last: dt.date) -> list[Row]:
    """One row for each day, key and model. A key and the one before its rotation are one. Raises InputError and ApiError."""
    if first > last:
        raise InputError(f"first is {first} and last is {last}: the first day must not be after the last.")
    found: dict[tuple[str, ...], Row] = {}
    page, more = 1, True
    while more:
        answer = api.get("/user/daily/activity", start_date=first.isoformat(), end_date=last.isoformat(), page=page, page_size=_PAGE)
        for row in _rows(answer):
            known = found.setdefault(tuple(row[name] for name in ("day", "key", "model")), {**row, **dict.fromkeys(_COUNTS, 0)})
            for name in _COUNTS:
                known[name] += row[name]
        page, more = page + 1, bool(answer["metadata"].get("has_more"))
    return [found[name] for name in sorted(found)]


def totals(rows: Iterable[Row]) -> list[Row]:
    """The same without the days, the dearest first."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        known = found.setdefault((row["key"], row["model"]), {**row, **dict.fromkeys(_COUNTS, 0)})
        for name in _COUNTS:
            known[name] += row[name]
    return sorted(found.values(), key=lambda row: (-row["spend"], row["key"], row["model"]))


def table(rows: Iterable[Row], first: dt.date, last: dt.date) -> list[str]:
    heads = ("key", "team", "model", "requests", "failed", "prompt", "completion", "spend")
    lines = [[row["key"], row["team"], row["model"], *(str(row[name]) for name in list(_COUNTS)[:4]), f"{row['spend']:.4f}"] for row in totals(rows)]
    if not lines:
        return [f"Nothing was spent from {first} to {last}."]
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]
    sides = ["<"] * 3 + [">"] * 5
    shown = ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths)).rstrip() for line in (heads, *lines)]
    total = sum(float(line[-1]) for line in lines)
    return [*shown, "", f"{first} to {last} (UTC): {total:.4f} in all."]


def as_csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(answer: Mapping[str, t.Any]) -> t.Iterator[Row]:
    for day in answer["results"]:
        for model, of_model in day["breakdown"]["models"].items():
            for token, of_key in of_model["api_key_breakdown"].items():
                known, metrics = of_key.get("metadata") or {}, of_key["metrics"]
                yield {
                    "day": day["date"],
                    "key": _name(known.get("key_alias"), token),
                    "team": known.get("team_id") or "",
                    "user": known.get("user_id") or "",
                    "model": model.rpartition("/")[2],
                    **{name: metrics.get(theirs) or 0 for name, theirs in _COUNTS.items()},
                }


def _name(alias: str | None, token: str) -> str:
    """LiteLLM keeps the hash of a key that has no name: a few digits tell it from others and give nothing away."""
    return alias.removesuffix(PREVIOUS) if alias else f"without a name ({token[:8]})"
