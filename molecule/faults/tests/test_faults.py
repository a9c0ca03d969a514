"""What clients see when parts fail: a request that has not begun is never lost, one that is cut says so, and everything comes back by itself.

The aims are an error within 5 seconds and recovery within 30; the bounds leave room for a busy machine with two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from conftest import GATEWAY, LONG, ONE, ROOT, docker, listening, shell

from tests.load.fault_table import Row, row
from tests.load.steady_load import BROKEN, TOLD

TOLD_WITHIN, BACK_WITHIN = 10, 45
TRIPPED, HOLD = 9, 14  # seconds after which the breaker must have tripped, and until which its 15 seconds cannot be over

if t.TYPE_CHECKING:
    from conftest import Faults

DROP = (
    "add table inet fault; add chain inet fault in { type filter hook input priority -500; policy drop; };"
    "add chain inet fault out { type filter hook output priority -500; policy drop; }"
)
COUNT = (
    "add table inet watch; add chain inet watch out { type filter hook output priority 0; };"
    "add rule inet watch out ip daddr 10.85.24.21 tcp flags & (syn | ack) == syn counter"
)


def check(found: Row, outcomes: set[str]) -> None:
    """What holds for every fault of an engine, and of LiteLLM."""
    assert found.cut > 0, "the fault hit no stream"
    assert found.lost == 0, found.saw
    assert found.outcomes <= outcomes, found.saw
    assert found.told is not None and found.told < TOLD_WITHIN
    assert found.back is not None and found.back < BACK_WITHIN


def test_a_change_of_litellm_cuts_nothing(faults: Faults, inventory: Path) -> None:
    command = ["ansible-playbook", "--inventory", str(inventory), str(ROOT / "playbooks/gateway.yml"), "--extra-vars"]
    with faults.load() as (long, short):
        begun = time.monotonic() - long.now()
        done = subprocess.run([*command, json.dumps({"litellm_num_retries": 3})], capture_output=True, text=True, check=False, env=ansible())
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    everything = [*long.requests, *short.requests]
    assert [one for one in everything if one.failed] == []
    assert {one.tokens for one in long.requests} == {LONG.tokens}
    units = [int(shell(GATEWAY, f"systemctl show --value -p ActiveExitTimestampMonotonic {unit}")) / 1e6 - begun for unit in UNITS]
    assert 0 < units[1] < units[0], "the standby is replaced first"
    for stopped in units:
        assert [one for one in everything if one.start > stopped], "requests came after it"
    assert [one for one in long.requests if one.start < units[0] < (one.end or 0)], "no answer ran while the first was stopped"
    faults.rows.append(row("configuration of LiteLLM changed", everything, units[0], units[0]))


UNITS = ("llm-litellm", "llm-litellm-standby")


def ansible() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}


def test_the_process_of_a_model_is_killed(faults: Faults) -> None:
    kill = "pkill -KILL -P $(systemctl show -p MainPID --value llm-llama-router)"
    check(faults.see("process of a model killed", lambda: shell(ONE, kill), lambda: None, 2, ONE), {TOLD})


def test_an_engine_is_killed(faults: Faults) -> None:
    kill = "systemctl kill --signal=KILL llm-llama-router"
    check(faults.see("engine killed", lambda: shell(ONE, kill), lambda: listening(ONE, 8081), 0, ONE), {TOLD})


def test_a_server_loses_its_power(faults: Faults) -> None:
    def restore() -> None:
        docker("start", ONE)
        listening(ONE, 8081)

    check(faults.see("server without power", lambda: docker("kill", ONE), restore, HOLD, ONE), {TOLD})


def test_a_server_cannot_be_reached(faults: Faults) -> None:
    """Its packets are dropped, not refused. The gateway's attempts to connect to it show the breaker."""
    seen: list[int] = []

    def hold() -> None:
        shell(ONE, f"nft '{DROP}'")
        time.sleep(TRIPPED)
        seen.append(attempts())

    def restore() -> None:
        seen.append(attempts())
        shell(ONE, "nft delete table inet fault")

    shell(GATEWAY, f"nft '{COUNT}'")
    try:
        check(faults.see("server unreachable (packets dropped)", hold, restore, HOLD - TRIPPED, ONE), {TOLD})
        assert seen[0] == seen[1], "the breaker did not trip: there were more attempts to connect"
        assert attempts() > seen[1], "the breaker did not close again"
    finally:
        shell(GATEWAY, "nft delete table inet watch")


def attempts() -> int:
    return int(shell(GATEWAY, "nft list table inet watch | grep -o 'packets [0-9]*'").split()[1])


def test_litellm_is_killed(faults: Faults) -> None:
    kill = "systemctl kill --signal=KILL llm-litellm"
    check(faults.see("LiteLLM killed", lambda: shell(GATEWAY, kill), lambda: None, 2), {BROKEN})
    shell(GATEWAY, f"for attempt in {{1..{BACK_WITHIN}}}; do (echo >/dev/tcp/127.0.0.1/4000) 2>/dev/null && exit; sleep 1; done; exit 1")


def test_the_gateway_is_rebooted(faults: Faults) -> None:
    """There is one gateway: without it nobody is answered, and everybody is told at once."""
    found = faults.see("gateway rebooted", lambda: docker("restart", GATEWAY), lambda: listening(GATEWAY, 443), 0)
    assert found.cut > 0
    assert found.outcomes <= {TOLD, BROKEN}, found.saw
    assert found.told is not None and found.told < TOLD_WITHIN
    assert found.back is not None and found.back < 2 * BACK_WITHIN
