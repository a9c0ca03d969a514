# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A new version's way with the database, tried on a copy; and the way back.

Before anything is changed the database is dumped, the dump is restored beside it, compared row by row, and the new version makes its tables there. Whatever
goes wrong then, goes wrong with a copy. The dump stays, and brings the database back if the version does not work for real.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ansible_collections.baremetal.llm.plugins.module_utils import _backup_database as database
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Server
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ADMINISTRATOR, SOCKETS
from ansible_collections.baremetal.llm.plugins.module_utils._program import run_program

_KEPT = 3  # dumps
_LONGEST = 1800  # seconds that the new tables may take
_SAID = 3000
#: What the program that makes the tables needs beside its configuration, which is made anew with the copy's address.
_FILES = ("llm_database.py", "migrate.py", "salt")


class TrialError(LLMError):
    """The new version cannot use the database; nothing was changed."""


@dataclass(frozen=True)
class Trial:
    """``python``, in ``image`` if that is given, has the new version; the program that makes its tables and what it needs stand in ``directory``."""

    name: str
    owner: str
    dump: Path
    python: str
    directory: Path
    environment: t.Mapping[str, str] = field(default_factory=dict)
    port: int = 5432
    image: str = ""

    @property
    def copy(self) -> str:
        return f"{self.name}_try"

    @property
    def server(self) -> Server:
        return Server(port=self.port)


def attempt(trial: Trial) -> tuple[str, ...]:
    """Dump and try; returns the migrations that the new version makes. The dump is there afterwards, the copy is not."""
    _make_room(trial.dump)
    before = database.dump(trial.server, trial.name, trial.dump)
    database.drop(trial.server, trial.copy)  # that of a run which was stopped
    try:
        restored = database.restore(trial.server, trial.dump, trial.copy, trial.owner)
        if wrong := database.differences(before.tables, restored.tables):
            raise TrialError(f"The dump of {trial.name} is not what it should be: {wrong[0]}. Nothing was changed.")
        with _as_owner(trial):
            _run(trial)
        after = database.contents(trial.server, trial.copy)
    finally:
        database.drop(trial.server, trial.copy)
    return tuple(name for name in after.migrations if name not in before.migrations)


def bring_back(trial: Trial) -> None:
    """The database as it was when it was dumped. What was written since is lost."""
    back, failed = f"{trial.name}_back", f"{trial.name}_failed"
    for name in (back, failed):
        database.drop(trial.server, name)
    database.restore(trial.server, trial.dump, back, trial.owner)
    # Who logs in to a database is let in by its name and its rights, which a new one does not have yet.
    database.swap(trial.server, trial.name, back, failed)
    database.drop(trial.server, failed)


def _make_room(dump: Path) -> None:
    dump.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in sorted(dump.parent.glob("*.dump"), key=lambda path: path.stat().st_mtime)[: -_KEPT + 1 or None]:
        old.unlink()


@contextlib.contextmanager
def _as_owner(trial: Trial) -> t.Iterator[None]:
    """Only the administrator is let in to the copy. There he has no more rights than its owner, so that what the owner may not do fails here, too."""
    _ask(trial, f"ALTER ROLE {ADMINISTRATOR} IN DATABASE {trial.copy} SET role TO {trial.owner}")
    try:
        yield
    finally:
        _ask(trial, f"ALTER ROLE {ADMINISTRATOR} IN DATABASE {trial.copy} RESET role")


def _ask(trial: Trial, statement: str) -> None:
    with contextlib.closing(database._connect(trial.server, "postgres")) as connection:
        database._do(connection, statement)


def _run(trial: Trial) -> None:
    user = pwd.getpwnam(ADMINISTRATOR)
    place = Path(tempfile.mkdtemp(prefix="llm-try-"))
    try:
        for name in _FILES:
            shutil.copy(trial.directory / name, place / name)
        # JSON is YAML, too
        settings = json.dumps({"general_settings": {"database_url": _url(trial), "master_key": f"sk-{secrets.token_hex(32)}"}})
        for name in ("config.yaml", "secrets.yaml"):
            (place / name).write_text(settings)
        for path in (place, *place.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        status, said = (_in_image if trial.image else _here)(trial, place, user)
        if status != 0:
            raise TrialError(
                f"The new version cannot make its tables in a copy of {trial.name}, so nothing was changed, and the old one goes on. It said:\n"
                f"{said.strip()[-_SAID:]}"
            )
    except subprocess.TimeoutExpired:
        raise TrialError(f"The new version was not done with a copy of {trial.name} after {_LONGEST} s, so nothing was changed.") from None
    finally:
        shutil.rmtree(place)


def _here(trial: Trial, place: Path, user: pwd.struct_passwd) -> tuple[int, str]:
    done = subprocess.run(
        [trial.python, str(place / "migrate.py")],
        cwd=place,
        env={**trial.environment, "HOME": str(place)},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LONGEST,
        check=False,
    )
    return done.returncode, done.stdout


def _in_image(trial: Trial, place: Path, user: pwd.struct_passwd) -> tuple[int, str]:
    """Without a network: the server's socket is a file."""
    status, out, err = run_program(
        Docker(),
        trial.image,
        [trial.python, str(place / "migrate.py")],
        read=[str(place), SOCKETS],
        environment=trial.environment,
        user=f"{user.pw_uid}:{user.pw_gid}",
        seconds=_LONGEST,
    )
    return status, out + err


def _url(trial: Trial) -> str:
    return f"postgresql://{ADMINISTRATOR}@{quote(SOCKETS, safe='')}:{trial.port}/{trial.copy}?host={SOCKETS}"
