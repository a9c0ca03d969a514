# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's secrets as a part of a backup: packed there, kept on the gateway (sealed, if there is a public key), put back where they are missing."""

from __future__ import annotations

import hmac
import io
import json
import os
import tarfile
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import ENCRYPTED, SECRETS, BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import check_recipients, seal
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

KEY = "backup_key"
SALT = "litellm_salt_key"
_DIGEST = "secrets.digest"


def pack(directory: Path, more: t.Mapping[str, str]) -> bytes:
    """All files below it and ``more`` (name, value), which win: those that the user keeps elsewhere. The same files are the same bytes."""
    found = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")}
    found.update({name: f"{value}\n".encode() for name, value in more.items() if value})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(found):
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(found[name]), 0o600
            archive.addfile(about, io.BytesIO(found[name]))
    return packed.getvalue()


def unpack(packed: bytes) -> dict[str, bytes]:
    """Name and content; nothing is written."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if not member.isfile() or member.name.startswith("/") or ".." in member.name.split("/"):
                raise BackupError(f"{SECRETS}: {member.name!r} cannot be a secret of ours.")
            found[member.name] = t.cast(t.IO[bytes], archive.extractfile(member)).read()
    return found


def put_back(directory: Path, secrets: t.Mapping[str, bytes], check: bool = False) -> tuple[list[str], list[str]]:
    """Write those that are missing, unless only checking. Returns their names and the names of those that are there and different, which stay."""
    missing = [name for name in sorted(secrets) if not (directory / name).exists()]
    different = [name for name in sorted(secrets) if name not in missing and (directory / name).read_bytes().strip() != secrets[name].strip()]
    for name in missing if not check else ():
        path = directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, secrets[name])
    return missing, different


def keep(directory: Path, packed: bytes, recipients: t.Sequence[str], key: str, *, in_the_clear: bool, check: bool) -> Difference:
    """On the gateway, for each backup to come. A sealed file is never the same twice, so a MAC of what is in it stands beside it."""
    check_recipients(recipients)
    if not recipients and not in_the_clear:
        raise InputError(
            "backup_secrets: the salt, the keys and the authority's own key would lie unencrypted in each backup. Name a public key of yours in "
            "backup_encrypt_to, or leave them out with backup_secrets: false, or say that you want it so with backup_secrets_in_the_clear: true."
        )
    wanted, other = directory / SECRETS, directory / f"{SECRETS}{ENCRYPTED}"
    if recipients:
        wanted, other = other, wanted
    digest = hmac.digest(key.encode(), json.dumps(sorted(recipients)).encode() + packed, "sha256").hex()
    known = (directory / _DIGEST).read_text().strip() if wanted.exists() and (directory / _DIGEST).exists() else None
    difference = Difference()
    written = difference.add(str(wanted), known, digest, secret=True)
    removed = difference.add(str(other), "present" if other.exists() else None, None)
    if not check and (written or removed):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        _replace(wanted, seal(packed, recipients) if recipients else packed)
        _replace(directory / _DIGEST, f"{digest}\n".encode())
        other.unlink(missing_ok=True)
    return difference


def forget(directory: Path, check: bool) -> Difference:
    difference = Difference()
    for name in (SECRETS, f"{SECRETS}{ENCRYPTED}", _DIGEST):
        if difference.add(str(directory / name), "present" if (directory / name).exists() else None, None) and not check:
            (directory / name).unlink()
    return difference


def _replace(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    _write(staged, content)
    os.replace(staged, path)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
