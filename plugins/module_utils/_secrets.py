# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets that the controller makes at first use and keeps in files that only their owner can read."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
RANDOM_BYTES = 32


def ensure_secret(directory: str, name: str, prefix: str = "") -> str:
    """The secret ``name`` of ``directory``; made if there is none: ``prefix`` and 64 lower-case hexadecimal digits.

    Lower case, because the keys of an Nginx ``map`` match without regard to case.
    Raises InputError for a name that leaves the directory and for an empty file.
    """
    if not _NAME.fullmatch(name) or ".." in name.split("/"):
        raise InputError(f"{name!r} cannot name a secret: use letters, digits, '.', '_', '-' and '/'.")
    path = Path(directory, name)
    try:
        return _read(path)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(prefix + secrets.token_hex(RANDOM_BYTES) + "\n")
    try:
        os.link(staged, path)  # unlike a rename it never replaces what another process made meanwhile
    except FileExistsError:
        pass
    finally:
        staged.unlink()
    return _read(path)


def _read(path: Path) -> str:
    value = path.read_text().strip()
    if not value:
        raise InputError(f"The secret file {path} is empty: put the secret into it, or remove it and a new one is made.")
    return value
