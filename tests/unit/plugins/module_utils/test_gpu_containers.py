# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Containers that were given GPUs. A stand-in speaks the engine's HTTP over a socket, with answers that a real one gave (fixtures/docker-26.1-*);
the real engine, and cgroups that really refuse a device, are in Molecule's scenario container_toolkit."""

from __future__ import annotations

import errno
import json
import os
import re
import socketserver
import stat
import threading
import typing as t
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _gpu_containers
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, DockerError, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_containers import cgroup_of, given, look, open_inside

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures/docker-26.1-containers.json").read_text())["containers"]
BY_NAME = {about["Name"].lstrip("/"): about for about in RECORDED}


class EngineDouble(socketserver.ThreadingUnixStreamServer):
    """Stand-in for a Docker engine: lists and describes ``containers``; those in ``gone`` are listed but have ended since."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Answers)
        self.containers: dict[str, dict[str, t.Any]] = {}
        self.gone: set[str] = set()
        self.api = "1.45"
        self.broken = False
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: EngineDouble

    def do_GET(self) -> None:
        engine, url = self.server, urlsplit(self.path)
        engine.asked.append(self.path)
        version, _slash, path = url.path.removeprefix("/").partition("/")
        if url.path == "/_ping":
            self.send(200, b"OK")
        elif engine.broken:
            self.send(500, b'{"message":"database is locked"}')
        elif version != f"v{engine.api}":
            self.send(400, b'{"message":"client version is too new"}')
        elif path == "containers/json":
            label = json.loads(parse_qs(url.query)["filters"][0]).get("label", [""])[0]
            names = [name for name, about in engine.containers.items() if not label or label in about["Config"]["Labels"]]
            self.send(200, json.dumps([{"Id": name} for name in [*names, *engine.gone]]).encode())
        else:
            about = engine.containers.get(path.split("/")[1])
            self.send(200, json.dumps(about).encode()) if about else self.send(404, b'{"message":"No such container"}')

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", self.server.api)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: t.Any) -> None:
        pass

    def address_string(self) -> str:
        return "socket"


@pytest.fixture
def engine(tmp_path: Path) -> t.Iterator[EngineDouble]:
    double = EngineDouble(tmp_path / "docker.sock")
    yield double
    double.shutdown()
    double.server_close()


@pytest.fixture
def docker(engine: EngineDouble, tmp_path: Path) -> Docker:
    return Docker(tmp_path / "docker.sock")


def process(proc: Path, pid: int, devices: t.Sequence[str]) -> None:
    """A process with these links in its /dev: to a character device, so that they stand for one."""
    place = proc / str(pid) / "root/dev"
    place.mkdir(parents=True)
    for name in devices:
        os.mkfifo(place / name) if name == "nvidia-uvm" else (place / name).write_text("")


def test_what_was_recorded_is_what_is_known_of_it() -> None:
    assert {name: given(about) for name, about in BY_NAME.items()} == {
        "by-cdi": "cdi",
        "by-runtime": "runtime",
        "by-device": "device",
        "by-request": "request",
        "plain": "",  # the NVIDIA runtime, but NVIDIA_VISIBLE_DEVICES=void
    }


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"DeviceRequests": [{"Driver": "nvidia", "Count": 1, "DeviceIDs": None, "Capabilities": None}]}, "request"),
        ({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.example/nic=0"]}]}, ""),
        ({"Devices": [{"PathOnHost": "/dev/dri/renderD128"}]}, ""),
        ({"Devices": [{"PathOnHost": "/dev/nvidia-uvm"}]}, "device"),
        ({"Devices": None, "DeviceRequests": None, "Runtime": None}, ""),
        ({"Runtime": "nvidia-cdi"}, ""),
    ],
)
def test_how_else_a_container_is_given_gpus(change: dict[str, t.Any], how: str) -> None:
    about = BY_NAME["plain"]
    assert given({**about, "HostConfig": {**about["HostConfig"], **change}}) == how


def test_nobody_listens(tmp_path: Path) -> None:
    found = look(Docker(tmp_path / "docker.sock"))
    assert (found.running, found.containers, found.lost, found.message) == (False, [], [], "")
    with pytest.raises(NoDocker, match=f"No Docker engine listens at {tmp_path}/docker.sock"):
        Docker(tmp_path / "docker.sock").wait(0)


def test_the_engine_names_its_version_and_is_asked_in_it(engine: EngineDouble, docker: Docker) -> None:
    engine.api = "1.52"
    engine.containers = {"a": BY_NAME["plain"]}
    assert docker.running_containers() == ["a"]
    docker.inspect("a")
    assert [path.partition("?")[0] for path in engine.asked] == ["/_ping", "/v1.52/containers/json", "/v1.52/containers/a/json"]


def test_an_engine_that_refuses(engine: EngineDouble, docker: Docker) -> None:
    engine.broken = True
    with pytest.raises(DockerError, match="answers 500 to /containers/json: .*database is locked"):
        docker.running_containers()
    docker.wait(0)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes whose device files are plain files: only root could make others."""
    monkeypatch.setattr(_gpu_containers, "stat", SimpleNamespace(S_ISCHR=stat.S_ISREG))
    return tmp_path / "proc"


def test_who_has_lost_what(engine: EngineDouble, docker: Docker, proc: Path) -> None:
    engine.containers = {name: BY_NAME[name] for name in ("by-runtime", "by-device", "by-cdi", "plain")}
    engine.gone = {"ended"}
    process(proc, BY_NAME["by-cdi"]["State"]["Pid"], ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"])
    process(proc, BY_NAME["by-device"]["State"]["Pid"], ["nvidia0"])
    process(proc, BY_NAME["by-runtime"]["State"]["Pid"], ["nvidiactl"])
    asked: list[tuple[int, list[str]]] = []

    def opener(pid: int, names: list[str]) -> dict[str, int]:
        asked.append((pid, names))
        return {name: errno.EPERM if name == "nvidia1" else 0 for name in names}

    found = look(docker, "", proc, opener)
    assert [(one["name"], one["how"], one["ok"], one["reason"]) for one in found.containers] == [
        ("by-cdi", "cdi", False, "/dev/nvidia1: Operation not permitted (its cgroup does not allow the device any more)"),
        ("by-device", "device", True, ""),
        ("by-runtime", "runtime", False, "it has no GPU in its /dev"),
    ]
    # the link and the FIFO of the first one are no device files
    assert (BY_NAME["by-cdi"]["State"]["Pid"], ["nvidia0", "nvidia1", "nvidiactl"]) in asked
    assert found.containers[0]["devices"] == ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]
    assert [one["name"] for one in found.lost] == ["by-cdi", "by-runtime"]
    assert re.search(r"\n- by-cdi: /dev/nvidia1: .*\n- by-runtime: it has no GPU in its /dev\nRestart these containers", found.message)


def test_only_those_with_a_label(engine: EngineDouble, docker: Docker, proc: Path) -> None:
    ours = {**BY_NAME["by-cdi"], "Config": {"Env": None, "Labels": {"ours": "1"}}}
    engine.containers = {"a": ours, "b": BY_NAME["by-device"]}
    process(proc, ours["State"]["Pid"], ["nvidia0"])
    assert [one["id"] for one in look(docker, "ours", proc, lambda _pid, names: dict.fromkeys(names, 0)).containers] == ["a"]


def test_what_cannot_be_tested_is_neither_well_nor_lost(engine: EngineDouble, docker: Docker, proc: Path) -> None:
    paused = {**BY_NAME["by-cdi"], "State": {"Paused": True, "Pid": 1}}
    engine.containers = {"ended": BY_NAME["by-device"], "paused": paused}
    found = look(docker, "", proc, lambda _pid, _names: pytest.fail("a child would freeze in a paused container"))
    assert [(one["name"], one["ok"]) for one in found.containers] == [("by-cdi", None), ("by-device", None)]
    assert "paused" in found.containers[0]["reason"]
    assert "could not be tested" in found.containers[1]["reason"]
    assert found.lost == []


V1 = "12:devices:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n"
V2 = "0::/system.slice/docker-abc.scope\n"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "where"),
    [
        (V1, "33 30 0:29 / {0}/devices rw - cgroup cgroup rw,devices\n34 30 0:30 / {0}/unified rw - cgroup2 cgroup2 rw\n", "devices/docker/abc"),
        (V1, "33 30 0:29 /docker {0}/devices rw - cgroup cgroup rw,devices\n", "devices/abc"),
        (V2, "34 30 0:30 / {0} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "system.slice/docker-abc.scope"),
        (V1, "34 30 0:30 / {0}/unified rw - cgroup2 cgroup2 rw\n", "unified/docker/abc"),
    ],
)
def test_the_cgroup_that_decides(tmp_path: Path, cgroup: str, mounts: str, where: str) -> None:
    for pid in ("7", "self"):
        (tmp_path / pid).mkdir()
    (tmp_path / "7/cgroup").write_text(cgroup)
    (tmp_path / "self/mountinfo").write_text("20 1 0:1 / / rw - overlay overlay rw\n" + mounts.format(tmp_path))
    assert cgroup_of(7, tmp_path) == tmp_path / where
    (tmp_path / "self/mountinfo").write_text("20 1 0:1 / / rw - overlay overlay rw\n")
    with pytest.raises(LLMError, match="the cgroup of process 7 is not mounted"):
        cgroup_of(7, tmp_path)


@pytest.fixture
def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for the container's cgroup, and a process whose /dev has two files."""
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(_gpu_containers, "cgroup_of", lambda _pid, _proc: tmp_path / "cgroup")
    process(tmp_path, 7, ["nvidia0"])
    return tmp_path


def test_the_child_enters_opens_and_ends(entered: Path) -> None:
    (entered / "7/root/dev/nvidia1").symlink_to("nvidia0")
    answers = open_inside(7, ["nvidia0", "nvidia1", "nvidia2"], entered)
    assert answers == {"nvidia0": 0, "nvidia1": errno.ELOOP, "nvidia2": errno.ENOENT}
    assert (entered / "cgroup/cgroup.procs").read_text() == "0"
    with pytest.raises(ChildProcessError):  # nothing of it is left
        os.waitpid(-1, os.WNOHANG)


def test_a_cgroup_that_has_gone(entered: Path) -> None:
    (entered / "cgroup").rmdir()
    with pytest.raises(LLMError, match="could not be entered: No such file or directory"):
        open_inside(7, ["nvidia0"], entered)


def test_a_device_that_hangs(entered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_containers, "_SECONDS", 0.2)
    monkeypatch.setattr(_gpu_containers, "_open", lambda _path: threading.Event().wait())
    with pytest.raises(LLMError, match="did not open within"):
        open_inside(7, ["nvidia0"], entered)
    os.wait()  # it was killed, though not waited for
