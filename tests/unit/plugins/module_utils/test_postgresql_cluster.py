# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which version, which files, start, reload or restart; Debian's tools and a server are played by a script."""

from __future__ import annotations

import os
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files
from ansible_collections.baremetal.llm.plugins.module_utils import _postgresql_cluster as cluster
from ansible_collections.baremetal.llm.plugins.module_utils._apt import Packages
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_cluster import Server, ServerError

SERVER = Server(5432, "port = '5432'\n", "local all postgres peer\n", "")


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.active = False
        self.starts = True
        self.refuses = ""
        self.calls: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[:2] == ["systemctl", "show"]:
            return 0, f"ActiveState={'active' if self.active else 'inactive'}\n", ""
        if command[0] == "dpkg-query":
            return 0, "postgresql-15", ""
        if command[0] == "pg_createcluster":
            self.make(command[7])
        if command[0].endswith("/postgres"):
            return (1, "", self.refuses) if self.refuses else (0, "5432", "")
        if command[:2] in (["systemctl", "start"], ["systemctl", "restart"]):
            self.active = self.starts
        elif command[:2] == ["systemctl", "stop"]:
            self.active = False
        self.calls.append(" ".join(command[:2]))
        return 0, "", ""

    def make(self, version: str) -> None:
        place = self.root / f"etc/{version}/llm"
        (place / "conf.d").mkdir(parents=True)
        (place / "postgresql.conf").touch()
        data = self.root / f"data/{version}/llm"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text(version)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name, place in (("CONFIG", "etc"), ("DATA", "data"), ("LOGS", "log"), ("UNIT_DIRECTORY", "units"), ("NO_MAIN_CLUSTER", "common/llm.conf")):
        monkeypatch.setattr(cluster, name, tmp_path / place)
    monkeypatch.setattr(cluster, "listeners", list)
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda found: "root:postgres" if found.st_mode & 0o777 == 0o640 else "root:root")
    monkeypatch.setattr(_files, "_group_id", lambda _name: 0)
    return Machine(tmp_path)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    seen: list[tuple[str, ...]] = []

    def ensure(wanted: Packages, _run: t.Any, check: bool) -> Difference:
        assert cluster.NO_MAIN_CLUSTER.exists() != check  # there while packages are installed, and only then
        seen.append(wanted.install)
        return Difference()

    monkeypatch.setattr(cluster._apt, "ensure", ensure)
    return seen


def test_the_distributions_version_is_taken_and_then_kept(machine: Machine, packages: list[tuple[str, ...]]) -> None:
    assert cluster.installed("", machine, check=False)[0] == "15"
    assert not cluster.NO_MAIN_CLUSTER.exists()
    machine.make("13")
    assert cluster.installed("", machine, check=True)[0] == "13"
    assert packages == [("postgresql", "python3-psycopg2"), ("postgresql-13", "python3-psycopg2")]


def test_a_version_can_be_asked_for_but_not_under_the_data(machine: Machine, packages: list[tuple[str, ...]]) -> None:
    assert cluster.installed("18", machine, check=False)[0] == "18"
    with pytest.raises(ServerError, match="this role knows 13 to 18"):
        cluster.installed("12", machine, check=False)
    machine.make("15")
    with pytest.raises(InputError, match="pg_upgradecluster 15 llm"):
        cluster.installed("17", machine, check=False)
    machine.make("17")
    with pytest.raises(InputError, match="which one counts"):
        cluster.installed("", machine, check=False)
    assert cluster.installed("17", machine, check=False)[0] == "17"


def test_the_cluster_is_made_once(machine: Machine) -> None:
    foreseen = Difference()
    assert not cluster.configured(SERVER, "", machine, foreseen, check=True)
    assert "cluster (version)/llm: present" in foreseen.as_dict()["after"]
    assert machine.calls == []
    assert cluster.configured(SERVER, "15", machine, Difference(), check=False)
    assert machine.calls == ["pg_createcluster --port", "systemctl daemon-reload"]
    again = Difference()
    assert cluster.configured(SERVER, "15", machine, again, check=False)
    assert not again.changed
    assert len(machine.calls) == 2


def test_data_without_a_configuration_is_not_run_over(machine: Machine) -> None:
    (machine.root / "data/15/llm/base").mkdir(parents=True)
    with pytest.raises(ServerError, match="move the data away"):
        cluster.configured(SERVER, "15", machine, Difference(), check=False)


def test_what_postgresql_refuses_replaces_nothing(machine: Machine) -> None:
    machine.make("15")
    machine.refuses = 'unrecognized configuration parameter "shared_bufers"'
    with pytest.raises(_files.ValidationError, match="shared_bufers"):
        cluster.configured(SERVER, "15", machine, Difference(), check=False)
    assert not (machine.root / "etc/15/llm/pg_hba.conf").exists()


def test_a_taken_port_is_refused_before_anything_is_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.make("15")
    monkeypatch.setattr(cluster, "listeners", lambda: [Listener(5432, "postgres", 1, "postgresql@15-main")])
    with pytest.raises(ServerError, match=re.escape("already taken by postgres (postgresql@15-main)")):
        cluster.configured(SERVER, "15", machine, Difference(), check=False)
    assert not (machine.root / "etc/15/llm/conf.d/llm.conf").exists()
    (machine.root / "data/15/llm/postmaster.pid").write_text("1\n/data\n0\n5432\n")  # it is ours
    assert cluster.configured(SERVER, "15", machine, Difference(), check=False)


def test_it_is_started_and_a_failure_shows_the_log(machine: Machine) -> None:
    machine.make("15")
    assert not cluster.running(SERVER, "15", machine, Difference(), check=True)
    assert cluster.running(SERVER, "15", machine, Difference(), check=False)
    machine.active = machine.starts = False
    (machine.root / "log").mkdir()
    (machine.root / "log/postgresql-15-llm.log").write_text("FATAL: no space left\n")
    with pytest.raises(ServerError, match="no space left"):
        cluster.running(SERVER, "15", machine, Difference(), check=False)


class Answers:
    """A running server: when it read its files, and what waits for a restart."""

    def __init__(self, machine: Machine, loaded: float, pending: tuple[str, ...] = ()) -> None:
        self.machine, self.loaded, self.pending = machine, loaded, pending

    def __call__(self, _database: str, statement: str) -> list[tuple[t.Any, ...]]:
        if "pg_conf_load_time" in statement:
            return [(self.loaded if "systemctl reload" not in self.machine.calls else self.loaded + 100,)]
        if "pg_file_settings" in statement:
            return [("postgresql.conf", 3, "syntax error")]
        return [(name,) for name in self.pending] if "pending_restart" in statement else []


def test_files_that_are_newer_are_reloaded_and_some_ask_for_a_restart(machine: Machine) -> None:
    machine.make("15")
    written = machine.root / "etc/15/llm/conf.d/llm.conf"
    written.touch()
    os.utime(written, (5000000050, 5000000050))
    difference = Difference()
    assert not cluster.reloaded("15", Answers(machine, 5000000060), machine, difference, check=False)
    assert (machine.calls, difference.changed) == ([], False)
    assert not cluster.reloaded("15", Answers(machine, 5000000000), machine, difference, check=True)
    assert (machine.calls, difference.changed) == ([], True)
    assert cluster.reloaded("15", Answers(machine, 5000000000, ("port",)), machine, Difference(), check=False)
    assert machine.calls == ["systemctl reload"]


def test_a_server_that_does_not_take_its_files_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.make("15")
    monkeypatch.setattr(cluster, "_RELOAD_SECONDS", 0.0)
    with pytest.raises(ServerError, match="postgresql.conf:3: syntax error"):
        cluster.reloaded("15", Answers(machine, 0.0), machine, Difference(), check=False)


def test_absent_keeps_the_data_and_purge_does_not(machine: Machine) -> None:
    cluster.configured(SERVER, "15", machine, Difference(), check=False)
    machine.active = True
    assert cluster.absent(False, machine, check=True).changed
    assert machine.active
    assert cluster.absent(False, machine, check=False).changed
    assert not cluster.absent(False, machine, check=False).changed
    assert (machine.root / "etc/15/llm/start.conf").read_text() == "disabled\n"
    assert (machine.root / "data/15/llm/PG_VERSION").exists()
    assert cluster.absent(True, machine, check=False).changed
    assert not cluster.absent(True, machine, check=False).changed
    assert not (machine.root / "etc/15/llm").exists()
    assert not (machine.root / "data/15/llm").exists()
