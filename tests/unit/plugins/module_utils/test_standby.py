# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import http.server
import os
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files, _standby, _systemd
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec
from ansible_collections.baremetal.llm.plugins.module_utils._standby import Instance, present_with_standby
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import App, Outcome


class Machine:
    """Answers systemctl as systemd would for two units, and says whether they answer; a unit in ``broken`` runs, but never answers."""

    def __init__(self) -> None:
        self.active: dict[str, str] = {}
        self.enabled: set[str] = set()
        self.started: dict[str, float] = {}
        self.broken: set[str] = set()
        self.calls: list[str] = []
        self.gaps: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] == "journalctl":
            return 0, "it said why\n", ""
        verb, name = command[1], command[-1]
        if verb == "show":
            name = command[2].removesuffix(".service")
            enabled = "enabled" if name in self.enabled else ""
            state = f"ActiveState={self.active.get(name, 'inactive')}\nUnitFileState={enabled}\nNeedDaemonReload=no\n"
            return 0, f"{state}ExecMainStartTimestampMonotonic={int(self.started.get(name, 0) * 1e6)}\n", ""
        if verb == "enable":
            self.enabled.add(name)
        if verb in ("start", "restart"):
            self.calls.append(f"{verb} {name}")
            self.active[name] = ""
            if verb == "restart" and not any(self.answers(other) for other in self.active):
                self.gaps.append(name)
            self.active[name], self.started[name] = "active", time.monotonic() + 0.01
        return 0, "", ""

    def answers(self, name: str) -> bool:
        return self.active.get(name) == "active" and name not in self.broken


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(_systemd, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:root")
    monkeypatch.setattr(_standby, "_answers", machine.answers)
    monkeypatch.setattr(_standby.time, "sleep", lambda _seconds: None)
    return machine


def run(place: Path, machine: Machine, content: str = "a", spare_unit: str = "[Service]\n", check: bool = False) -> Outcome:
    config = FileSpec(place / "etc" / "config", content)
    first = App("one", "[Service]\n", (config,), inputs=(place / "current",))
    second = _standby.standby(first, "spare", spare_unit, (4001,))
    return present_with_standby(Instance(first, "one", 0.05), Instance(second, "spare", 0.05), machine, check)


def test_first_run_starts_both_then_nothing(tmp_path: Path, machine: Machine) -> None:
    assert run(tmp_path, machine, check=True).action == "start"
    assert machine.calls == []
    assert run(tmp_path, machine).changed
    assert machine.calls == ["start one", "start spare"]
    again = run(tmp_path, machine)
    assert (again.changed, again.action, again.diff) == (False, "", {"before": "", "after": ""})


def test_a_change_replaces_the_standby_first(tmp_path: Path, machine: Machine) -> None:
    run(tmp_path, machine)
    machine.calls.clear()
    predicted = run(tmp_path, machine, "b", check=True)
    assert (predicted.action, machine.calls) == ("restart", [])
    assert "spare process: restarted\n" in predicted.diff["after"]
    assert run(tmp_path, machine, "b").diff == predicted.diff
    assert machine.calls == ["restart spare", "restart one"]
    assert machine.gaps == []


def test_a_configuration_that_does_not_come_up_never_reaches_the_first(tmp_path: Path, machine: Machine) -> None:
    run(tmp_path, machine)
    machine.calls.clear()
    machine.broken.add("spare")
    with pytest.raises(LLMError, match="spare did not answer at spare within 0.05 s after its restart, so one was left as it is.\nThe end of its log"):
        run(tmp_path, machine, "b")
    assert machine.calls == ["restart spare"]


def test_the_first_is_not_stopped_while_the_standby_does_not_answer(tmp_path: Path, machine: Machine) -> None:
    run(tmp_path, machine)
    machine.calls.clear()
    machine.broken.add("spare")
    later(tmp_path / "units" / "one.service")
    with pytest.raises(LLMError, match="spare, which would take its place, does not answer at spare, so one was not restarted"):
        run(tmp_path, machine)
    assert machine.calls == []


def test_a_first_that_does_not_answer_is_mended_while_the_standby_does(tmp_path: Path, machine: Machine) -> None:
    run(tmp_path, machine)
    machine.calls.clear()
    machine.broken.add("one")

    def mend(command: list[str]) -> tuple[int, str, str]:
        if command[1:] == ["restart", "one"]:
            machine.broken.clear()
        return machine(command)

    config = FileSpec(tmp_path / "etc" / "config", "b")
    first = App("one", "[Service]\n", (config,), inputs=(tmp_path / "current",))
    second = _standby.standby(first, "spare", "[Service]\n", ())
    present_with_standby(Instance(first, "one", 0.05), Instance(second, "spare", 0.05), mend, check=False)
    assert machine.calls == ["restart one", "restart spare"]
    assert machine.gaps == []


def test_one_that_still_ends_what_it_was_doing_is_waited_for(tmp_path: Path, machine: Machine) -> None:
    """An interrupted run left the first one draining: systemctl start returns when that is over, and only then the standby is touched."""
    run(tmp_path, machine)
    machine.calls.clear()
    machine.active["one"] = "deactivating"
    run(tmp_path, machine, "b")
    assert machine.calls == ["start one", "restart spare"]
    assert machine.gaps == []


def test_a_change_of_its_unit_alone_replaces_only_the_standby(tmp_path: Path, machine: Machine) -> None:
    run(tmp_path, machine)
    machine.calls.clear()
    assert run(tmp_path, machine, spare_unit="[Service]\nNice=1\n").action == "restart"
    assert machine.calls == ["restart spare"]


def test_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()

        def log_message(self, format: str, *args: t.Any) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert _standby._answers(f"{url}/ready")
        assert not _standby._answers(f"{url}/busy")
        server.shutdown()
    assert not _standby._answers(f"{url}/ready")


def later(path: Path) -> None:
    """As if the file had been written after the process started."""
    moment = time.time() + 1
    os.utime(path, (moment, moment))
