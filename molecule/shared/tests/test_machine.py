"""The machine behind the front door: what is open, how it recovers, and where no secret may be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from conftest import FrontDoor  # type: ignore[import-not-found]

testinfra_hosts = ["ansible://gateways"]
UNITS = ["llm-litellm-standby", "llm-litellm", "llm-llama-router", "llm-nginx"]
ROOT = Path(__file__).resolve().parents[3]
PORT_SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
WHERE_A_SECRET_COULD_BE = {
    "command lines": "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'",
    "environments": "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'",
    "units": "cat /etc/systemd/system/llm-*; systemctl show 'llm-*'",
    "the journal": "journalctl --no-pager --output=export",
    "files that everybody may read": ("find /etc /opt/llm /var/lib/llm /tmp /run -xdev -type f -perm -o=r -size -1024k -exec cat {} + 2>/dev/null"),
}
PROMPT_TOKENS = """
import re, sys, urllib.request
key = open("/etc/llm/llama-router/api-keys").read().strip()
request = urllib.request.Request("http://127.0.0.1:8081/metrics?model=" + sys.argv[1], headers={"Authorization": "Bearer " + key})
print(re.search(r"^llamacpp:prompt_tokens_total (.*)", urllib.request.urlopen(request, timeout=10).read().decode(), re.MULTILINE)[1])
"""
ASK_THE_ENGINE = """
import urllib.error, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:8081/v1/models")
except urllib.error.HTTPError as error:
    print(error.code)
"""


def until(condition: t.Callable[[], t.Any], seconds: float, what: str) -> t.Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, AssertionError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


def streams(front_door: FrontDoor, model: str) -> bool:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    return bool(front_door.ask("POST", "/v1/chat/completions", front_door.key("laptop"), body).status == 200)


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def test_every_service_is_in_its_sandbox(host: t.Any) -> None:
    listed = host.check_output("systemctl list-units --plain --no-legend 'llm-*'").splitlines()
    assert [line.split()[0] for line in listed] == [f"{unit}.service" for unit in UNITS]
    for unit in UNITS:
        said = host.run(f"systemd-analyze security --no-pager {unit}.service").stdout
        score = re.search(r"exposure level for \S+: ([0-9.]+)", said)
        assert score and float(score[1]) <= 1.5, said[-300:]


def test_no_service_runs_as_root(host: t.Any) -> None:
    for unit in UNITS:
        pid = host.check_output(f"systemctl show --value --property=MainPID {unit}")
        assert host.check_output(f"stat --format=%U /proc/{pid}") == unit.removesuffix("-standby")


def test_both_models_stream_through_the_front_door(front_door: FrontDoor) -> None:
    models = [model["id"] for model in front_door.ask("GET", "/v1/models", front_door.key("laptop")).body["data"]]
    assert sorted(models) == ["auto", "tiny-a", "tiny-b"]
    assert all(streams(front_door, model) for model in models)


def test_a_route_sends_short_and_long_prompts_to_different_models(host: t.Any, front_door: FrontDoor) -> None:
    def ask(prompt: str) -> list[str]:
        before = {model: host.check_output("python3 -c %s %s", PROMPT_TOKENS, model) for model in ("tiny-a", "tiny-b")}
        question = {"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": prompt}]}
        assert front_door.ask("POST", "/v1/chat/completions", front_door.key("laptop"), question).status == 200
        return [model for model, tokens in before.items() if host.check_output("python3 -c %s %s", PROMPT_TOKENS, model) != tokens]

    assert ask("short") == ["tiny-b"]
    assert ask("a " * 150) == ["tiny-a"]


def test_only_the_front_door_is_open_to_another_machine(host: t.Any, front_door: FrontDoor) -> None:
    image = docker("inspect", "--format", "{{.Config.Image}}", front_door.name).strip()
    open_ports = docker("run", "--rm", image, "python3", "-c", PORT_SCAN, front_door.address).split()
    assert open_ports == ["443"]
    # the same scan sees them from inside: it can see a port that is open
    inside = host.check_output("python3 -c %s 127.0.0.1", PORT_SCAN).split()
    assert {"443", "4000", "4001", "8081"} <= set(inside)


def test_the_engine_wants_a_key_even_on_loopback(host: t.Any) -> None:
    assert host.check_output("python3 -c %s", ASK_THE_ENGINE) == "401"


@pytest.mark.parametrize("unit", ["llm-llama-router", "llm-litellm", "llm-nginx"])
def test_a_killed_service_comes_back(host: t.Any, front_door: FrontDoor, unit: str) -> None:
    pid = host.check_output(f"systemctl show --value --property=MainPID {unit}")
    host.check_output(f"kill -9 {pid}")
    until(lambda: host.check_output(f"systemctl show --value --property=MainPID {unit}") not in ("0", pid), 30, f"{unit} runs again")
    until(lambda: streams(front_door, "tiny-a"), 90, f"a completion after {unit} was killed")


def test_a_killed_model_comes_back(host: t.Any, front_door: FrontDoor) -> None:
    assert streams(front_door, "tiny-b")
    (child,) = [process for process in host.process.filter(comm="llama-server") if "tiny-b.gguf" in process.args]
    host.check_output(f"kill -9 {child.pid}")
    until(lambda: streams(front_door, "tiny-b"), 60, "a completion of tiny-b after its process was killed")


def test_the_machine_comes_back_after_a_reboot(front_door: FrontDoor) -> None:
    docker("restart", "--time", "60", front_door.name)
    address = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", front_door.name).strip()
    rebooted = FrontDoor(front_door.name, address, front_door.secrets)
    until(lambda: streams(rebooted, "tiny-a"), 120, "a completion after the reboot")


def test_no_secret_is_where_it_can_be_read(host: t.Any, front_door: FrontDoor) -> None:
    """A run that rewrites every secret, as loud as Ansible can be, and then a search in all places where one could have gone."""
    secrets = [path.read_text().strip() for path in front_door.secrets.rglob("*") if path.is_file() and path.suffix != ".crt"]
    needles = [line for text in secrets for line in text.splitlines() if "PRIVATE KEY" not in line]
    assert len(needles) >= 6
    for path in ("litellm/secrets.yaml", "llama-router/api-keys", "nginx/keys.conf", "nginx/server.key"):
        host.check_output(f"truncate --size=0 /etc/llm/{path}")
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    playbook = Path(sys.executable).with_name("ansible-playbook")
    loud = subprocess.run(
        [playbook, "-vvv", "--diff", "--inventory", Path(inventory).parent, ROOT / "playbooks/site.yml"],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loud.returncode == 0, loud.stdout[-3000:]
    assert loud.stdout.count("(secret)") >= 4, "the run was expected to rewrite the secrets"
    places = {"Ansible's output": loud.stdout + loud.stderr}
    for place, command in WHERE_A_SECRET_COULD_BE.items():
        places[place] = host.run(command).stdout_bytes.decode(errors="replace")
        assert places[place], place
    for place, content in places.items():
        for needle in needles:
            assert needle not in content, f"a secret is in {place}"
    assert front_door.key("laptop") in host.check_output("cat /etc/llm/nginx/keys.conf"), "the search finds what is there"


def test_the_log_of_the_front_door_goes_to_the_journal(host: t.Any, front_door: FrontDoor) -> None:
    front_door.ask("GET", "/v1/models", front_door.key("laptop"))
    until(lambda: "laptop" in host.check_output("journalctl --no-pager --lines=50 --unit=llm-nginx"), 10, "the client's name in the log")


def test_what_the_ledger_decided_is_told_to_the_engine(host: t.Any) -> None:
    preset = host.file("/etc/llm/llama-router/preset.ini").content_string
    # tiny-b left its parallel requests open
    assert "fit = off" in preset
    assert re.search(r"\[tiny-b\][^[]*ctx-size = 4096[^[]*parallel = 4", preset)
