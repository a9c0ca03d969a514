# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directory that holds backups, each a directory named after its time. One that was interrupted never has such a name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import typing as t
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError

_NAME = re.compile(r"\d{8}T\d{6}Z")
_FORM = "%Y%m%dT%H%M%SZ"
_STAGED = ".unfinished-"


@dataclass(frozen=True)
class Keep:
    """How many stay: the last ones, and the newest of so many days, weeks and months that have any."""

    last: int = 1
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


def name_of(now: datetime) -> str:
    return now.astimezone(timezone.utc).strftime(_FORM)


def names(directory: Path) -> list[str]:
    """Of the backups that are whole, oldest first."""
    return sorted(path.name for path in directory.glob("*Z") if _NAME.fullmatch(path.name) and path.is_dir()) if directory.is_dir() else []


def expired(found: t.Sequence[str], keep: Keep) -> list[str]:
    """Which of them may go, oldest first. The newest never does."""
    newest_first = sorted(found, reverse=True)
    kept = set(newest_first[: max(1, keep.last)])
    for count, form in ((keep.daily, "%Y-%m-%d"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m")):
        spans: dict[str, str] = {}
        for name in newest_first:
            spans.setdefault(datetime.strptime(name, _FORM).strftime(form), name)
        kept.update(list(spans.values())[:count])
    return sorted(set(found) - kept)


def prune(directory: Path, keep: Keep) -> list[str]:
    """Remove those; returns their names. Renamed first, so that half a removal is no backup either."""
    gone = expired(names(directory), keep)
    for name in gone:
        doomed = directory / f"{_STAGED}{name}"
        os.rename(directory / name, doomed)
        shutil.rmtree(doomed)
    return gone


@contextlib.contextmanager
def alone(directory: Path) -> t.Iterator[None]:
    """One at a time; what an interrupted one left is removed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"Another backup is being made in {directory} right now: wait for it.") from None
        for left in directory.glob(f"{_STAGED}*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staged(directory: Path, name: str) -> t.Iterator[Path]:
    """A directory to fill. It becomes the backup ``name`` at the end, complete and on the disk, or is removed."""
    place = directory / f"{_STAGED}{name}"
    place.mkdir(mode=0o700)
    try:
        yield place
        _to_disk(place)
        os.rename(place, directory / name)
        _to_disk(directory)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _to_disk(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
