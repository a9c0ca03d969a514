# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files, _systemd
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import App, SystemdError, absent, present


class Systemd:
    """Answers systemctl as systemd would for one unit, and keeps the calls that change something."""

    def __init__(self) -> None:
        self.active = "inactive"
        self.enabled = ""
        self.started = 0.0
        self.stale = "no"
        self.calls: list[str] = []
        self.refuses = ""

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] == "journalctl":
            return 0, "it said why\n", ""
        verb = command[1]
        if verb == "show":
            values = f"LoadState=loaded\nActiveState={self.active}\nUnitFileState={self.enabled}\nNeedDaemonReload={self.stale}\n"
            return 0, f"{values}ExecMainStartTimestampMonotonic={int(self.started * 1e6)}\n", ""
        self.calls.append(verb)
        if verb == self.refuses:
            return 1, "", "Job failed"
        if verb in ("start", "restart"):
            self.active, self.started = "active", time.monotonic() + 0.01
        elif verb == "enable":
            self.enabled = "enabled"
        elif verb == "disable":
            self.active, self.enabled = "inactive", ""
        return 0, "", ""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(_systemd, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(_systemd, "STAMP_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:root")
    return Systemd()


def app(tmp_path: Path, content: str = "a", reload: bool = False, ports: tuple[int, ...] = ()) -> App:
    config = FileSpec(tmp_path / "etc" / "config", content)
    reloadable = frozenset({config.path}) if reload else frozenset()
    return App("llm-x", "[Service]\n", (config,), inputs=(tmp_path / "current",), reloadable=reloadable, ports=ports)


def earlier(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment), follow_symlinks=False)


def later(path: Path) -> None:
    """As if the file had been written after the process started."""
    earlier(path, -1)


def test_what_cannot_run_yet_is_prepared_and_enabled(tmp_path: Path, systemd: Systemd) -> None:
    waiting = dataclasses.replace(app(tmp_path), start=False)
    assert present(waiting, systemd, check=False).action == ""
    assert systemd.calls == ["daemon-reload", "enable"]
    assert not present(waiting, systemd, check=False).changed
    assert present(app(tmp_path), systemd, check=False).action == "start"
    assert not present(waiting, systemd, check=False).changed


def test_first_run_then_nothing(tmp_path: Path, systemd: Systemd) -> None:
    predicted = present(app(tmp_path), systemd, check=True)
    assert (predicted.changed, predicted.action, systemd.calls) == (True, "start", [])
    assert not (tmp_path / "etc").exists()
    assert present(app(tmp_path), systemd, check=False).action == "start"
    assert systemd.calls == ["daemon-reload", "enable", "start"]
    again = present(app(tmp_path), systemd, check=False)
    assert (again.changed, again.action, again.diff) == (False, "", {"before": "", "after": ""})


def test_a_changed_file_restarts(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path), systemd, check=False)
    systemd.calls.clear()
    assert present(app(tmp_path, "b"), systemd, check=True).action == "restart"
    assert present(app(tmp_path, "b"), systemd, check=False).action == "restart"
    assert systemd.calls == ["restart"]


def test_a_changed_file_reloads_where_that_is_enough(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path, reload=True), systemd, check=False)
    systemd.calls.clear()
    assert present(app(tmp_path, "b", reload=True), systemd, check=False).action == "reload"
    assert systemd.calls == ["reload"]
    systemd.started -= 5  # the process is older than the file, but it has been reloaded since
    earlier(tmp_path / "units" / "llm-x.service", 10)
    earlier(tmp_path / "etc" / "config", 1)
    assert not present(app(tmp_path, "b", reload=True), systemd, check=False).changed


def test_what_an_interrupted_run_wrote_restarts_in_the_next(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path), systemd, check=False)
    later(tmp_path / "etc" / "config")
    outcome = present(app(tmp_path), systemd, check=False)
    assert (outcome.changed, outcome.action) == (True, "restart")


def test_a_link_that_was_turned_restarts(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path), systemd, check=False)
    (tmp_path / "current").symlink_to("2")
    later(tmp_path / "current")
    assert present(app(tmp_path), systemd, check=False).action == "restart"


def test_somebody_edited_the_unit_without_a_reload(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path), systemd, check=False)
    systemd.calls.clear()
    systemd.stale = "yes"
    present(app(tmp_path), systemd, check=False)
    assert systemd.calls == ["daemon-reload"]


def test_a_start_that_fails_shows_the_log(tmp_path: Path, systemd: Systemd) -> None:
    systemd.refuses = "start"
    with pytest.raises(SystemdError, match="systemctl start llm-x failed: Job failed\nThe end of its log:\nit said why"):
        present(app(tmp_path), systemd, check=False)


def test_a_taken_port_is_named_before_anything_is_written(tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_systemd, "listeners", lambda: [Listener(4000, "apache2"), Listener(80, "caddy")])
    with pytest.raises(SystemdError, match="port 4000 is already taken by apache2"):
        present(app(tmp_path, ports=(4000,)), systemd, check=False)
    assert systemd.calls == []
    assert not (tmp_path / "etc").exists()


def test_a_missing_user_is_created_first(tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, str, str]:
        commands.append(command)
        return (0, "", "") if command[0] == "useradd" else systemd(command)

    wanted = dataclasses.replace(app(tmp_path), user="llm-nobody-has-this-name", home="/var/lib/x")
    assert "user llm-nobody-has-this-name: (absent)" in present(wanted, run, check=True).diff["before"]
    assert not any(command[0] == "useradd" for command in commands)
    present(wanted, run, check=False)
    (created,) = [command for command in commands if command[0] == "useradd"]
    assert created[-1] == "llm-nobody-has-this-name"
    assert created[created.index("--home-dir") + 1] == "/var/lib/x"
    monkeypatch.setattr(_systemd._system_user, "find", lambda _name: (999, 999))
    assert not present(wanted, run, check=False).changed


def test_absent_then_nothing(tmp_path: Path, systemd: Systemd) -> None:
    present(app(tmp_path), systemd, check=False)
    assert absent("llm-x", systemd, check=True).changed
    assert (tmp_path / "units" / "llm-x.service").exists()
    assert absent("llm-x", systemd, check=False).changed
    assert not (tmp_path / "units" / "llm-x.service").exists()
    systemd.calls.clear()
    assert not absent("llm-x", systemd, check=False).changed
    assert systemd.calls == []
