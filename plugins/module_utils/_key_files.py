# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The keys on the controller: ``keys/<name>`` is the key, ``keys/<name>.previous`` the one before it and when that ends, ``keys/<name>.removed`` one that
was purged.

A rotation writes the second before the first, so whoever comes after one that was killed in between sees the same key in both and finishes it.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import typing as t
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import (
    NAME,
    PREVIOUS,
    REMOVED,
    Item,
    alive,
    grace_seconds,
    is_absent,
    rotation_day,
    seconds,
)
from ansible_collections.baremetal.llm.plugins.module_utils._secrets import RANDOM_BYTES, ensure_secret

PREFIX = "sk-"  # LiteLLM insists on it


@dataclass(frozen=True)
class Change:
    """What is to be done with the files of one key: ``rotate``, ``forget`` (the previous one), ``remove`` (all of it) or ``set aside`` (for the user)."""

    name: str
    what: str
    why: str


def with_keys(keys: Iterable[Item], directory: str, now: dt.datetime) -> list[dict[str, t.Any]]:
    """Those who are let in, each with its ``key``: the user's own, or one made in ``keys/<name>``; in a time of grace the ``previous_key`` too."""
    found = []
    for key in alive(keys, now):
        own = key.get("key")
        item = {**key, "key": own or ensure_secret(directory, f"keys/{key['name']}", PREFIX)}
        previous = None if own else _previous(_path(directory, key["name"]))
        if previous and previous[1] > now and previous[0] != item["key"]:
            item["previous_key"] = previous[0]
        found.append(item)
    return found


def planned(keys: Iterable[Item], directory: str, rotate: Collection[str], now: dt.datetime, purge: bool = False) -> list[Change]:
    """What a run has to do with the files. Raises InputError for a name in ``rotate`` that has no key here.

    A key that is absent was named by somebody. One that is purged was not, and may be missing by mistake, so its file is kept under another name.
    """
    keys = list(keys)
    named = {key["name"] for key in keys if not is_absent(key)}
    if unknown := sorted(set(rotate) - named):
        raise InputError(f"llm_rotate names {', '.join(unknown)}, which llm_keys does not have: there is: {', '.join(sorted(named))}.")
    found = []
    for key in keys:
        name, path = key["name"], _path(directory, key["name"])
        previous = _previous(path)
        if is_absent(key):
            if path.exists() or previous:
                found.append(Change(name, "remove", "it is absent"))
            continue
        if key.get("key") or key.get("given"):
            if name in rotate:
                raise InputError(f"llm_rotate names {name}, whose key is given in the inventory: change it there.")
            continue
        why = _due(key, path, previous, rotate, now)
        if why:
            found.append(Change(name, "rotate", why))
        elif previous and previous[1] <= now:
            found.append(Change(name, "forget", "its grace is over"))
    if purge:
        found += [Change(name, "set aside", "llm_keys does not name it") for name in _unlisted({key["name"] for key in keys}, directory)]
    return found


def carry_out(change: Change, key: Item, directory: str, now: dt.datetime) -> None:
    path = _path(directory, change.name)
    if change.what in ("remove", "forget"):
        if change.what == "remove":
            path.unlink(missing_ok=True)
        _beside(path).unlink(missing_ok=True)
        return
    if change.what == "set aside":
        os.replace(path, path.with_name(path.name + REMOVED))
        _beside(path).unlink(missing_ok=True)
        return
    old = path.read_text().strip()
    previous = _previous(path)
    if not previous or previous[0] != old:
        ends = now + dt.timedelta(seconds=grace_seconds(key))
        _replace(_beside(path), f"{old}\n{ends.isoformat(timespec='seconds')}\n")
    _replace(path, f"{PREFIX}{secrets.token_hex(RANDOM_BYTES)}\n")


def read_key(directory: str, name: str) -> str | None:
    try:
        return _path(directory, name).read_text().strip()
    except OSError:
        return None


def _due(key: Item, path: Path, previous: tuple[str, dt.datetime] | None, rotate: Collection[str], now: dt.datetime) -> str:
    """Why the key is to be rotated now, or nothing. A key that has never been made is not old."""
    try:
        current, made = path.read_text().strip(), dt.datetime.fromtimestamp(path.stat().st_mtime, dt.timezone.utc)
    except FileNotFoundError:
        return ""
    if previous and previous[0] == current:
        return "a rotation was interrupted"
    if key["name"] in rotate:
        return "llm_rotate names it"
    if key.get("rotate") is not None and made < rotation_day(key["rotate"]) <= now:
        return f"it is older than {key['rotate']}"
    if key.get("rotate_after") is not None and (now - made).total_seconds() >= seconds(key["rotate_after"]):
        return f"it is older than {key['rotate_after']}"
    return ""


def _unlisted(listed: Collection[str], directory: str) -> list[str]:
    try:
        names = sorted(path.name for path in Path(directory, "keys").iterdir() if path.is_file())
    except FileNotFoundError:
        return []
    return [name for name in names if name not in listed and NAME.fullmatch(name) and not name.endswith((PREVIOUS, REMOVED))]


def _path(directory: str, name: str) -> Path:
    return Path(directory, "keys", name)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + PREVIOUS)


def _previous(path: Path) -> tuple[str, dt.datetime] | None:
    try:
        key, ends = _beside(path).read_text().split()
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{_beside(path)} cannot be read: it should have a key and, on the next line, when it ends. Remove it.") from None
    return key, dt.datetime.fromisoformat(ends)


def _replace(path: Path, content: str) -> None:
    """Whole or not at all, and for nobody else to read."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(staged, path)
