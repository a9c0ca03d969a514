# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a user writes about keys, teams and users: the fields, the times in them, and who has a key at the moment."""

from __future__ import annotations

import datetime as dt
import re
import typing as t
from collections.abc import Iterable, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

Item = Mapping[str, t.Any]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PREVIOUS = ".previous"  # what follows the name of a key that was rotated away and still has its grace
REMOVED = ".removed"  # and that of the file of a key that was purged
DEFAULT_GRACE = "24h"

#: Fields that a key, a team and a user have in common.
SHARED_FIELDS = frozenset({"name", "state", "models", "max_budget", "budget_duration", "requests_per_minute", "tokens_per_minute", "metadata"})
KEY_FIELDS = SHARED_FIELDS | {"key", "team", "user", "parallel", "burst", "expires", "rotate_after", "grace", "rotate"}
TEAM_FIELDS = SHARED_FIELDS
USER_FIELDS = SHARED_FIELDS | {"email"}
#: What only LiteLLM with its database can hold.
DATABASE_FIELDS = ("models", "max_budget", "tokens_per_minute", "team", "user")

_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d|w|mo)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400}
_DAY = dt.timedelta(days=1)


def seconds(value: t.Any, months: bool = False) -> int:
    """A duration such as ``90d`` in seconds. A month, where it is allowed, counts 30 days here. Raises InputError."""
    found = _DURATION.fullmatch(str(value))
    if not found or (found[2] == "mo" and not months):
        units = "s, m, h, d, w or mo" if months else "s, m, h, d or w"
        raise InputError(f"it must be a whole number with {units} behind it, such as 30d")
    return int(found[1]) * _SECONDS[found[2]]


def period_seconds(value: t.Any) -> int:
    """The period of a budget; LiteLLM refuses several months. Raises InputError."""
    found = seconds(value, months=True)
    if str(value).endswith("mo") and str(value) != "1mo":
        raise InputError("of months it can only be 1mo")
    return found


def moves_with_a_rotation(period: t.Any) -> bool:
    """LiteLLM ends periods at fixed times: midnight, Monday for 7d, the first of the month for 30d and 1mo. Other days it counts from when a key is made."""
    found = _DURATION.fullmatch(str(period))
    return found is not None and found[2] in "dw" and int(found[1]) * _SECONDS[found[2]] // _SECONDS["d"] not in (1, 7, 30)


def grace_seconds(key: Item) -> int:
    """How long the old key lives on after a rotation. 0 is a duration here: it ends at once."""
    grace = key.get("grace", DEFAULT_GRACE)
    return 0 if str(grace) in ("0", "0s") else seconds(grace)


def expiry(value: t.Any) -> dt.datetime:
    """The moment at which a key ends: a day is used up whole, a time without a zone is UTC. Raises InputError."""
    if isinstance(value, dt.datetime):
        moment = value
    elif isinstance(value, dt.date):
        moment = dt.datetime(value.year, value.month, value.day) + _DAY
    else:
        text = str(value)
        try:
            moment = dt.datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
        except ValueError:
            raise InputError("it must be a day or a time, such as 2027-06-30 or 2027-06-30T18:00:00Z") from None
        moment += _DAY if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else dt.timedelta()
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)


def rotation_day(value: t.Any) -> dt.datetime:
    """Keys that were made before this moment are rotated. Not a mere "yes", which would rotate again with every run. Raises InputError."""
    if isinstance(value, bool):
        raise InputError("say since when, such as 2026-11-21: a key that is older is rotated once; or rotate now with -e llm_rotate=<name>")
    moment = expiry(value)
    is_day = not isinstance(value, dt.datetime) and len(str(value)) == len("2026-11-21")
    return moment - _DAY if is_day else moment


def is_absent(item: Item) -> bool:
    return item.get("state", "present") == "absent"


def is_over(key: Item, now: dt.datetime) -> bool:
    return key.get("expires") is not None and expiry(key["expires"]) <= now


def alive(keys: Iterable[Item], now: dt.datetime) -> list[Item]:
    """The keys that the front door knows."""
    return [key for key in keys if not is_absent(key) and not is_over(key, now)]


def key_warnings(keys: Iterable[Item], database: bool, now: dt.datetime) -> list[str]:
    """What is said of ``llm_keys`` and stops nothing: limits that nothing here can hold, and keys that have ended."""
    found = []
    present = [key for key in keys if not is_absent(key)]
    for key in present:
        if is_over(key, now):
            found.append(f"The key of {key['name']} expired on {key['expires']}: it is let in no more. Take it out, or give it a later expires.")
        if key.get("budget_duration") is not None and moves_with_a_rotation(key["budget_duration"]) and (key.get("rotate_after") or key.get("rotate")):
            found.append(
                f"The budget of {key['name']} begins anew with every rotation, as LiteLLM counts its {key['budget_duration']} from the day on which a key "
                "is made: 1d, 7d, 30d and 1mo have fixed days."
            )
    if database:
        return found
    for field in DATABASE_FIELDS:
        names = [str(key["name"]) for key in present if key.get(field) is not None]
        if names:
            found.append(f"Without llm_database nothing holds {field} of {', '.join(names)}: Nginx lets these keys do what all others may.")
    timed = [str(key["name"]) for key in present if key.get("expires") is not None and not is_over(key, now)]
    if timed:
        found.append(f"Without llm_database expires of {', '.join(timed)} takes effect with the first run of playbooks/keys.yml after it.")
    return found


#: Which fields each of those who take keys is given, so that nobody sees more than that.
_FOR_LITELLM = sorted(KEY_FIELDS - {"key", "burst", "rotate", "rotate_after"})
_TAKEN = {
    "litellm": _FOR_LITELLM,
    "files": ["name", "state", "rotate", "rotate_after", "grace"],
    "front_door": ["name", "key", "previous_key", "requests_per_minute", "burst", "parallel"],
}


def key_fields(keys: Iterable[Item], taker: str) -> list[dict[str, t.Any]]:
    """The keys as ``taker`` takes them: litellm and files without values, front_door with them."""
    found = []
    for key in keys:
        item = {field: key[field] for field in _TAKEN[taker] if key.get(field) is not None}
        if taker == "litellm" and "expires" in item:
            item["expires"] = expiry(item["expires"]).isoformat()
        if taker == "files":
            item.update({"rotate": str(item["rotate"])} if "rotate" in item else {})
            item["given"] = key.get("key") is not None
        found.append(item)
    return found
