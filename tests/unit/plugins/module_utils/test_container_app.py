# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import dataclasses
import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _container_app, _files, _system_user
from ansible_collections.baremetal.llm.plugins.module_utils._container_app import ContainerApp, Host, absent, open_files, prepare, started_at
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, ValidationError
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import Outcome

UNIT_GONE = Outcome(False, "", {"before": "", "after": ""})


class Engine:
    """An engine with one container, or none, and a program in its image that accepts what does not say no."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.there = True
        self.calls: list[str] = []

    def engine_version(self) -> str:
        if not self.there:
            raise NoDocker("No Docker engine listens at /run/docker.sock.")
        return "26.1.5"

    def inspect(self, _name: str) -> dict[str, t.Any] | None:
        self.engine_version()
        if self.started is None:
            return None
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.started))
        state = {"Running": True, "StartedAt": f"{moment}.{int(self.started % 1 * 1e9):09d}Z"}
        return {"Id": "c", "State": state, "Config": {"StopTimeout": 150}, "Image": "sha256:12"}

    def create(self, config: dict[str, t.Any]) -> str:
        self.calls.append(f"{config['Entrypoint'][0]} {config['HostConfig']['Binds'][0]}")
        self.status = 1 if "no" in Path(config["Cmd"][-1]).read_text() else 0
        return "p"

    def run_once(self, _container: str, _seconds: float) -> tuple[int, str, str]:
        return self.status, "", "it says no"

    def stop(self, container: str) -> None:
        self.calls.append(f"stop {container}")

    def remove(self, container: str) -> None:
        self.calls.append(f"remove {container}")

    def remove_image(self, image: str) -> bool:
        self.calls.append(f"remove {image}")
        return True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    users: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(_system_user, "find", users.get)
    monkeypatch.setattr(_system_user, "create", lambda name, *_rest: users.update({name: (os.getuid(), os.getgid())}))
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:llm-x")
    monkeypatch.setattr(_files, "_group_id", lambda _name: 0)
    monkeypatch.setattr(_container_app, "_shown", lambda path: "llm-x:llm-x 0750" if path.exists() else None)
    monkeypatch.setattr(_container_app, "unit_absent", lambda *_arguments: UNIT_GONE)
    monkeypatch.setattr(_container_app, "listeners", lambda: [Listener(8081, "nginx", 7)])
    return Engine()


def app(tmp_path: Path, content: str = "a") -> ContainerApp:
    config = FileSpec(tmp_path / "etc/config", content, group="llm-x", validate=("check", "%s"))
    secret = FileSpec(tmp_path / "etc/key", "k3y", 0o640, "llm-x", secret=True)
    return ContainerApp("llm-x", "x@sha256:12", tmp_path / "home", (config, secret), (tmp_path / "model",), units=("llm-x", "llm-x-standby"))


def host(engine: Engine) -> Host:
    return Host(t.cast(Docker, engine), lambda _command: (0, "", ""))


def test_first_again_changed(tmp_path: Path, engine: Engine) -> None:
    first = prepare(app(tmp_path), host(engine), check=False)
    assert (first.changed, first.restart, first.engine, first.user) == (True, False, "26.1.5", (os.getuid(), os.getgid()))
    assert "k3y" not in str(first.diff)
    assert engine.calls == [f"check {tmp_path}/etc:{tmp_path}/etc:ro", "remove p"]
    engine.started = time.time() + 1
    assert not prepare(app(tmp_path), host(engine), check=False).changed
    changed = prepare(app(tmp_path, "b"), host(engine), check=False)
    assert (changed.changed, changed.restart) == (True, True)


def test_an_input_that_is_newer_than_the_process_restarts_it(tmp_path: Path, engine: Engine) -> None:
    prepare(app(tmp_path), host(engine), check=False)
    engine.started = time.time() + 1
    (tmp_path / "model").touch()
    assert not prepare(app(tmp_path), host(engine), check=False).restart
    os.utime(tmp_path / "model", (engine.started + 1, engine.started + 1))
    late = prepare(app(tmp_path), host(engine), check=False)
    assert (late.changed, late.restart) == (False, True)  # the container's own task says so


def test_a_run_that_was_killed_before_the_restart_is_mended(tmp_path: Path, engine: Engine) -> None:
    engine.started = time.time() - 10
    prepare(app(tmp_path), host(engine), check=False)
    assert prepare(app(tmp_path), host(engine), check=False).restart


def test_a_refused_file_replaces_nothing(tmp_path: Path, engine: Engine) -> None:
    prepare(app(tmp_path), host(engine), check=False)
    with pytest.raises(ValidationError, match="it says no"):
        prepare(app(tmp_path, "no"), host(engine), check=False)
    assert (tmp_path / "etc/config").read_text() == "a"


def test_the_other_way_to_run_it_goes(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    def unit_absent(name: str, *_rest: t.Any) -> Outcome:
        gone.append(name)
        return Outcome(True, "stop", {"before": f"{name}: running\n", "after": f"{name}: stopped\n"})

    monkeypatch.setattr(_container_app, "unit_absent", unit_absent)
    (tmp_path / "opt/current").mkdir(parents=True)
    (tmp_path / "drop-in").touch()
    leaving = dataclasses.replace(app(tmp_path), leftovers=(tmp_path / "opt", tmp_path / "drop-in", tmp_path / "never"))
    assert prepare(leaving, host(engine), check=True).changed
    assert (tmp_path / "opt").exists()
    outcome = prepare(leaving, host(engine), check=False)
    assert gone[2:] == ["llm-x", "llm-x-standby"]
    assert "llm-x-standby: running" in outcome.diff["before"]
    assert str(tmp_path / "opt") in outcome.diff["before"]
    assert not (tmp_path / "opt").exists()
    assert not (tmp_path / "drop-in").exists()


def test_a_taken_port_is_named(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(LLMError, match="port 8081 is already taken by nginx"):
        prepare(dataclasses.replace(app(tmp_path), ports=(8081,)), host(engine), check=False)
    engine.started = time.time() + 1  # it is its own
    prepare(dataclasses.replace(app(tmp_path), ports=(8081,)), host(engine), check=False)


def test_without_an_engine(tmp_path: Path, engine: Engine) -> None:
    engine.there = False
    outcome = prepare(app(tmp_path), host(engine), check=True)
    assert (outcome.changed, outcome.engine, outcome.user) == (True, "", (-1, -1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LLMError, match="Run the role container_toolkit"):
        prepare(app(tmp_path), host(engine), check=False)
    assert not absent("llm-x", t.cast(Docker, engine), check=False).changed


def test_absent(engine: Engine) -> None:
    docker = t.cast(Docker, engine)
    assert not absent("llm-x", docker, check=False, image=True).changed
    engine.started = time.time()
    assert absent("llm-x", docker, check=True, image=True).changed
    assert engine.calls == []
    absent("llm-x", docker, check=False)
    assert engine.calls == ["stop c", "remove c"]
    absent("llm-x", docker, check=False, image=True)
    assert engine.calls[-1] == "remove sha256:12"


def test_when_it_was_started() -> None:
    assert started_at({"Running": True, "StartedAt": "1970-01-01T00:01:00.500000000Z"}) == 60.5
    assert started_at({"Running": True, "StartedAt": "1970-01-01T00:01:00Z"}) == 60
    assert started_at({"Running": False, "StartedAt": "0001-01-01T00:00:00Z"}) is None


def test_files_are_as_many_as_the_machine_allows() -> None:
    assert 0 < open_files() <= 65536
