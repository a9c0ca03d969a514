# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a backup says of itself, and whether that is true. A backup is a directory:

manifest.json  where it comes from, what is in it, the SHA-256 of every other file; no secret
manifest.sum   the SHA-256 of manifest.json, a MAC of it with the installation's key, and the SHA-256 of these two lines
litellm.dump   the database, and secrets.tar if wanted; each with .age behind its name if it is encrypted
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import typing as t
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, Table
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

MANIFEST = "manifest.json"
SUM = "manifest.sum"
DUMP = "litellm.dump"
SECRETS = "secrets.tar"
ENCRYPTED = ".age"
_FORMAT = 1
_ROUNDS = 200_000  # a salt is 256 random bits, but it may be a word of the user's own
_LINES = re.compile(r"sha256 ([0-9a-f]{64})\nhmac-sha256 ([0-9a-f]{64})\nsum ([0-9a-f]{64})\n")


class BackupError(LLMError):
    """A backup is not to be used; nothing has been changed."""


class ForeignError(BackupError):
    """It was made by another installation."""


@dataclass(frozen=True)
class Manifest:
    """``salt`` is a fingerprint, empty if there was none. ``files`` are their SHA-256."""

    installation: str
    host: str
    created: str
    database: str
    postgresql: str
    litellm: str
    salt: str = ""
    encrypted_to: tuple[str, ...] = ()
    migrations: tuple[str, ...] = ()
    tables: dict[str, Table] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def contents(self) -> Contents:
        return Contents(self.postgresql, self.tables, self.migrations)

    @property
    def dump(self) -> str:
        return next((name for name in self.files if _plain(name) == DUMP), "")

    @property
    def secrets(self) -> str:
        """Empty if they are not in it."""
        return next((name for name in self.files if _plain(name) == SECRETS), "")


def installation(key: str) -> str:
    """What tells one installation from another; it gives nothing of the key away."""
    return hashlib.sha256(f"baremetal.llm installation {key}".encode()).hexdigest()[:32]


def fingerprint(salt: str) -> str:
    """Tells whether two salts are the same, and nothing of the salt."""
    return hashlib.pbkdf2_hmac("sha256", salt.encode(), b"baremetal.llm litellm_salt_key", _ROUNDS).hex()[:32] if salt else ""


def write(directory: Path, manifest: Manifest, key: str) -> None:
    """Last of all files: it makes them a backup."""
    body = (json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n").encode()
    _create(directory / MANIFEST, body)
    _create(directory / SUM, _sums(body, _mac(body, key)).encode())


def read(directory: Path) -> Manifest:
    """What it says, proven against its own sums alone."""
    return _parse(_proven(directory)[0], directory)


def verify(directory: Path, key: str, foreign: bool = False) -> Manifest:
    """Every byte of every file. Raises BackupError that names the file. Without a ``key``, or if it may be ``foreign``, only the sums are looked at."""
    body, mac = _proven(directory)
    manifest = _parse(body, directory)
    if key and not foreign:
        if manifest.installation != installation(key):
            raise ForeignError(
                f"{directory} is a backup of another installation ({manifest.installation}, made on {manifest.host}); this one is {installation(key)}. "
                "If you do want its keys and budgets here, set restore_foreign: true."
            )
        if not hmac.compare_digest(mac, _mac(body, key)):
            raise BackupError(f"{directory / SUM}: the MAC is not that of this installation's key, so somebody else wrote {MANIFEST}. Use another backup.")
    _check_files(directory, manifest)
    return manifest


def sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _check_files(directory: Path, manifest: Manifest) -> None:
    wanted, found = {*manifest.files, MANIFEST, SUM}, {path.name for path in directory.iterdir()}
    for names, what in ((wanted - found, "is missing"), (found - wanted, f"is not in {MANIFEST}")):
        if names:
            raise BackupError(f"{directory / min(names)} {what}: the backup is not as it was made. Use another one, or copy it here again.")
    for name, wanted_sum in manifest.files.items():
        if sha256(directory / name) != wanted_sum:
            raise BackupError(f"{directory / name} is damaged: its SHA-256 is not the one in {MANIFEST}. Use another backup, or copy it here again.")


def _proven(directory: Path) -> tuple[bytes, str]:
    """The manifest's bytes, which the sums agree with, and their MAC."""
    try:
        body, text = (directory / MANIFEST).read_bytes(), (directory / SUM).read_bytes().decode(errors="replace")
    except FileNotFoundError as exc:
        raise BackupError(f"{exc.filename} is missing: {directory} is no backup, or only a part of one.") from None
    lines = _LINES.fullmatch(text)
    if not lines or text != _sums_of(lines[1], lines[2]):
        raise BackupError(f"{directory / SUM} is damaged. Use another backup, or copy it here again.")
    if hashlib.sha256(body).hexdigest() != lines[1]:
        raise BackupError(f"{directory / MANIFEST} is damaged: its SHA-256 is not the one in {SUM}. Use another backup, or copy it here again.")
    return body, lines[2]


def _parse(body: bytes, directory: Path) -> Manifest:
    found: dict[str, t.Any] = json.loads(body)
    if found.pop("format", None) != _FORMAT:
        raise BackupError(
            f"{directory / MANIFEST} is of a format that this version of baremetal.llm does not know: use the version that wrote it, or a newer one."
        )
    found["tables"] = {name: Table(**about) for name, about in found["tables"].items()}
    found["encrypted_to"], found["migrations"] = tuple(found["encrypted_to"]), tuple(found["migrations"])
    return Manifest(**found)


def _mac(body: bytes, key: str) -> str:
    return hmac.digest(key.encode(), body, "sha256").hex()


def _sums(body: bytes, mac: str) -> str:
    return _sums_of(hashlib.sha256(body).hexdigest(), mac)


def _sums_of(total: str, mac: str) -> str:
    lines = f"sha256 {total}\nhmac-sha256 {mac}\n"
    return f"{lines}sum {hashlib.sha256(lines.encode()).hexdigest()}\n"


def _plain(name: str) -> str:
    return name[: -len(ENCRYPTED)] if name.endswith(ENCRYPTED) else name


def _create(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(descriptor)
