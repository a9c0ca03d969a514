# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of a Docker engine besides its list of containers. A stand-in answers over a socket; Molecule's scenario containers asks a real one."""

from __future__ import annotations

import json
import socketserver
import threading
import typing as t
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _docker_api
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, DockerError, has_cdi, split_streams
from ansible_collections.baremetal.llm.plugins.module_utils._program import run_program

Answer = tuple[int, bytes]


class EngineDouble(socketserver.ThreadingUnixStreamServer):
    """Stand-in for a Docker engine: gives the answers that it was told, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Answers)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, t.Any]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: EngineDouble

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        question = f"{self.command} {self.path.removeprefix('/v1.45')}"
        if self.path != "/_ping":
            self.server.asked.append((question, json.loads(body or "null")))
        status, answer = (200, b"OK") if self.path == "/_ping" else self.server.answers.get(question, (404, b'{"message":"no such thing"}'))
        self.send_response(status)
        self.send_header("Api-Version", "1.45")
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if status != 204:
            self.wfile.write(answer)

    do_POST = do_DELETE = do_GET

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


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def test_an_image_is_asked_for_by_its_content(engine: EngineDouble, docker: Docker) -> None:
    engine.answers["GET /images/lan:5000/x/y@sha256:12/json"] = (200, b'{"Id": "sha256:34"}')
    assert docker.image("lan:5000/x/y@sha256:12") == {"Id": "sha256:34"}
    assert docker.image("sha256:56") is None


def test_a_program_runs_once_without_network_and_leaves_nothing(engine: EngineDouble, docker: Docker) -> None:
    engine.answers |= {
        "POST /containers/create": (201, b'{"Id": "c"}'),
        "POST /containers/c/start": (204, b""),
        "POST /containers/c/wait": (200, b'{"StatusCode": 3}'),
        "GET /containers/c/logs?stdout=1&stderr=1": (200, frame(1, b"--ctx") + frame(2, b"warning\n") + frame(1, b"-size\n")),
        "DELETE /containers/c?force=1&v=1": (204, b""),
    }
    answer = run_program(docker, "x@sha256:12", ["/app/p", "--help"], read=["/etc/llm/x"], environment={"A": "b"})
    assert answer == (3, "--ctx-size\n", "warning\n")
    config = engine.asked[0][1]
    host = config["HostConfig"]
    assert (config["Entrypoint"], config["Cmd"], config["Env"]) == (["/app/p"], ["--help"], ["HOME=/tmp", "A=b"])
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"], host["Binds"]) == ("none", True, ["ALL"], ["/etc/llm/x:/etc/llm/x:ro"])
    assert "DeviceRequests" not in host
    assert engine.asked[-1][0].startswith("DELETE")
    run_program(docker, "x", ["p"], user="7:8")
    assert (config["User"], engine.asked[5][1]["User"]) == ("0:0", "7:8")


def test_a_program_that_does_not_start_leaves_nothing_either(engine: EngineDouble, docker: Docker) -> None:
    engine.answers |= {
        "POST /containers/create": (201, b'{"Id": "c"}'),
        "POST /containers/c/start": (400, b'{"message":"no such file: /app/p"}'),
        "DELETE /containers/c?force=1&v=1": (204, b""),
    }
    with pytest.raises(DockerError, match=r"answers 400 to /containers/c/start: .*no such file: /app/p"):
        run_program(docker, "x@sha256:12", ["/app/p"])
    assert engine.asked[-1][0].startswith("DELETE")


@pytest.mark.parametrize(("version", "cdi"), [("20.10.24+dfsg1", False), ("24.0.9", False), ("25.0.0", True), ("29.1.3", True)])
def test_gpus_are_given_as_the_engine_can(engine: EngineDouble, docker: Docker, version: str, cdi: bool) -> None:
    assert has_cdi(version) is cdi
    engine.answers |= {
        "GET /version": (200, json.dumps({"Version": version}).encode()),
        "POST /containers/create": (201, b'{"Id": "c"}'),
    }
    with pytest.raises(DockerError):
        run_program(docker, "x", ["p"], gpus=True)
    config = next(body for question, body in engine.asked if question == "POST /containers/create")
    assert ("nvidia.com/gpu=all" in str(config["HostConfig"].get("DeviceRequests"))) is cdi
    assert (config["HostConfig"].get("Runtime"), "NVIDIA_VISIBLE_DEVICES=all" in config["Env"]) == ((None, False) if cdi else ("nvidia", True))


@pytest.mark.parametrize(("config", "seconds"), [({}, 70), ({"StopTimeout": 150}, 210)])
def test_one_is_given_its_own_time_to_stop(
    engine: EngineDouble, docker: Docker, monkeypatch: pytest.MonkeyPatch, config: dict[str, int], seconds: float
) -> None:
    waits = []

    class Connection(_docker_api._Connection):
        def __init__(self, path: Path, timeout: float) -> None:
            waits.append(timeout)
            super().__init__(path, timeout)

    monkeypatch.setattr(_docker_api, "_Connection", Connection)
    engine.answers |= {"GET /containers/c/json": (200, json.dumps({"Config": config}).encode()), "POST /containers/c/stop": (204, b"")}
    docker.stop("c")
    assert (engine.asked[-1][0], waits[-1]) == ("POST /containers/c/stop", seconds)


def test_removing_what_is_gone_is_no_error(engine: EngineDouble, docker: Docker) -> None:
    docker.stop("c")
    docker.remove("c")
    assert docker.remove_image("sha256:12")
    engine.answers["DELETE /images/sha256:12"] = (409, b'{"message":"in use"}')
    assert not docker.remove_image("sha256:12")


def test_a_log_that_was_cut_is_read_as_far_as_it_goes() -> None:
    assert split_streams(frame(1, b"whole") + frame(2, b"part")[:-2]) == {1: "whole", 2: "pa"}
    assert split_streams(b"") == {1: "", 2: ""}
