# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The order of things, with a server that only remembers them. With the real ones: molecule/gateway_upgrade."""

from __future__ import annotations

import dataclasses
import os
import pwd
import stat
import sys
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _database_trial
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, DumpError, Table
from ansible_collections.baremetal.llm.plugins.module_utils._database_trial import Trial, TrialError, attempt, bring_back

ROWS = {"public.keys": Table(3, "sum")}
MIGRATE = """
import os, sys
print(open("config.yaml").read())
print(open("salt").read().strip(), os.environ["SETTING"], os.getcwd() == os.environ["HOME"])
sys.exit({status})
"""


class Server:
    """PostgreSQL and its programs, as far as they are asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.restored = ROWS
        self.migrations: tuple[str, ...] = ("1_a", "2_b")
        for name in ("dump", "restore", "drop", "swap", "contents"):
            monkeypatch.setattr(_database_trial.database, name, getattr(self, name))
        monkeypatch.setattr(_database_trial, "_ask", lambda _trial, statement: self.told.append(statement))
        monkeypatch.setattr(_database_trial, "_url", lambda trial: f"postgresql://{trial.copy}")
        monkeypatch.setattr(_database_trial.pwd, "getpwnam", lambda _name: pwd.getpwuid(os.getuid()))

    def dump(self, _server: t.Any, database: str, file: Path) -> Contents:
        self.told.append(f"dump {database}")
        file.write_text("dump")
        return Contents("15", ROWS, ("1_a",))

    def restore(self, _server: t.Any, _file: Path, database: str, _owner: str) -> Contents:
        self.told.append(f"restore {database}")
        return Contents("15", self.restored, ("1_a",))

    def drop(self, _server: t.Any, database: str) -> None:
        self.told.append(f"drop {database}")

    def swap(self, _server: t.Any, database: str, new: str, old: str) -> None:
        self.told.append(f"swap {database} {new} {old}")

    def contents(self, _server: t.Any, _database: str) -> Contents:
        return Contents("15", ROWS, self.migrations)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def trial(tmp_path: Path, status: str = "0") -> Trial:
    here = tmp_path / "litellm"
    here.mkdir()
    (here / "migrate.py").write_text(MIGRATE.replace("{status}", status))
    (here / "llm_database.py").touch()
    (here / "salt").write_text("pepper\n")
    return Trial("litellm", "litellm", tmp_path / "upgrades/one.dump", sys.executable, here, {"SETTING": "set"})


def test_the_copy_is_tried_as_its_owner_and_is_gone_afterwards(server: Server, tmp_path: Path) -> None:
    assert attempt(trial(tmp_path)) == ("2_b",)
    assert server.told == [
        *["dump litellm", "drop litellm_try", "restore litellm_try"],
        "ALTER ROLE postgres IN DATABASE litellm_try SET role TO litellm",
        "ALTER ROLE postgres IN DATABASE litellm_try RESET role",
        "drop litellm_try",
    ]
    assert stat.S_IMODE((tmp_path / "upgrades").stat().st_mode) == 0o700


def test_a_version_that_cannot_make_its_tables_is_refused_with_what_it_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="so nothing was changed(.|\n)*pepper set True") as refused:
        attempt(trial(tmp_path, "1"))
    assert '"database_url": "postgresql://litellm_try"' in str(refused.value)
    assert server.told[-1] == "drop litellm_try"


def test_a_version_in_an_image_is_tried_there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def run_program(_docker: t.Any, image: str, command: list[str], *, read: list[str], user: str, **_more: t.Any) -> tuple[int, str, str]:
        seen.append((image, command[0], Path(command[1]).parent == Path(read[0]), read[1:], user))
        return len(seen) - 1, "", "it says no"

    monkeypatch.setattr(_database_trial, "run_program", run_program)
    given = dataclasses.replace(trial(tmp_path), image="sha256:1", python="python")
    assert attempt(given) == ("2_b",)
    assert seen == [("sha256:1", "python", True, ["/var/run/postgresql"], f"{os.getuid()}:{pwd.getpwuid(os.getuid()).pw_gid}")]
    with pytest.raises(TrialError, match="so nothing was changed(.|\n)*it says no"):
        attempt(given)


def test_a_dump_that_lacks_something_is_refused(server: Server, tmp_path: Path) -> None:
    server.restored = {"public.keys": Table(2, "sum")}
    with pytest.raises(TrialError, match="public.keys has 2 rows instead of 3"):
        attempt(trial(tmp_path))
    assert server.told[-1] == "drop litellm_try"


def test_one_that_takes_for_ever_is_ended(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_database_trial, "_LONGEST", 0.5)
    given = trial(tmp_path)
    (given.directory / "migrate.py").write_text("import time; time.sleep(60)")
    with pytest.raises(TrialError, match="was not done"):
        attempt(given)


def test_three_dumps_are_kept(server: Server, tmp_path: Path) -> None:
    given = trial(tmp_path)
    given.dump.parent.mkdir()
    for age in range(5):
        old = given.dump.with_name(f"old-{age}.dump")
        old.touch()
        os.utime(old, (1000 - age, 1000 - age))
    attempt(given)
    assert sorted(path.name for path in given.dump.parent.iterdir()) == ["old-0.dump", "old-1.dump", "one.dump"]


def test_the_way_back_swaps_a_restored_database_in(server: Server, tmp_path: Path) -> None:
    bring_back(trial(tmp_path))
    assert server.told == [
        *["drop litellm_back", "drop litellm_failed", "restore litellm_back"],
        *["swap litellm litellm_back litellm_failed", "drop litellm_failed"],
    ]


def test_without_a_dump_nothing_is_tried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: t.Any) -> t.NoReturn:
        raise DumpError("disk full")

    monkeypatch.setattr(_database_trial, "database", types.SimpleNamespace(dump=refuse))
    with pytest.raises(DumpError):
        attempt(trial(tmp_path))
