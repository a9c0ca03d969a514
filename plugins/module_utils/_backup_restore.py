# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a dump in the place of LiteLLM's database: beside it first, compared row by row, then swapped by the names. The old one stays."""

from __future__ import annotations

import shutil
import typing as t
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _backup_database as database_of
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, Server
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import new_identity, unsealing
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import NoClient
from ansible_collections.baremetal.llm.plugins.module_utils._services import Services

STAGING = "restoring"
KEY = "key"


@dataclass(frozen=True)
class Place:
    """``services`` rest while names change; at their start LiteLLM brings older tables up to date."""

    database: str
    owner: str
    services: Services
    server: Server = field(default_factory=Server)


@dataclass(frozen=True)
class Ready:
    """``there`` is whether a database would be replaced. ``public_key`` is what a sealed dump has to be sealed to, so that only we can open it."""

    there: bool
    older: bool
    public_key: str = ""


@dataclass(frozen=True)
class Restored:
    """``old`` is what the database is called that was there; empty if there was none. ``older`` is whether its schema must be brought up to date."""

    old: str
    rows: int
    older: bool


def prepare(wanted: Contents, litellm: str, place: Place, directory: Path, *, sealed: bool, check: bool) -> Ready:
    """Refuses what can be refused, and makes ``directory`` for the dump, for us alone. What a killed restore left there goes."""
    try:
        there, older = _look(wanted, litellm, place)
    except (NoClient, database_of.NoServer):
        if not check:
            raise
        return Ready(there=False, older=False)  # a bare machine, which a run would make a gateway of first
    if check:
        return Ready(there, older)
    forget(directory)
    directory.mkdir(mode=0o700, parents=True)
    return Ready(there, older, new_identity(directory / KEY) if sealed else "")


def forget(directory: Path) -> None:
    """The dump and the key that opens it."""
    if directory.exists():
        shutil.rmtree(directory)


def restore(dump: Path, wanted: Contents, litellm: str, place: Place) -> Restored:
    """``litellm`` is the version that made the backup. Nothing is touched before the new database is proven to be the same as the backed-up one.

    A dump that is sealed to the key beside it is opened on its way into the database.
    """
    there, older = _look(wanted, litellm, place)
    staging = f"{place.database}_{STAGING}"
    database_of.drop(place.server, staging)  # of a restore that was killed
    identity = dump.parent / KEY
    through = unsealing(identity) if identity.exists() else ()
    found = database_of.restore(place.server, dump, staging, place.owner, through)
    differing = database_of.differences(wanted.tables, found.tables)
    if differing:
        database_of.drop(place.server, staging)
        raise BackupError(f"The restored database is not what was backed up, so it was not put in place: {'; '.join(differing)}.")
    old = f"{place.database}_before_{_now()}" if there else ""
    _exchange(place, staging, old or f"{place.database}_before")
    return Restored(old, sum(table.rows for table in found.tables.values()), older)


def give_back(old: str, place: Place) -> str:
    """The way back: the database that was there is in place again. Returns how the other one is called now."""
    failed = f"{place.database}_failed_{_now()}"
    _exchange(place, old, failed)
    return failed


def _exchange(place: Place, new: str, old: str) -> None:
    place.services.stop()
    try:
        database_of.swap(place.server, place.database, new, old)
    finally:
        place.services.start()


def _look(wanted: Contents, litellm: str, place: Place) -> tuple[bool, bool]:
    """Whether a database is there, and whether the backup's schema is older than its. Raises BackupError for what cannot be restored."""
    server = place.server
    if server.foreign and (lacking := database_of.lacking(server, place.database)):
        raise BackupError(
            f"{server.user} may not replace a database on {server.host}:{server.port}, so nothing was changed. Its administrator has to allow that for the "
            f"time of the restore: {lacking}."
        )
    there = database_of.exists(server, place.database)
    return there, _check_versions(wanted, litellm, place) if there else False


def _check_versions(wanted: Contents, litellm: str, place: Place) -> bool:
    """Raises BackupError for a backup of a newer PostgreSQL or a newer schema; returns whether its schema is older."""
    here = database_of.contents(place.server, place.database)
    if _major(wanted.postgresql) > _major(here.postgresql):
        raise BackupError(
            f"The backup is of PostgreSQL {wanted.postgresql}, this server is {here.postgresql}, and an older one cannot take a newer one's data: give it a "
            "newer PostgreSQL (postgresql_version, or a newer distribution)."
        )
    if wanted.migrations and not here.migrations:
        raise BackupError(f"LiteLLM has not made its tables in {place.database} yet, so nobody can tell whether they fit: run playbooks/gateway.yml first.")
    newer = sorted({*wanted.migrations} - {*here.migrations})
    version = litellm.partition("-")[0]  # its directory has a part of the requirements' sum behind it
    if newer:
        raise BackupError(
            f"The backup was made by LiteLLM {version or 'of another version'}, and this one does not know {len(newer)} of its changes to the tables (the last "
            f"is {newer[-1]}): set litellm_version to {version or 'that version'} or a newer one, and restore again."
        )
    return bool({*here.migrations} - {*wanted.migrations})


def _major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S")


def as_contents(manifest: t.Mapping[str, t.Any]) -> Contents:
    """Of a manifest that has come as a module's option."""
    tables = {str(name): database_of.Table(int(about["rows"]), str(about["sum"])) for name, about in manifest["tables"].items()}
    return Contents(str(manifest["postgresql"]), tables, tuple(manifest["migrations"]))
