"""The router in its container, from outside: who is let in, what it may do, where its key is, what its log says, how it comes back."""

from __future__ import annotations

import json
import time
import typing as t

import pytest

testinfra_hosts = ["ansible://all"]
NAME = "llm-llama-router"
KEY = "/etc/llm/llama-router/api-keys"
ASK = """
import json, sys, urllib.error, urllib.request
headers = {"Content-Type": "application/json"}
if sys.argv[1]:
    headers["Authorization"] = "Bearer " + open(sys.argv[1]).read().strip()
body = {"model": sys.argv[2], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
request = urllib.request.Request("http://127.0.0.1:8081/v1/chat/completions", json.dumps(body).encode(), headers)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


def ask(host: t.Any, key: str, model: str = "tiny-a") -> tuple[int, str]:
    status, text = json.loads(host.check_output("python3 -c %s %s %s", ASK, key, model))
    return status, text


def until(condition: t.Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except AssertionError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


def inspected(host: t.Any) -> dict[str, t.Any]:
    (about,) = json.loads(host.check_output(f"docker inspect {NAME}"))
    return about


@pytest.mark.parametrize("model", ["tiny-a", "tiny-b"])
def test_it_streams_to_whoever_has_the_key(host: t.Any, model: str) -> None:
    status, text = ask(host, KEY, model)
    events = [line for line in text.splitlines() if line.startswith("data: ")]
    assert (status, events[-1]) == (200, "data: [DONE]")
    assert len(events) > 8


@pytest.mark.parametrize("key", ["", "/etc/hostname"])
def test_nobody_else_is_let_in(host: t.Any, key: str) -> None:
    assert ask(host, key)[0] == 401


def test_nothing_listens_to_other_machines(host: t.Any) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    assert listening
    assert all(line.split()[3].startswith("127.0.0.1:") for line in listening), listening


def test_it_may_do_nothing_that_it_need_not(host: t.Any) -> None:
    pid = inspected(host)["State"]["Pid"]
    assert host.check_output(f"stat --format=%U /proc/{pid}") == NAME
    status = dict(line.split(":\t", 1) for line in host.check_output(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, 0, "1", "2")
    mounts = {line.split()[4]: line.split()[5].split(",") for line in host.check_output(f"cat /proc/{pid}/mountinfo").splitlines()}
    assert [path for path in ("/", "/etc/llm/llama-router", "/var/lib/llm/models") if "ro" not in mounts[path]] == []
    assert "noexec" in mounts["/tmp"]
    assert inspected(host)["Config"]["Image"].startswith("localhost:5000/ghcr.io/ggml-org/llama.cpp@sha256:")


def test_the_key_is_where_only_the_service_reads_it(host: t.Any) -> None:
    key = host.check_output(f"cat {KEY}")
    assert host.check_output(f"stat --format='%U %G %a' {KEY}") == f"root {NAME} 640"
    places = (
        f"docker inspect {NAME}; docker logs {NAME} 2>&1; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; journalctl --no-pager --output=json;"
        " find /etc /run /tmp /var/lib/llm /var/lib/docker/containers -xdev -type f -perm -o=r -size -1024k -exec cat {} + 2>/dev/null"
    )
    said = host.run(places).stdout_bytes.decode(errors="replace")
    assert "--api-key-file" in said
    assert key not in said


def test_the_journal_has_its_log_under_its_name(host: t.Any) -> None:
    assert "model loaded" in host.check_output(f"journalctl --no-pager --unit={NAME}")


def test_it_comes_back(host: t.Any) -> None:
    pid = inspected(host)["State"]["Pid"]
    host.check_output(f"kill -9 {pid}")
    until(lambda: inspected(host)["State"]["Running"] and inspected(host)["State"]["Pid"] != pid, 30, "another process")
    until(lambda: ask(host, KEY)[0] == 200, 60, "an answer")
    host.check_output("systemctl restart docker")
    until(lambda: ask(host, KEY)[0] == 200, 60, "an answer after a restart of the engine")
