"""What a client gets of the fleet, and what not."""

from __future__ import annotations

import pytest
from conftest import ADDRESSES, CLIENT, GATEWAY, LLAMA, METRICS, VLLM, Fleet, inside, shell, whole  # type: ignore[import-not-found]

# Beside what listens somewhere: what engines, databases, dashboards and exporters of such a fleet usually have.
USUAL = [22, 80, 443, 3000, 4000, 4001, 5432, 6333, 6379, 8000, 8080, 8081, 8082, 8100, 8101, 9090, 9093, 9100, 9400, 9835, 11434]


@pytest.mark.parametrize("model", ["chat", "long", "auto"])
def test_a_stream_through_the_whole_chain(fleet: Fleet, model: str) -> None:
    answer = fleet.ask(model, tokens=64)
    assert whole(answer, 64), answer


def test_without_a_key_there_is_nothing(fleet: Fleet) -> None:
    for key in ("", "0" * 64):
        (answer,) = fleet.asking(("chat", "Hello", 8), key=key).answers()
        assert (answer["status"], answer["text"]) == (401, ""), answer


def test_a_short_and_a_long_prompt_of_one_route_go_to_different_engines(fleet: Fleet) -> None:
    def who_answers(prompt: str) -> set[str]:
        before = {server: fleet.counters(server) for server in (LLAMA, VLLM)}
        answer = fleet.ask("auto", prompt, 8)
        assert whole(answer, 8), answer
        after = {server: fleet.counters(server) for server in before}
        asked = {server for server in before if after[server]["prompt"] > before[server]["prompt"]}
        said = {server for server in before if after[server]["said"] == before[server]["said"] + 8}
        assert asked == said
        return asked

    assert who_answers("Who are you?") == {LLAMA}
    assert who_answers("a " * 300) == {VLLM}


def test_nothing_but_the_front_door_is_open(fleet: Fleet) -> None:
    """Every port that listens on any machine is tried on every machine, whatever address it listens on."""
    listening = {
        machine: {int(line.split()[3].rpartition(":")[2]) for line in shell(machine, "ss --listening --tcp --numeric --no-header").splitlines()}
        for machine in ADDRESSES
    }
    assert {443, 4000} <= listening[GATEWAY]
    assert 8081 in listening[LLAMA]
    assert 8100 in listening[VLLM]
    everything = sorted(set(USUAL).union(*listening.values()))
    asked = {address: everything for machine, address in ADDRESSES.items() if machine != CLIENT}

    def seen_from(machine: str) -> dict[str, list[int]]:
        found = inside(machine, "scan.py", {address: ports for address, ports in asked.items() if address != ADDRESSES[machine]})
        return {address: ports for address, ports in found.items() if ports}

    door = {ADDRESSES[GATEWAY]: [443]}
    assert seen_from(CLIENT) == door
    assert seen_from(LLAMA) == door, "servers are strangers to each other"
    # the same scan from where they must be open
    assert seen_from(GATEWAY) == {ADDRESSES[LLAMA]: [8081], ADDRESSES[VLLM]: [8100]}
    assert all(fleet.counters(server)["said"] for server in METRICS if server in (LLAMA, VLLM))
