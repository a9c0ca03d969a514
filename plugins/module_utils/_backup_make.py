# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make one backup, look at it again, remove those that may go, and say so where monitoring can read it."""

from __future__ import annotations

import json
import os
import shutil
import time
import typing as t
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Server, dump
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError, Manifest
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import check_recipients, sealing
from ansible_collections.baremetal.llm.plugins.module_utils._backup_store import Keep, alone, name_of, names, prune, staged


@dataclass(frozen=True)
class Settings:
    """What the unit reads from its file. ``secrets`` is what the role has put there, in the clear or sealed; empty for none."""

    directory: str
    host: str
    key_file: str
    success_file: str
    database: str = "litellm"
    salt_file: str = ""
    secrets: str = ""
    litellm: str = "/opt/llm/litellm/current"
    recipients: tuple[str, ...] = ()
    server: Server = field(default_factory=Server)
    keep: Keep = field(default_factory=Keep)


@dataclass(frozen=True)
class Made:
    name: str
    bytes: int
    seconds: float
    rows: int
    pruned: tuple[str, ...]


def load(path: Path) -> Settings:
    found: dict[str, t.Any] = json.loads(path.read_text())
    server, keep = Server(**found.pop("server", {})), Keep(**found.pop("keep", {}))
    return Settings(**{**found, "recipients": tuple(found.get("recipients", ())), "server": server, "keep": keep})


def make(settings: Settings) -> Made:
    """An error leaves no backup, and the last-success file as it was."""
    check_recipients(settings.recipients)
    key = Path(settings.key_file).read_text().strip()
    begin, directory = time.monotonic(), Path(settings.directory)
    with alone(directory):
        name = name_of(datetime.now(timezone.utc))
        if name in names(directory):
            raise BackupError(f"{directory / name} was made within this very second: wait for one.")
        with staged(directory, name) as place:
            manifest = _fill(place, settings)
            manifests.write(place, manifest, key)
            manifests.verify(place, key)  # as it lies on the disk
        pruned = tuple(prune(directory, settings.keep))
    made = Made(
        name=name,
        bytes=sum(path.stat().st_size for path in (directory / name).iterdir()),
        seconds=round(time.monotonic() - begin, 1),
        rows=sum(table.rows for table in manifest.tables.values()),
        pruned=pruned,
    )
    _remember(Path(settings.success_file), made)
    return made


def _fill(place: Path, settings: Settings) -> Manifest:
    ending = manifests.ENCRYPTED if settings.recipients else ""
    dumped = place / f"{manifests.DUMP}{ending}"
    contents = dump(settings.server, settings.database, dumped, sealing(settings.recipients) if settings.recipients else ())
    if settings.secrets:
        source = Path(settings.secrets)
        shutil.copyfile(source, place / source.name)
        (place / source.name).chmod(0o600)
    salt = Path(settings.salt_file).read_text().strip() if settings.salt_file and os.path.exists(settings.salt_file) else ""
    return Manifest(
        installation=manifests.installation(Path(settings.key_file).read_text().strip()),
        host=settings.host,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        database=settings.database,
        postgresql=contents.postgresql,
        litellm=os.path.basename(os.path.realpath(settings.litellm)) if os.path.lexists(settings.litellm) else "",
        salt=manifests.fingerprint(salt),
        encrypted_to=settings.recipients,
        migrations=contents.migrations,
        tables=contents.tables,
        files={path.name: manifests.sha256(path) for path in sorted(place.iterdir())},
    )


def _remember(path: Path, made: Made) -> None:
    """For monitoring: its age is the age of the last good backup. Nothing in it is secret."""
    text = json.dumps({"backup": made.name, "finished": int(time.time()), "bytes": made.bytes, "seconds": made.seconds, "rows": made.rows}) + "\n"
    staged_path = path.with_name(f".{path.name}")
    staged_path.write_text(text)
    staged_path.chmod(0o644)
    os.replace(staged_path, path)
