"""One model on two machines: it streams, only its machines reach each other's ports, and what happens when a part of it goes."""

from __future__ import annotations

import json
import subprocess
import time
import typing as t

import pytest

NAME = "baremetal-llm-test-multihost-{}"
HEAD, WORKER, GATEWAY = (NAME.format(role) for role in ("head", "worker", "gateway"))
ADDRESSES = {HEAD: "10.85.26.21", WORKER: "10.85.26.22", GATEWAY: "10.85.26.10"}
UNITS = {HEAD: "llm-vllm", WORKER: "llm-vllm-part"}
# Streams one answer and prints what came of it: status, words, the last event but the end, whether there was an end, seconds from the error on.
ASK = """
import json, sys, time, urllib.error, urllib.request
key, tokens = json.loads(sys.argv[1])
body = {"model": "giant", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "temperature": 0, "stream": True}
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
words, last, done, status = 0, "", False, 0
try:
    answer = urllib.request.urlopen(urllib.request.Request("http://10.85.26.21:8100/v1/chat/completions", json.dumps(body).encode(), headers), timeout=120)
    status = answer.status
    for line in answer:
        text = line.decode().strip().removeprefix("data: ")
        if text == "[DONE]":
            done = True
        elif text.startswith("{"):
            last = text
            for choice in json.loads(text).get("choices", []):
                words += len((choice["delta"].get("content") or "").split())
                if words:
                    print("streams", file=sys.stderr, flush=True)
except urllib.error.HTTPError as error:
    status, last = error.code, error.read().decode()
except OSError as error:
    last = repr(error)
print(json.dumps({"status": status, "words": words, "last": last, "done": done, "at": time.time()}))
"""
REACH = """
import json, socket, sys
address, ports = json.loads(sys.argv[1])
found = []
for port in ports:
    try:
        socket.create_connection((address, port), timeout=3).close()
        found.append(port)
    except OSError:
        pass
print(json.dumps(found))
"""


def shell(machine: str, command: str) -> str:
    return subprocess.run(["docker", "exec", machine, "sh", "-ec", command], check=True, capture_output=True, text=True).stdout


def python(machine: str, program: str, given: t.Any) -> subprocess.Popen[str]:
    command = ["docker", "exec", machine, "python3", "-c", program, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def key() -> str:
    (line,) = [line for line in shell(HEAD, "cat /etc/llm/vllm/config.yaml").splitlines() if line.startswith("api-key: ")]
    return str(json.loads(line.removeprefix("api-key: "))[0])


def answered(asking: subprocess.Popen[str]) -> dict[str, t.Any]:
    output, errors = asking.communicate(timeout=200)
    assert asking.returncode == 0, errors[-2000:]
    return dict(json.loads(output))


def ask(key: str, tokens: int = 16) -> dict[str, t.Any]:
    return answered(python(GATEWAY, ASK, [key, tokens]))


def streaming(key: str, tokens: int) -> subprocess.Popen[str]:
    """An answer that has begun."""
    asking = python(GATEWAY, ASK, [key, tokens])
    assert asking.stderr
    assert asking.stderr.readline() == "streams\n"
    return asking


def is_healthy() -> bool:
    return subprocess.run(["docker", "exec", HEAD, "python3", "-c", HEALTH], check=False, capture_output=True).returncode == 0


HEALTH = "import urllib.request; urllib.request.urlopen('http://10.85.26.21:8100/health', timeout=5)"


def until(healthy: bool, seconds: float) -> float:
    began = time.monotonic()
    while is_healthy() != healthy:
        assert time.monotonic() < began + seconds, shell(HEAD, "journalctl --no-pager --unit=llm-vllm --lines=30")
        time.sleep(1)
    return time.monotonic() - began


def listening(machine: str) -> list[int]:
    lines = shell(machine, "ss --listening --tcp --numeric --no-header").splitlines()
    return [int(line.split()[3].rpartition(":")[2]) for line in lines if not line.split()[3].startswith("127.")]


def test_both_machines_have_a_part_of_it() -> None:
    logs = {machine: shell(machine, f"journalctl --no-pager --output=cat --unit={UNITS[machine]}") for machine in UNITS}
    assert "Worker_TP0" in logs[HEAD]
    assert "Worker_TP1" not in logs[HEAD]
    assert "Worker_TP1" in logs[WORKER]


def test_it_streams_to_the_gateway(key: str) -> None:
    answer = ask(key, 64)
    assert (answer["status"], answer["words"], answer["done"]) == (200, 64, True), answer
    assert ask("0" * 32)["status"] == 401


def test_nobody_but_its_machines_reaches_what_they_tell_each_other() -> None:
    for machine, other in ((HEAD, WORKER), (WORKER, HEAD)):
        ports = listening(machine)
        assert len(ports) > 5
        allowed = [8100] if machine == HEAD else []
        assert json.loads(python(GATEWAY, REACH, [ADDRESSES[machine], ports]).communicate()[0]) == allowed
        reached = json.loads(python(other, REACH, [ADDRESSES[machine], [port for port in ports if port > 32767]]).communicate()[0])
        assert sorted(reached) == sorted(port for port in ports if port > 32767)


def test_the_worker_has_no_key(key: str) -> None:
    assert "api-key" not in shell(WORKER, "cat /etc/llm/vllm-part/config.yaml")
    assert oct(int(shell(WORKER, "stat --format=%a /etc/llm/vllm-part/config.yaml"), 8)) == "0o640"


def test_a_part_that_dies_in_silence_is_noticed_and_comes_back(key: str) -> None:
    shell(WORKER, "kill -9 $(systemctl show --value --property=MainPID llm-vllm-part)")
    down = until(False, 60)
    up = until(True, 600)
    print(f"worker killed, nobody asking: not healthy after {down:.0f} s, healthy again {up:.0f} s later")
    assert ask(key)["words"] == 16


def test_a_part_that_dies_in_the_middle_of_an_answer_ends_it_with_an_error(key: str) -> None:
    asking = streaming(key, 1900)
    killed = time.time()
    shell(WORKER, "kill -9 $(systemctl show --value --property=MainPID llm-vllm-part)")
    answer = answered(asking)
    print(f"worker killed in an answer: it ended {answer['at'] - killed:.1f} s later with {answer['last'][:200]}")
    assert answer["words"] < 1900
    assert '"error"' in answer["last"]
    assert answer["at"] - killed < 20
    until(True, 600)
    assert ask(key)["words"] == 16


def test_a_head_that_dies_takes_its_workers_along_and_comes_back(key: str) -> None:
    before = shell(WORKER, "systemctl show --value --property=MainPID llm-vllm-part")
    shell(HEAD, "kill -9 $(systemctl show --value --property=MainPID llm-vllm)")
    until(False, 60)
    until(True, 600)
    assert shell(WORKER, "systemctl show --value --property=MainPID llm-vllm-part") != before
    assert ask(key)["words"] == 16


def test_a_worker_that_is_stopped_lets_running_answers_end(key: str) -> None:
    asking = streaming(key, 400)
    shell(WORKER, "systemctl stop llm-vllm-part")
    answer = answered(asking)
    assert (answer["words"], answer["done"]) == (400, True), answer
    assert '"finish_reason":"length"' in answer["last"]
    assert not is_healthy()
    shell(WORKER, "systemctl start llm-vllm-part")
    until(True, 600)
