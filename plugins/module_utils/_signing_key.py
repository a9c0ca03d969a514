# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The key that signs a package repository: written only if it is the one that was expected."""

from __future__ import annotations

import tempfile
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._download import Source, mirrored, read_document
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write

_ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
_LIMIT = 1024 * 1024
# The validity field of gpg's --with-colons (doc/DETAILS in GnuPG's sources).
_BAD = {"e": "expired", "r": "revoked", "i": "invalid", "d": "disabled"}


class KeyRefused(LLMError):
    """The key that came is not the one that was expected; nothing was written."""


@dataclass(frozen=True)
class SigningKey:
    """A key file at ``dest`` that holds exactly the keys with these primary ``fingerprints``, brought from ``url`` or its ``mirror``."""

    url: str
    fingerprints: tuple[str, ...]
    dest: Path
    mirror: str = ""


@dataclass(frozen=True)
class Found:
    """The primary keys of a file: fingerprint -> what is wrong with it, or an empty string."""

    keys: dict[str, str]

    @property
    def shown(self) -> str:
        return ", ".join(f"{fingerprint}{f' ({fault})' if fault else ''}" for fingerprint, fault in sorted(self.keys.items())) or "no public key"

    def is_what(self, wanted: t.Collection[str]) -> bool:
        return set(self.keys) == set(wanted) and not any(self.keys.values())


def present(key: SigningKey, run: Runner, gpg: str, check: bool) -> Difference:
    """Bring the key unless the file already holds it. ``gpg`` is empty only in check mode, before it is installed."""
    wanted = _wanted(key)
    difference = Difference()
    if not gpg:
        difference.add(str(key.dest), "not looked at: gpg is not installed yet" if key.dest.exists() else None, _title(wanted))
        return difference
    have = key.dest.read_bytes() if key.dest.is_file() else b""
    before = inspect(have, run, gpg)
    content = have if before.is_what(wanted) else _fetched(key, wanted, run, gpg)
    if content is not have:
        difference.add(str(key.dest), before.shown if key.dest.exists() else None, _title(wanted))
    spec = FileSpec(key.dest, content.decode("ascii"))
    differs = content is not have or compare(spec, difference)
    if differs and not check:
        write([spec], {key.dest}, run)
    return difference


def inspect(content: bytes, run: Runner, gpg: str) -> Found:
    """The primary keys in a key file, as gpg reads it; none if it cannot."""
    if not content:
        return Found({})
    with tempfile.TemporaryDirectory(prefix="llm-key-") as place:  # gpg's home too: root's own stays as it is
        path = Path(place, "key")
        path.write_bytes(content)
        _status, out, _err = run([gpg, "--homedir", place, "--batch", "--no-options", "--show-keys", "--with-colons", str(path)])
    keys: dict[str, str] = {}
    fault: str | None = None
    for line in out.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sec"):
            fault = "a private key" if fields[0] == "sec" else _BAD.get(fields[1][:1], "")
        elif fields[0] == "fpr" and fault is not None:
            keys[fields[9]], fault = fault, None
    return Found(keys)


def _fetched(key: SigningKey, wanted: t.Collection[str], run: Runner, gpg: str) -> bytes:
    source = Source(mirrored(key.url, key.mirror))
    content = read_document(source, limit=_LIMIT)
    found = inspect(content, run, gpg)
    if not found.is_what(wanted):
        raise KeyRefused(
            f"The key from {source.shown} is refused: expected {', '.join(sorted(wanted))}, found {found.shown}. Nothing was written. If the"
            " publisher has changed its key, compare the new fingerprint with what it announces and correct it; else do not use this source."
        )
    if not content.isascii() or _ARMOR not in content.decode("ascii"):
        raise KeyRefused(f"The key from {source.shown} is not ASCII-armoured, as {key.dest} must be: offer it as `gpg --armor --export` writes it.")
    return content


def _wanted(key: SigningKey) -> frozenset[str]:
    """The fingerprints as gpg prints them."""
    wanted = frozenset("".join(fingerprint.split()).upper() for fingerprint in key.fingerprints)
    if not wanted:
        raise InputError(
            f"No fingerprint is known for the key {key.url}, so it cannot be verified: look up what the publisher announces and give it as a fingerprint."
        )
    for fingerprint in wanted:
        if len(fingerprint) not in (40, 64) or set(fingerprint) - set("0123456789ABCDEF"):
            raise InputError(f"{fingerprint!r} is no fingerprint of a key: give all of its 40 hexadecimal digits.")
    return wanted


def _title(wanted: t.Collection[str]) -> str:
    return ", ".join(sorted(wanted))
