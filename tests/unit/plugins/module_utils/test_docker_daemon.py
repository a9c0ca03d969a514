# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""daemon.json and the engine. The real engine is asked in Molecule (scenario container_toolkit); here a stand-in answers its commands."""

from __future__ import annotations

import json
import os
import stat
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _docker_daemon, _files
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._docker_daemon import Engine, Host, apply, due
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import ValidationError
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import Outcome, SystemdError

CDI = {"features": {"cdi": True}}
RUNTIME = {"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}


class Killed(BaseException):
    """The run ends here, as by SIGKILL: nothing that it would still do is done."""


class DockerDouble(Docker):
    """Stand-in for dockerd, its unit and its socket: loads its file at a start, of a reload what a reload takes, and refuses ``broken`` files."""

    def __init__(self, config: Path, version: str = "26.1.5+dfsg1") -> None:
        self.config, self.version = config, version
        self.running = True
        self.started = time.monotonic() - 60
        self.loaded: t.Any = self.read()
        self.broken: t.Callable[[dict[str, t.Any]], bool] = lambda _config: False
        self.killed_at = ""
        self.calls: list[str] = []

    def read(self) -> dict[str, t.Any]:
        return json.loads(self.config.read_text() or "{}") if self.config.exists() else {}

    def wait(self, seconds: float) -> None:
        if not self.running:
            raise NoDocker("No Docker engine listens.")

    def run(self, command: list[str]) -> tuple[int, str, str]:
        if command[1:] == ["--version"]:
            return 0, f"Docker version {self.version}, build 411e817\n", ""
        if "--validate" in command:
            bad = self.broken(json.loads(Path(command[-1]).read_text()))
            return (1, "", "unable to configure the Docker daemon: invalid logging level") if bad else (0, "", "configuration OK")
        if command[0] == "journalctl":
            return 0, "failed to start daemon: it said why\n", ""
        return self.systemctl(command[1])

    def systemctl(self, verb: str) -> tuple[int, str, str]:
        if verb == "show":
            active = "active" if self.running else "failed"
            return 0, f"LoadState=loaded\nActiveState={active}\nExecMainStartTimestampMonotonic={int(self.started * 1e6)}\n", ""
        if verb == "reset-failed":
            return 0, "", ""
        if self.killed_at == f"before {verb}":
            raise Killed
        self.calls.append(verb)
        self.running = not self.broken(self.read())
        if verb != "reload":
            self.started = time.monotonic()
        self.loaded = self.read()
        if self.killed_at == f"after {verb}":
            raise Killed
        return (0, "", "") if self.running else (1, "", "Job for docker.service failed")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file, as old as a file of a user is."""
    path = tmp_path / "etc/docker/daemon.json"
    monkeypatch.setattr(_docker_daemon, "CONFIG", path)
    monkeypatch.setattr(_docker_daemon, "RECORD", tmp_path / "lib/docker/daemon.json")
    monkeypatch.setattr(_docker_daemon, "LOADED", tmp_path / "run/docker.json")
    monkeypatch.setattr(_docker_daemon.shutil, "which", lambda program, path: f"/usr/sbin/{program}")
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    path.parent.mkdir(parents=True)
    write(path, '{\n    "storage-driver": "vfs",\n    "log-opts": {"max-size": "5m"}\n}\n')
    return path


def write(path: Path, text: str, age: float = 3600) -> None:
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))


def run(docker: DockerDouble, wanted: dict[str, t.Any] | None, check: bool = False) -> Outcome:
    """``None`` is ``state: absent``."""
    return apply(wanted or {}, wanted is not None, Host(docker.run, docker), check)


def left(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_in_again_and_out(config: Path, tmp_path: Path) -> None:
    config.chmod(0o640)
    theirs = config.read_text()
    docker = DockerDouble(config)
    predicted = run(docker, CDI, check=True)
    assert (predicted.changed, predicted.action, docker.calls, config.read_text()) == (True, "restart", [], theirs)
    done = run(docker, CDI)
    assert (done, docker.calls) == (predicted, ["restart"])
    assert docker.loaded == {"storage-driver": "vfs", "log-opts": {"max-size": "5m"}, "features": {"cdi": True}}
    assert config.read_text().startswith('{\n    "storage-driver": "vfs",\n    "log-opts": {'), "in the user's order and indentation"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    again = run(docker, CDI)
    assert (again.changed, again.action, again.diff, docker.calls) == (False, "", {"before": "", "after": ""}, ["restart"])
    assert run(docker, None).action == "restart"
    assert json.loads(config.read_text()) == json.loads(theirs)
    assert left(tmp_path) == ["etc/docker/daemon.json"]
    assert not run(docker, None).changed
    assert docker.calls == ["restart", "restart"]


def test_the_difference_names_the_keys(config: Path) -> None:
    diff = run(DockerDouble(config), {"log-opts": {"max-size": "10m"}, "debug": True, "proxies": {"http-proxy": "http://me:hush@proxy"}}, check=True).diff
    assert diff["before"] == (
        f'{config}: log-opts.max-size: "5m"\n{config}: debug: (absent)\n{config}: proxies.http-proxy: (absent)\ndocker: older than {config}\n'
    )
    assert diff["after"] == (
        f'{config}: log-opts.max-size: "10m"\n{config}: debug: true\n{config}: proxies.http-proxy: (secret)\ndocker: restarted\n'
    )


def test_a_file_of_ours_goes_with_our_last_key(config: Path, tmp_path: Path) -> None:
    config.unlink()
    docker = DockerDouble(config)
    run(docker, CDI)
    assert json.loads(config.read_text()) == CDI
    run(docker, None)
    assert left(tmp_path) == []
    assert docker.loaded == {}


def test_an_empty_file_is_the_users(config: Path, tmp_path: Path) -> None:
    write(config, "")
    docker = DockerDouble(config)
    run(docker, CDI)
    run(docker, None)
    assert json.loads(config.read_text()) == {}
    assert left(tmp_path) == ["etc/docker/daemon.json"]


def test_what_is_no_longer_wanted_goes_back(config: Path) -> None:
    docker = DockerDouble(config)
    run(docker, {**CDI, "log-opts": {"max-size": "10m"}})
    run(docker, {"debug": True})
    assert docker.loaded == {"storage-driver": "vfs", "log-opts": {"max-size": "5m"}, "debug": True}


def test_a_runtime_needs_only_a_reload(config: Path) -> None:
    docker = DockerDouble(config, "20.10.24+dfsg1")
    started = docker.started
    assert run(docker, RUNTIME).action == "reload"
    assert docker.started == started
    assert not run(docker, RUNTIME).changed, "the file is newer than the process, but it has been reloaded since"
    assert run(docker, {**RUNTIME, "default-runtime": "nvidia"}).action == "reload"
    assert run(docker, {**RUNTIME, "ipv6": True}).action == "restart"
    assert docker.calls == ["reload", "reload", "restart"]


@pytest.mark.parametrize(
    ("loaded", "new", "version", "action"),
    [
        ({}, CDI, (26, 1), "restart"),
        ({}, CDI, (28, 2), "reload"),  # it is on by default
        ({"features": {"cdi": False}}, CDI, (28, 2), "restart"),
        (CDI, {}, (28, 2), "reload"),
        (CDI, {}, (26, 1), "restart"),
        ({}, {"features": {"buildkit": True}}, (26, 1), "reload"),
        ({}, RUNTIME, (26, 1), "reload"),
        (RUNTIME, {}, (26, 1), "restart"),  # a reload does not look at keys that are not there
        ({"runtimes": {"a": {"path": "/a"}, **RUNTIME["runtimes"]}}, {"runtimes": {"a": {"path": "/a"}}}, (26, 1), "reload"),
        ({}, {"live-restore": True}, (20, 10), "reload"),
        ({}, {"live-restore": True, "log-driver": "local"}, (20, 10), "restart"),
        (CDI, CDI, (26, 1), ""),
        (None, CDI, (26, 1), "restart"),
    ],
)
def test_reload_or_restart(loaded: t.Any, new: dict[str, t.Any], version: tuple[int, int], action: str) -> None:
    assert due(Engine(version, True, loaded), new, present=True) == action


def test_an_engine_that_is_stopped_is_started_but_not_to_be_rid_of_us(config: Path) -> None:
    docker = DockerDouble(config)
    docker.running = False
    assert run(docker, {}).action == "start"
    run(docker, CDI)
    docker.running, docker.calls = False, []
    assert run(docker, None).action == ""
    assert docker.calls == []


def test_a_users_own_edit_is_not_our_business_without_keys_of_ours(config: Path) -> None:
    docker = DockerDouble(config)
    write(config, '{"storage-driver": "overlay2"}', age=0)
    nothing: dict[str, t.Any] = {}
    for wanted in (nothing, None):
        assert not run(docker, wanted).changed
    assert docker.calls == []


def test_a_file_that_is_newer_than_the_engine_restarts_it(config: Path) -> None:
    docker = DockerDouble(config)
    run(docker, CDI)
    write(config, json.dumps({**docker.read(), "ipv6": True}), age=-1)
    assert run(docker, CDI).action == "restart"
    assert docker.loaded["ipv6"]


@pytest.mark.parametrize("killed_at", ["before restart", "after restart", "before reload", "after reload"])
def test_a_killed_run_is_mended_by_the_next(config: Path, tmp_path: Path, killed_at: str) -> None:
    wanted = CDI if "restart" in killed_at else RUNTIME
    theirs = config.read_text()
    docker = DockerDouble(config)
    docker.killed_at = killed_at
    with pytest.raises(Killed):
        run(docker, wanted)
    docker.killed_at = ""
    run(docker, wanted)
    assert docker.loaded == {**json.loads(theirs), **wanted}
    assert set(docker.calls) == {killed_at.split()[1]}, "what needs a reload does not get a restart because a run was killed"
    assert not run(docker, wanted).changed
    run(docker, None)
    assert json.loads(config.read_text()) == json.loads(theirs) == docker.loaded
    assert left(tmp_path) == ["etc/docker/daemon.json"]


def test_a_removal_that_is_killed_is_mended_too(config: Path, tmp_path: Path) -> None:
    theirs = config.read_text()
    docker = DockerDouble(config)
    run(docker, CDI)
    docker.killed_at = "before restart"
    with pytest.raises(Killed):
        run(docker, None)
    docker.killed_at = ""
    assert run(docker, None).action == "restart"
    assert docker.loaded == json.loads(theirs)
    assert left(tmp_path) == ["etc/docker/daemon.json"]


def test_the_engine_judges_the_file_first(config: Path, tmp_path: Path) -> None:
    docker = DockerDouble(config)
    theirs = config.read_text()
    docker.broken = lambda content: content.get("log-level") == "loud"
    with pytest.raises(ValidationError, match=f"{config}: /usr/sbin/dockerd refuses the new content, so nothing was replaced: .*invalid logging level"):
        run(docker, {"log-level": "loud"})
    assert (config.read_text(), docker.calls) == (theirs, [])
    assert left(tmp_path) == ["etc/docker/daemon.json"], "nothing is ours"


def test_an_engine_that_cannot_judge_gets_its_old_file_back(config: Path) -> None:
    docker = DockerDouble(config, "20.10.24+dfsg1")
    run(docker, CDI)
    before = config.read_text()
    docker.broken = lambda content: content.get("log-level") == "loud"
    with pytest.raises(SystemdError, match="did not restart with the new .* as it was, and Docker runs with it again.\nThe end of its log:\n.*it said why"):
        run(docker, {**CDI, "log-level": "loud"})
    assert config.read_text() == before
    assert docker.running
    assert docker.loaded == json.loads(before)
    assert not run(docker, CDI).changed


def test_an_engine_that_was_broken_before_us_is_named(config: Path) -> None:
    docker = DockerDouble(config, "20.10.24+dfsg1")
    docker.broken, docker.running = lambda _content: True, False
    with pytest.raises(SystemdError, match="as it was, but Docker does not run with it either"):
        run(docker, CDI)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n  "debug": true,\n}\n', r"daemon.json, line \d, column \d+: this is not JSON .* nothing was changed"),
        ('["debug"]', "holds \\['debug'\\], where Docker wants an object"),
        (b'{"log-driver": "\xff"}', "daemon.json is not UTF-8"),
    ],
)
def test_a_file_that_docker_could_not_read_either(config: Path, tmp_path: Path, text: str | bytes, says: str) -> None:
    docker = DockerDouble(config)
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    kept = config.read_bytes()
    for wanted in (CDI, None):
        with pytest.raises(InputError, match=says):
            run(docker, wanted)
    assert (config.read_bytes(), docker.calls, left(tmp_path)) == (kept, [], ["etc/docker/daemon.json"])


def test_a_link_is_followed(config: Path, tmp_path: Path) -> None:
    real = tmp_path / "srv/daemon.json"
    real.parent.mkdir()
    config.rename(real)
    config.symlink_to(real)
    run(DockerDouble(config), CDI)
    assert config.is_symlink()
    assert json.loads(real.read_text())["features"] == {"cdi": True}


def test_without_docker(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker_daemon.shutil, "which", lambda _program, path: None)
    docker = DockerDouble(config)
    with pytest.raises(LLMError, match="There is no Docker engine"):
        run(docker, CDI)
    predicted = run(docker, CDI, check=True)
    assert (predicted.changed, predicted.action) == (True, "start")
    assert not run(docker, None).changed
