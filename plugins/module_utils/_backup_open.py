# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Open a backup on the controller: everything that can be refused is refused here, before any machine is touched."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import DUMP, ENCRYPTED, BackupError, Manifest, fingerprint, verify
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import unseal
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import KEY, SALT, put_back, unpack

_OPENED = "secrets.tar"


@dataclass(frozen=True)
class Wish:
    """``secrets`` is the controller's directory of them, ``salt`` the user's own if it is not in there, ``into`` a directory to be made."""

    backup: Path
    secrets: Path
    into: Path
    identity: str = ""
    salt: str = ""
    foreign: bool = False


@dataclass(frozen=True)
class Opened:
    """``dump`` is plain and may lie in ``into``. ``put_back`` were missing here, ``different`` are others here and stay so."""

    manifest: Manifest
    dump: Path
    put_back: tuple[str, ...]
    different: tuple[str, ...]


def open_backup(wish: Wish) -> Opened:
    """Raises BackupError, and then has written nothing that stays."""
    key = _own(wish.secrets / KEY)
    manifest = verify(wish.backup, key, wish.foreign)
    if not manifest.dump:
        raise BackupError(f"{wish.backup} has no {DUMP}: it is no backup of a gateway.")
    wish.into.mkdir(mode=0o700, parents=True)
    try:
        secrets = _secrets(wish, manifest)
        if not key and not wish.foreign:
            _prove_with(secrets, wish)
        _check_salt(secrets.get(SALT, b"").decode().strip(), manifest, wish)
        dump = wish.backup / manifest.dump
        if manifest.dump.endswith(ENCRYPTED):
            unseal(dump, wish.into / DUMP, wish.identity)
            dump = wish.into / DUMP
    except BaseException:
        shutil.rmtree(wish.into)
        raise
    # Of another installation only what its clients and its database need.
    wanted = {name: value for name, value in secrets.items() if not wish.foreign or name == SALT or name.startswith("keys/")}
    if wish.salt:
        wanted.pop(SALT, None)
    missing, different = put_back(wish.secrets, wanted)
    return Opened(manifest, dump, tuple(missing), tuple(different))


def _secrets(wish: Wish, manifest: Manifest) -> dict[str, bytes]:
    """Those in the backup; none are none."""
    name = manifest.secrets
    if not name:
        return {}
    if not name.endswith(ENCRYPTED):
        return unpack(wish.backup / name)
    opened = wish.into / _OPENED
    unseal(wish.backup / name, opened, wish.identity)
    try:
        return unpack(opened)
    finally:
        opened.unlink()


def _prove_with(secrets: dict[str, bytes], wish: Wish) -> None:
    """A controller that has lost its own key finds it in the backup, if its secrets are there."""
    if KEY not in secrets:
        raise BackupError(
            f"{wish.secrets / KEY} is missing, and the secrets are not in this backup: nobody can tell whose backup it is. Put your copy of "
            f"{wish.secrets} back first, or set restore_foreign: true."
        )
    verify(wish.backup, secrets[KEY].decode().strip())


def _check_salt(theirs: str, manifest: Manifest, wish: Wish) -> None:
    if not manifest.salt:
        return
    ours = wish.salt or _own(wish.secrets / SALT)
    if not ours and not theirs:
        raise BackupError(
            f"The salt is missing: {wish.secrets / SALT} is not there, and the secrets are not in this backup. What LiteLLM has encrypted with it (credentials "
            "of providers, models added in its UI) could never be read again. Put your copy of that file there."
        )
    if fingerprint(ours or theirs) != manifest.salt:
        raise BackupError(
            f"The salt does not match: {'litellm_salt_key' if wish.salt else wish.secrets / SALT} is not the one with which this backup was made. What LiteLLM "
            "has encrypted with it (credentials of providers, models added in its UI) could not be read. Put the salt of that time there, and know that "
            "what is in the present database needs the present one."
        )


def _own(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    return ""
