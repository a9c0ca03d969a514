# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with ``llm_keys``, ``llm_teams`` and ``llm_users``: each a sentence with the field, the value, the host and the remedy."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable, Collection, Iterator, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import (
    KEY_FIELDS,
    NAME,
    PREVIOUS,
    REMOVED,
    TEAM_FIELDS,
    USER_FIELDS,
    Item,
    expiry,
    grace_seconds,
    is_absent,
    period_seconds,
    rotation_day,
    seconds,
)
from ansible_collections.baremetal.llm.plugins.module_utils._words import one_of

Variables = Mapping[str, t.Any]

MINIMAL_KEY_LENGTH = 32
STATES = ("present", "absent")
OURS = "baremetal_llm"  # the part of the metadata that is ours
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{32,200}")  # what Nginx takes
_SK = re.compile(r"sk-[A-Za-z0-9_-]{16,128}")  # what LiteLLM takes, and Nginx passes on
_FITTING = "sk-" + "0" * 64  # what a key that is yet to be made will look like
_MAP_WORDS = ("default", "hostnames", "include", "volatile")  # an Nginx `map` takes them for its own parameters
_COUNTS = {"requests_per_minute": 1, "tokens_per_minute": 1, "parallel": 1, "burst": 0}  # each with its least value
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def keys_errors(host: str, variables: Variables, catalogue: Variables) -> list[str]:
    """``variables`` are those of a gateway, ``catalogue`` is llm_models."""
    if "llm_clients" in variables:
        return [f"llm_clients of {host} has a new name: rename it to llm_keys."]
    found = [*_list_errors(host, variables)]
    if found:
        return found
    keys, teams, users = (list(variables.get(name) or []) for name in ("llm_keys", "llm_teams", "llm_users"))
    database = variables.get("llm_database", False)
    if not isinstance(database, bool):
        return [f"llm_database of {host} is {database!r}: it must be true or false."]
    routes = variables.get("llm_routes")
    names = [*catalogue, *(routes if isinstance(routes, Mapping) else ())]
    for variable, items, fields in (("llm_teams", teams, TEAM_FIELDS), ("llm_users", users, USER_FIELDS), ("llm_keys", keys, KEY_FIELDS)):
        where = f"{variable} of {host}"
        found += _name_errors(where, items)
        for item in items:
            found += _item_errors(f"{where}: {item.get('name')}", item, fields, names)
            if database and not is_absent(item) and item.get("max_budget") is not None:
                found += _price_errors(f"{where}: {item.get('name')}", item, catalogue)
    where = f"llm_keys of {host}"
    for key in keys:
        found += _value_errors(where, key, database)
    found += _twins(where, keys)
    if not any(not is_absent(key) for key in keys):
        found.append(f"{where} has nobody who is present: list at least one, or nobody can use the models.")
    if not found:
        for key in keys:
            if not is_absent(key):
                found += _owner_errors(f"{where}: {key['name']}", key, {"team": teams, "user": users})
    return found


def shared_database_errors(hostvars: Mapping[str, Variables], gateways: t.Sequence[str]) -> list[str]:
    """Several gateways with one database: it must be one, and they must count together."""
    with_database = [host for host in gateways if hostvars[host].get("llm_database") is True]
    if len(gateways) < 2 or not with_database:
        return []
    found = [
        f"llm_database of {host} is false, but true of {with_database[0]}: the keys of one would be unknown to the other, give all gateways the same."
        for host in gateways
        if host not in with_database
    ]
    for host in with_database:
        if not hostvars[host].get("postgresql_external"):
            found.append(
                f"{host} is one of {len(gateways)} gateways with llm_database, but has no postgresql_external: every gateway would have keys and budgets "
                "of its own. Set postgresql_external to one server for all, or keep one gateway."
            )
        if not hostvars[host].get("litellm_redis"):
            found.append(
                f"{host} is one of {len(gateways)} gateways with llm_database, but has no litellm_redis: each would let the whole limit through. Set "
                "litellm_redis to one server for all (role valkey makes one), or keep one gateway."
            )
        for variable in ("llm_keys", "llm_teams", "llm_users"):
            if (hostvars[host].get(variable) or []) != (hostvars[with_database[0]].get(variable) or []):
                found.append(f"{variable} of {host} differs from that of {with_database[0]}, but they share a database: move it to group_vars/all.")
    return found


def key_file_errors(host: str, variables: Variables, read: Callable[[str], str | None], rotated: Collection[str] = ()) -> list[str]:
    """Keys that were made before there was a database. ``read`` returns the content of the file of a name, if there is one.

    Those that are about to be ``rotated`` get a new one.
    """
    if not variables.get("llm_database"):
        return []
    made_here = [str(key["name"]) for key in variables.get("llm_keys") or [] if not key.get("key") and not is_absent(key)]
    old = [name for name in made_here if name not in rotated and not _SK.fullmatch(read(name) or _FITTING)]
    if not old:
        return []
    return [
        f"llm_keys of {host}: the key files of {', '.join(old)} were made without a database and do not begin with sk-, which LiteLLM with one insists on. "
        f"Run this again with -e llm_rotate={','.join(old)}: they get new keys, and the old ones end at once."
    ]


def _list_errors(host: str, variables: Variables) -> Iterator[str]:
    for variable, least in (("llm_keys", 1), ("llm_teams", 0), ("llm_users", 0)):
        items = variables.get(variable)
        if items is None and not least:
            continue
        if not isinstance(items, list) or len(items) < least or not all(isinstance(item, Mapping) for item in items):
            yield f"{variable} of {host} is {_shown(items)}: it must be a list of mappings with at least a name, such as [{{name: laptop}}]."
        elif items and not least and not variables.get("llm_database"):
            yield f"{variable} of {host} needs LiteLLM's database: set llm_database to true, or take {variable} out."


def _shown(items: t.Any) -> str:
    """Without what could be a key."""
    return "a list of something else" if isinstance(items, list) and items else repr(items) if not isinstance(items, Mapping) else "a mapping"


def _name_errors(where: str, items: t.Sequence[Item]) -> Iterator[str]:
    names = [item.get("name") for item in items]
    for name in dict.fromkeys(str(name) for name in names):
        if not NAME.fullmatch(name) or name in _MAP_WORDS:
            yield f"{where}: {name!r} is no name here: use up to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit."
        elif name.endswith((PREVIOUS, REMOVED)):
            yield f"{where}: {name} ends in {PREVIOUS} or {REMOVED}, which are kept for keys that are over: choose another name."
        elif names.count(name) > 1:
            yield f"{where} names {name} {names.count(name)} times: each has one entry."


def _item_errors(where: str, item: Item, fields: Collection[str], models: Collection[str]) -> Iterator[str]:
    for field in sorted(set(item) - set(fields)):
        yield f"{where} has the unknown field {field!r}: {one_of(field, fields)}."
    if item.get("state", "present") not in STATES:
        yield f"{where} has the state {item['state']!r}: {one_of(item['state'], STATES)}."
    for field, least in _COUNTS.items():
        value = item.get(field)
        if value is not None and field in fields and not (_whole(value) and value >= least):
            yield f"{where} has {field} {value!r}: it must be a whole number of at least {least}."
    yield from _budget_errors(where, item)
    wanted = item.get("models")
    if wanted is not None and (not isinstance(wanted, list) or not wanted):
        yield f"{where} has models {wanted!r}: list at least one model or route, or leave it out to allow all."
    elif wanted:
        for name in wanted:
            if name not in models:
                yield f"{where} may use {name!r}, which is neither in llm_models nor in llm_routes: {one_of(name, models)}."
    metadata = item.get("metadata")
    if metadata is not None and (not isinstance(metadata, Mapping) or OURS in metadata):
        yield f"{where} has metadata {metadata!r}: it must be a mapping, and {OURS} in it is ours."
    if item.get("email") is not None and not _EMAIL.fullmatch(str(item["email"])):
        yield f"{where} has the email {item['email']!r}, which is no address."
    yield from _times_errors(where, item, fields)


def _times_errors(where: str, item: Item, fields: Collection[str]) -> Iterator[str]:
    for field, read in (("rotate_after", seconds), ("rotate", rotation_day), ("expires", expiry)):
        if item.get(field) is not None and field in fields:
            yield from _time_errors(where, field, item[field], read)
    if item.get("grace") is not None and "grace" in fields:
        yield from _time_errors(where, "grace", item["grace"], lambda _value: grace_seconds(item))


def _time_errors(where: str, field: str, value: t.Any, read: Callable[[t.Any], t.Any]) -> Iterator[str]:
    try:
        read(value)
    except InputError as exc:
        yield f"{where} has {field} {value!r}: {exc}."


def _budget_errors(where: str, item: Item) -> Iterator[str]:
    budget, period = item.get("max_budget"), item.get("budget_duration")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 <= budget < 1e12):
        yield f"{where} has max_budget {budget!r}: it must be an amount of money, 0 or more."
    if period is not None:
        yield from _time_errors(where, "budget_duration", period, period_seconds)
    if (budget is None) != (period is None):
        missing, given = ("budget_duration", "max_budget") if period is None else ("max_budget", "budget_duration")
        yield f"{where} has {given} without {missing}: a budget is an amount and its period, such as max_budget: 20 with budget_duration: 1mo."


def _price_errors(where: str, item: Item, models: Variables) -> Iterator[str]:
    wanted = item.get("models")
    used = wanted if isinstance(wanted, list) and all(name in models for name in wanted) else models  # a route leads anywhere
    free = [name for name, entry in models.items() if name in used and isinstance(entry, Mapping) and entry.get("price") is None]
    if free:
        yield (
            f"{where} has a max_budget, but {', '.join(free)} in llm_models has no price, so that nothing of it would ever count: give it a price, such as "
            "{input: 0.5, output: 1.5} per million tokens, or {input: 0, output: 0} if it shall cost nothing."
        )


def _value_errors(where: str, key: Item, database: bool) -> Iterator[str]:
    value, name = key.get("key"), key.get("name")
    if value is None:
        return
    if len(str(value)) < MINIMAL_KEY_LENGTH or not _KEY.fullmatch(str(value)):
        yield (
            f"{where}: the key of {name} is shorter than {MINIMAL_KEY_LENGTH} characters or has some that a header cannot carry: leave it out, and one is made."
        )
    elif database and not _SK.fullmatch(str(value)):
        yield f"{where}: the key of {name} does not begin with sk- as LiteLLM with a database insists on: give it another, or leave it out, and one is made."
    for field in ("rotate_after", "rotate"):
        if key.get(field):
            yield f"{where}: {name} has a key of its own and {field}: change the key where it is written, or leave it out, and it is made and rotated here."


def _twins(where: str, keys: t.Sequence[Item]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for key in keys:
        if key.get("key"):
            other = owners.setdefault(str(key["key"]).lower(), str(key.get("name")))
            if other != key.get("name"):
                yield f"{where}: {other} and {key.get('name')} have the same key (Nginx ignores case): give each its own."


def _owner_errors(where: str, key: Item, owners: Mapping[str, t.Sequence[Item]]) -> Iterator[str]:
    """A key may do no more than its team or its user."""
    for kind, items in owners.items():
        wanted = key.get(kind)
        if wanted is None:
            continue
        known = {item["name"]: item for item in items if not is_absent(item)}
        if wanted not in known:
            yield f"{where} belongs to the {kind} {wanted!r}, which is not present in llm_{kind}s: {one_of(wanted, known)}."
            continue
        owner = known[wanted]
        for field in ("requests_per_minute", "tokens_per_minute"):
            if key.get(field) is not None and owner.get(field) is not None and key[field] > owner[field]:
                yield f"{where} has {field} {key[field]}, more than the {owner[field]} of its {kind} {wanted}: lower it, or raise the {kind}'s."
        if key.get("max_budget") is not None and owner.get("max_budget") is not None and _dearer(key, owner):
            yield (
                f"{where} has max_budget {key['max_budget']} per {key['budget_duration']}, more than the {owner['max_budget']} per "
                f"{owner['budget_duration']} of its {kind} {wanted}: lower it, or raise the {kind}'s."
            )
        if owner.get("models"):
            for model in sorted(set(key.get("models") or []) - set(owner["models"])):
                yield f"{where} may use {model}, but its {kind} {wanted} may not: take it out, or add it to the {kind}."


def _dearer(key: Item, owner: Item) -> bool:
    """Of the same budget a shorter period gives more."""
    same_or_shorter = period_seconds(key["budget_duration"]) <= period_seconds(owner["budget_duration"])
    return same_or_shorter and bool(key["max_budget"] > owner["max_budget"])


def _whole(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
