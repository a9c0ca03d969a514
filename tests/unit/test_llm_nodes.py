# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What holds the hosts of one vLLM server together: real processes, with a sleep in place of vLLM, on addresses of the loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAD, WORKER = "127.0.0.1", "127.0.0.2"
PROGRAM = Path(__file__).parents[2] / "roles/vllm/files/llm_nodes.py"
# psutil is of vLLM's environment
RUN = f"""
import sys
sys.path.insert(0, {str(PROGRAM.parent)!r})
import llm_nodes
llm_nodes.network = lambda address: {{"VLLM_HOST_IP": address}}
llm_nodes.ENDING, llm_nodes.RETRY, llm_nodes.POLL = 2.0, 0.1, 0.1
sys.exit(llm_nodes.main(sys.argv[1:]))
"""
# The server with its engine: it says when it is there, ends by itself once its engine is gone, and ends what runs when it is told to stop.
SERVER = """
import os, signal, subprocess, sys, time
engine = subprocess.Popen(["sleep", "60"])
def stop(*_ignored):
    print("ends its answers", flush=True)
    time.sleep(0.3)
    engine.kill()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("runs at", os.environ["VLLM_HOST_IP"], engine.pid, flush=True)
engine.wait()
print("its engine is gone", flush=True)
"""


class Node:
    def __init__(self, rank: int, port: int, log: Path, same: str = "one") -> None:
        self.log = log
        arguments = [f"--nodes={HEAD},{WORKER}", f"--rank={rank}", f"--port={port}", f"--same={same}", "--", sys.executable, "-c", SERVER]
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=out, stderr=out, start_new_session=True)

    def said(self, what: str, seconds: float = 15) -> str:
        """Its log, as soon as that is in it."""
        end = time.monotonic() + seconds
        while what not in self.log.read_text():
            assert time.monotonic() < end, f"{what!r} is not in: {self.log.read_text()}"
            time.sleep(0.05)
        return self.log.read_text()

    def engine(self) -> int:
        return int(self.said("runs at").split("runs at")[-1].split()[1])


Start = t.Callable[..., Node]


@pytest.fixture
def port() -> int:
    with socket.create_server((HEAD, 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def start(port: int, tmp_path: Path) -> Iterator[Start]:
    nodes: list[Node] = []

    def make(rank: int, same: str = "one") -> Node:
        nodes.append(Node(rank, port, tmp_path / f"{len(nodes)}.log", same))
        return nodes[-1]

    yield make
    for node in nodes:
        node.process.kill()
        node.process.wait()
        for line in node.log.read_text().splitlines():
            if line.startswith("runs at") and is_there(engine := int(line.split()[-1])):
                os.kill(engine, signal.SIGKILL)


def is_there(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.fixture
def pair(start: Start) -> tuple[Node, Node]:
    worker, head = start(1), start(0)
    head.said(f"runs at {HEAD}")
    worker.said(f"runs at {WORKER}")
    return head, worker


def test_nothing_runs_before_all_are_there(start: Start) -> None:
    head = start(0)
    head.said(f"waits for {WORKER}")
    time.sleep(0.5)
    assert "runs at" not in head.log.read_text()
    start(1).said(f"runs at {WORKER}")
    head.said(f"runs at {HEAD}")


def test_a_killed_worker_ends_the_engine_of_its_head(pair: tuple[Node, Node]) -> None:
    head, worker = pair
    engine = head.engine()
    os.killpg(worker.process.pid, signal.SIGKILL)
    assert head.process.wait(15) == 1
    text = head.said("its engine is gone")  # the server itself lives until it has told its clients
    assert f"{WORKER} is gone" in text
    assert not is_there(engine)


def test_a_killed_head_ends_its_workers(pair: tuple[Node, Node]) -> None:
    head, worker = pair
    os.killpg(head.process.pid, signal.SIGKILL)
    assert worker.process.wait(15) == 1
    assert f"{HEAD} is gone" in worker.log.read_text()


def test_what_dies_on_a_worker_takes_all_along(pair: tuple[Node, Node]) -> None:
    head, worker = pair
    os.kill(worker.engine(), signal.SIGKILL)
    worker.process.wait(15)
    assert head.process.wait(15) == 1


def test_a_worker_that_is_told_to_stop_lets_the_head_end_its_answers(pair: tuple[Node, Node]) -> None:
    head, worker = pair
    worker.process.terminate()
    assert head.process.wait(15) == 0
    assert "ends its answers" in head.log.read_text()
    assert "its engine is gone" not in head.log.read_text()
    assert worker.process.wait(15) == 1


def test_a_head_that_is_told_to_stop_ends_its_answers(pair: tuple[Node, Node]) -> None:
    head, worker = pair
    head.process.terminate()
    assert head.process.wait(15) == 0
    assert "ends its answers" in head.log.read_text()
    worker.process.wait(15)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_waits_stops_at_once(start: Start, rank: int) -> None:
    node = start(rank)
    node.said("waits for")
    node.process.terminate()
    assert node.process.wait(5) == 0


def test_another_configuration_waits(start: Start) -> None:
    head, worker = start(0), start(1, same="other")
    worker.said("has another configuration")
    assert "runs at" not in head.log.read_text()
    worker.process.terminate()
    start(1).said(f"runs at {WORKER}")
    head.said(f"runs at {HEAD}")


def test_a_stranger_is_not_let_in(start: Start, port: int) -> None:
    head = start(0)
    head.said("waits for")
    with socket.create_connection((HEAD, port), source_address=("127.0.0.3", 0)) as stranger:
        stranger.sendall(b"one\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(20) == b""
    assert "runs at" not in head.log.read_text()
