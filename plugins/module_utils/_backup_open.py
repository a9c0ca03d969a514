# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Open a backup on the controller: everything that can be refused is refused here, before any machine is touched."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import DUMP, ENCRYPTED, BackupError, Manifest, fingerprint, verify
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import prove, reseal, unsealed
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import KEY, SALT, put_back, unpack


@dataclass(frozen=True)
class Wish:
    """``secrets`` is the controller's directory of them, ``salt`` the user's own if it is not in there.

    ``target`` is a file for the dump, sealed again to ``public_key``, which is the gateway's for this one time; empty to prove only that it can be opened.
    """

    backup: Path
    secrets: Path
    target: str = ""
    public_key: str = ""
    identity: str = ""
    salt: str = ""
    foreign: bool = False
    check: bool = False


@dataclass(frozen=True)
class Opened:
    """``dump`` is what the gateway has to be given. ``put_back`` were missing here, ``different`` are others here and stay so."""

    manifest: Manifest
    dump: Path
    sealed: bool
    put_back: tuple[str, ...]
    different: tuple[str, ...]


def open_backup(wish: Wish) -> Opened:
    """Raises BackupError, and then has written nothing. Nothing is ever decrypted to a disk here, so whoever kills us finds nothing."""
    key = _own(wish.secrets / KEY)
    manifest = verify(wish.backup, key, wish.foreign)
    if not manifest.dump:
        raise BackupError(f"{wish.backup} has no {DUMP}: it is no backup of a gateway.")
    secrets = _secrets(wish, manifest)
    if not key and not wish.foreign:
        _prove_with(secrets, wish)
    _check_salt(secrets.get(SALT, b"").decode().strip(), manifest, wish)
    dump, sealed = wish.backup / manifest.dump, manifest.dump.endswith(ENCRYPTED)
    if sealed:
        dump = _dump(dump, wish)
    # Of another installation only what its clients and its database need.
    wanted = {name: value for name, value in secrets.items() if not wish.foreign or name == SALT or name.startswith("keys/")}
    if wish.salt:
        wanted.pop(SALT, None)
    missing, different = put_back(wish.secrets, wanted, wish.check)
    return Opened(manifest, dump, sealed, tuple(missing), tuple(different))


def _dump(source: Path, wish: Wish) -> Path:
    if not wish.target:
        prove(source, wish.identity)
        return source
    target = Path(wish.target)
    try:
        reseal(source, wish.identity, wish.public_key, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _secrets(wish: Wish, manifest: Manifest) -> dict[str, bytes]:
    """Those in the backup; none are none."""
    name = manifest.secrets
    if not name:
        return {}
    with unsealed(wish.backup / name, wish.identity) if name.endswith(ENCRYPTED) else open(wish.backup / name, "rb") as plain:
        return unpack(plain.read())


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
