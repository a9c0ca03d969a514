"""Prisma's query engines, which ask for no password, on loopback: reached by LiteLLM and by nobody else on the machine."""

from __future__ import annotations

import subprocess
import time

import pytest
from ansible_collections.baremetal.llm.tests.query_engines import engines_for
from conftest import Admin, shell, until  # type: ignore[import-not-found]

UNITS = ("llm-litellm", "llm-litellm-standby")
STARTS_WITHIN = 240
LISTEN = "import socket; made = socket.create_server(('127.0.0.1', 4149)); [made.accept()[0].sendall(b'mine') for number in range(9)]"
ASK = "import socket; made = socket.create_connection(('127.0.0.1', 4149), timeout=3); print(made.recv(9))"


@pytest.fixture(autouse=True)
def both_run(admin: Admin) -> None:
    until(lambda: all(admin.database(port) == "connected" for port in (4000, 4001)), STARTS_WITHIN, "both have their database")


def test_litellm_reaches_its_engines_and_nobody_else_does(machine: str) -> None:
    reached = engines_for("llm-litellm", machine)
    assert len(reached) == len(UNITS), reached
    assert all(4101 <= port <= 4149 and '"token"' in said for port, said in reached.items()), reached
    for user in ("nobody", "postgres", "root"):
        assert engines_for(user, machine) == {}


def test_who_listens_in_their_place_is_not_heard(machine: str) -> None:
    shell(machine, f'runuser --user nobody -- python3 -c "{LISTEN}" >/dev/null 2>&1 & sleep 1')
    try:
        for user in ("llm-litellm", "nobody"):
            command = ["docker", "exec", machine, "runuser", "--user", user, "--", "python3", "-c", ASK]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode != 0
            assert "mine" not in done.stdout
    finally:
        shell(machine, "pkill --uid nobody python3")


@pytest.mark.parametrize("how", ["nft flush ruleset", "nft delete table inet llm_litellm"])
def test_rules_that_somebody_flushes_are_back(machine: str, how: str) -> None:
    shell(machine, how)
    seconds = until(lambda: "llm_litellm" in shell(machine, "nft list tables"), 10, "the rules are back")
    assert engines_for("nobody", machine) == {}
    print(f"{how}: in force again after {seconds:.1f} s")


def test_without_the_rules_litellm_does_not_start_and_it_does_once_they_are_there(admin: Admin, machine: str) -> None:
    since = shell(machine, "date '+%F %T'").strip()
    shell(machine, "systemctl stop llm-litellm-guard && nft delete table inet llm_litellm && nft add table inet llm_litellm")
    try:
        shell(machine, "systemctl kill --signal=KILL llm-litellm-standby")
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            assert admin.database(4001) == ""
            time.sleep(1)
        said = f"journalctl --unit=llm-litellm --since='{since}' --output=cat"
        assert "systemctl restart llm-litellm-guard" in shell(machine, said)  # the other one runs, and says so
    finally:
        shell(machine, "systemctl start llm-litellm-guard")
    until(lambda: admin.database(4001) == "connected", STARTS_WITHIN, "it starts once they are there")
    assert engines_for("nobody", machine) == {}
