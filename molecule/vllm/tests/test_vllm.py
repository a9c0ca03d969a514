"""The engine on its own port: who is let in, where its key is, how it stops."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
import yaml

testinfra_hosts = ["ansible://all"]
VARS = yaml.safe_load((Path(__file__).parents[1] / "vars/server.yml").read_text())
UNIT = f"llm-{VARS['vllm_service']}"
KEY = VARS["vllm_api_key"]
CHAT = {"model": VARS["vllm_served_name"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
ASK = """
import json, sys, urllib.error, urllib.request
path, key, body = json.loads(sys.argv[1])
headers = {"Content-Type": "application/json", **({"Authorization": "Bearer " + key} if key else {})}
data = json.dumps(body).encode() if body else None
try:
    answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8100" + path, data, headers))
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""
# Begins a stream, stops the service in the middle of it and reads on.
STOP = """
import json, subprocess, sys, urllib.request
key, body, unit = json.loads(sys.argv[1])
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8100/v1/chat/completions", json.dumps(body).encode(), headers))
events, seen, stopping = 0, ["", ""], None
for line in answer:
    if line.startswith(b"data: "):
        events += 1
        seen = [seen[1], line.decode().strip()]
        if events == 50:
            stopping = subprocess.Popen(["systemctl", "stop", unit])
print(json.dumps([events, seen, stopping.wait()]))
"""
WAIT = """
import time, urllib.request
for second in range(120):
    try:
        urllib.request.urlopen("http://127.0.0.1:8100/health")
        break
    except OSError:
        time.sleep(1)
else:
    raise SystemExit("it did not come back")
"""


def ask(host: t.Any, path: str, key: str = "", body: t.Any = None) -> tuple[int, str]:
    status, text = json.loads(host.check_output("python3 -c %s %s", ASK, json.dumps([path, key, body])))
    return status, text


def test_it_answers_with_the_key_only(host: t.Any) -> None:
    assert ask(host, "/v1/chat/completions", "", CHAT)[0] == 401
    assert ask(host, "/v1/chat/completions", "0" * 32, CHAT)[0] == 401
    status, text = ask(host, "/v1/chat/completions", KEY, CHAT)
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 8)


@pytest.mark.parametrize("path", ["/invocations", "/tokenize", "/pooling", "/pause", "/openapi.json", "/docs", "/v2/embed"])
def test_what_the_key_does_not_guard_does_not_exist(host: t.Any, path: str) -> None:
    assert ask(host, path, KEY, CHAT)[0] == 404


def test_monitoring_needs_no_key(host: t.Any) -> None:
    assert ask(host, "/health")[0] == 200
    # the first prompts of the role: two lengths
    assert re.search(r'^vllm:request_success_total\{.*finished_reason="length".*\} [1-9]', ask(host, "/metrics")[1], re.MULTILINE)


def test_nothing_listens_to_other_machines(host: t.Any) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    assert listening
    assert all(line.split()[3].startswith("127.0.0.1:") for line in listening), listening


def test_it_is_in_its_sandbox(host: t.Any) -> None:
    said = host.run(f"systemd-analyze security --no-pager {UNIT}.service").stdout
    score = re.search(r"exposure level for \S+: ([0-9.]+)", said)
    assert score and float(score[1]) <= 1.5, said[-300:]
    pid = host.check_output(f"systemctl show --value --property=MainPID {UNIT}")
    assert host.check_output(f"stat --format=%U /proc/{pid}") == UNIT


def test_the_key_is_where_only_the_service_reads_it(host: t.Any) -> None:
    places = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; cat /etc/systemd/system/llm-*; systemctl show 'llm-*'"
    assert KEY not in host.run(places).stdout
    assert KEY not in host.check_output("journalctl --no-pager --output=json")
    search = f"find /etc /run /tmp /var/lib/llm -xdev -type f -perm -o=r -exec grep --files-with-matches {KEY} {{}} + 2>/dev/null"
    assert host.run(search).stdout == ""
    assert oct(host.file(f"/etc/llm/{VARS['vllm_service']}/config.yaml").mode) == "0o640"


def test_a_running_answer_ends_when_the_service_is_stopped(host: t.Any) -> None:
    body = {**CHAT, "stream": True, "max_tokens": 1900}
    events, (end, done), stopped = json.loads(host.check_output("python3 -c %s %s", STOP, json.dumps([KEY, body, UNIT])))
    assert (done, stopped) == ("data: [DONE]", 0)
    assert '"finish_reason":"length"' in end  # all of its tokens
    assert events > 500
    assert not host.service(UNIT).is_running
    host.check_output(f"systemctl start {UNIT}")
    host.check_output("python3 -c %s", WAIT)
