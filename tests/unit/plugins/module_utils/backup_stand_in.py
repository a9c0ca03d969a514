# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups without a server: what the database holds is made up, and a few lines of shell take age's place. The real ones are asked in Molecule."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, Server, Table
from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import Settings

KEY = "0123456789abcdef" * 4
SALT = "the salt of this installation, 32 characters"
RECIPIENT = "age1" + "q" * 58
CONTENTS = Contents("15.14", {"public.LiteLLM_VerificationToken": Table(2, "1:2"), "public.LiteLLM_SpendLogs": Table(9, "3:4")}, ("1_init", "2_more"))
# "Encrypts" to its recipients by naming them, and "decrypts" for whoever has the name of one of them in his file.
_AGE = """#!/bin/sh
case "$1" in
  --encrypt) shift; echo "$@"; base64 ;;
  --decrypt) who=$(cat "${2#--identity=}")
    read -r header
    echo "$header" | grep -q -- "--recipient=$who" || { echo 'age: error: no identity matched any of the recipients' >&2; exit 1; }
    exec base64 --decode ;;
esac
"""
_KEYGEN = """#!/bin/sh
case "$1" in
  --output=*) printf age1another >"${1#--output=}" ;;
  -y) cat "$2" ;;
esac
"""


@dataclass
class Gateway:
    """A machine that makes backups into ``backups``, and its controller with ``secrets``."""

    root: Path

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    def settings(self, **more: t.Any) -> Settings:
        return Settings(str(self.backups), "door", str(self.root / "key"), str(self.root / "last-success"), **{"salt_file": str(self.root / "salt"), **more})


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    def dump(_server: Server, _database: str, file: Path, through: t.Sequence[str] = ()) -> Contents:
        file.write_bytes(b"PGDMP everything" if not through else b"--recipient=" + RECIPIENT.encode() + b"\nUEdETVA=\n")
        return CONTENTS

    monkeypatch.setattr(_backup_make, "dump", dump)
    made = Gateway(tmp_path)
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "salt").write_text(f"{SALT}\n")
    for name, value in {"backup_key": KEY, "litellm_salt_key": SALT, "keys/laptop": "sk-laptop"}.items():
        path = made.secrets / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return made


@pytest.fixture
def age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for age; returns a file with the "private key" of RECIPIENT."""
    program = tmp_path / "bin/age"
    program.parent.mkdir()
    program.write_text(_AGE)
    keygen = program.with_name("age-keygen")
    keygen.write_text(_KEYGEN)
    for made in (program, keygen):
        made.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    identity = tmp_path / "identity"
    identity.write_text(RECIPIENT)
    return identity
