# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encryption to a public key of the user's by age, as the distributions bring it. The private key is never on the machine that makes backups."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")


def check_recipients(recipients: t.Iterable[str]) -> None:
    """Raises InputError before anything is changed."""
    for one in recipients:
        if one.upper().startswith("AGE-SECRET-KEY-"):
            raise InputError(
                "backup_encrypt_to holds a private key (AGE-SECRET-KEY-...). Keep that one away from here: the public one is what `age-keygen -y` prints."
            )
        if not _RECIPIENT.fullmatch(one):
            raise InputError(
                f"backup_encrypt_to: {one!r} is no public key of age's. Make a pair with `age-keygen -o backup.key`; it prints the public one, age1..."
            )


def sealing(recipients: t.Sequence[str]) -> list[str]:
    """The command that encrypts its standard input. Public keys are no secret."""
    return [_age(), "--encrypt", *(f"--recipient={one}" for one in recipients)]


def seal(content: bytes, recipients: t.Sequence[str]) -> bytes:
    done = subprocess.run(sealing(recipients), input=content, capture_output=True, check=False)
    if done.returncode != 0:
        raise BackupError(f"age does not encrypt: {_said(done.stderr)}")
    return done.stdout


def new_identity(path: Path) -> str:
    """A key pair for one time. The private key is written to ``path``, for us alone; returns the public one."""
    keygen = f"{_age()}-keygen"
    for command in ([keygen, f"--output={path}"], [keygen, "-y", str(path)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BackupError(f"age-keygen makes no key: {done.stderr.strip()[-1000:]}")
    return done.stdout.strip()


def unsealing(identity: Path) -> list[str]:
    """The command that decrypts its standard input."""
    return [_age(), "--decrypt", f"--identity={identity}"]


@contextlib.contextmanager
def unsealed(source: Path, identity: str) -> t.Iterator[t.IO[bytes]]:
    """What is in it, decrypted with the private key in the file ``identity``, to be read to its end; no plain byte is on the disk.

    What was changed by anybody is refused by age itself, at the latest at the end.
    """
    if not identity:
        raise BackupError(f"{source} is encrypted: name the file with the private key (restore_identity), as `age-keygen` wrote it.")
    if not os.path.isfile(identity):
        raise BackupError(f"{source} is encrypted, but there is no private key at {identity}: correct restore_identity.")
    with open(source, "rb") as sealed, tempfile.TemporaryFile() as said:
        try:
            with subprocess.Popen(unsealing(Path(identity)), stdin=sealed, stdout=subprocess.PIPE, stderr=said) as age:
                yield t.cast(t.IO[bytes], age.stdout)
        finally:
            # A reader that fails for want of a plain text has this for its reason; one that goes away has a reason of its own.
            if age.returncode not in (0, -signal.SIGPIPE):
                said.seek(0)
                _refuse(source, identity, said.read())


def prove(source: Path, identity: str) -> None:
    """That it can be decrypted, to its last byte."""
    with unsealed(source, identity) as plain, open(os.devnull, "wb") as nowhere:
        shutil.copyfileobj(plain, nowhere)


def reseal(source: Path, identity: str, public_key: str, target: Path) -> None:
    """Decrypt and encrypt again, to another key, in one go."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle, unsealed(source, identity) as plain:
        done = subprocess.run(sealing([public_key]), stdin=plain, stdout=handle, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BackupError(f"age does not encrypt: {_said(done.stderr)}")


def _refuse(source: Path, identity: str, said: bytes) -> t.NoReturn:
    if b"no identity matched" in said:
        raise BackupError(f"{source} is not encrypted to the key in {identity}: name the file of the right private key (restore_identity).")
    raise BackupError(f"{source} cannot be decrypted with {identity}: {_said(said)}")


def _age() -> str:
    program = shutil.which("age", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    if not program:
        raise BackupError("The program age is not there: install the package age (Debian, Ubuntu) on this machine.")
    return program


def _said(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line and "report unexpected" not in line]
    return " ".join(lines)[-1000:]
