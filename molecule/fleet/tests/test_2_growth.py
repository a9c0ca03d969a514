"""A third server comes by an edit of the inventory and goes by another. Nobody else notices."""

from __future__ import annotations

import subprocess
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from conftest import (  # type: ignore[import-not-found]
    ADDRESSES,
    CLIENT,
    FIGURES,
    GATEWAY,
    HERE,
    LLAMA,
    THIRD,
    VLLM,
    Asking,
    Fleet,
    broken,
    shell,
)

THE_HOST = "third.yml"
ITS_VARIABLES = f"host_vars/{THIRD}.yml"
LONG = 4000


def test_a_third_server_is_added(fleet: Fleet) -> None:
    fleet.write(THE_HOST, {"inference_servers": {"hosts": {THIRD: {}}}})
    fleet.write(ITS_VARIABLES, {"llm_address": ADDRESSES[THIRD], "llm_serve": [{"model": "chat"}]})
    others = fleet.asking(("chat", "Hello", 8), ("long", "Hello", 8), repeat=1)
    began = time.time()
    first = subprocess.Popen(
        ["docker", "exec", THIRD, "python3", "-c", (HERE / "files/first_token.py").read_text(), ADDRESSES[THIRD], "chat"],
        stdout=subprocess.PIPE,
        text=True,
    )
    run = fleet.site()
    answers = others.answers()

    assert run.rc == 0, run.failed
    assert run.changed_hosts() == {THIRD, GATEWAY}, run.changed
    assert {LLAMA, VLLM} <= set(run.changed), "the run has looked at them"
    assert CLIENT not in run.changed
    served, _errors = first.communicate(timeout=20)
    assert broken(answers, 8) == []
    FIGURES.append(f"A server added: site.yml took {run.seconds:.0f} s; {len(answers)} requests of others were answered meanwhile")
    FIGURES.append(f"From the start of site.yml to the first token of the new server: {float(served) - began:.0f} s")


def test_traffic_is_on_all_three(fleet: Fleet) -> None:
    before = {server: fleet.counters(server)["said"] for server in (LLAMA, VLLM, THIRD)}
    answers = fleet.asking(*[("chat", f"Tell me story {number}.", 200) for number in range(6)], ("long", "Tell me a story.", 200)).answers()
    assert broken(answers, 200) == []
    said = {server: fleet.counters(server)["said"] - before[server] for server in before}
    assert said[VLLM] == 200
    assert said[LLAMA] + said[THIRD] == 6 * 200
    assert min(said[LLAMA], said[THIRD]) >= 200


def test_it_is_drained_while_it_answers(fleet: Fleet) -> None:
    """The run turns everybody else away from it at once, and waits for what it is still saying."""
    slow_down(THIRD, "30%")  # or its answer would have ended before it was seen
    streams = list(streams_until_one_is_on(fleet, THIRD))
    slow_down(THIRD, "5%")  # or it would have ended before the run has begun to look
    fleet.write(ITS_VARIABLES, {**fleet.read(ITS_VARIABLES), "llm_drain": True})
    with ThreadPoolExecutor() as pool:
        run = pool.submit(fleet.site)
        until(lambda: turned_away(fleet, THIRD), 300, "new requests go elsewhere")
        assert fleet.counters(THIRD)["running"] == 1, "the stream goes on"
        assert not run.done()
        slow_down(THIRD, "")
        answers = [answer for stream in streams for answer in stream.answers()]
        drained = run.result()
    assert broken(answers, LONG) == []
    assert drained.rc == 0, drained.failed
    assert drained.changed_hosts() == {GATEWAY}, drained.changed
    longest = max(answer["seconds"] for answer in answers)
    FIGURES.append(f"A server drained in {drained.seconds:.0f} s, under a stream that lasted {longest:.0f} s")


def test_it_is_removed(fleet: Fleet) -> None:
    others = fleet.asking(("chat", "Hello", 8), ("long", "Hello", 8), repeat=1)
    fleet.remove(THE_HOST, ITS_VARIABLES)
    run = fleet.site()
    assert run.rc == 0, run.failed
    assert run.changed_hosts() == set(), "nothing was left to change"
    assert THIRD not in run.changed
    assert broken(others.answers(), 8) == []
    FIGURES.append(f"A drained server removed: {run.seconds:.0f} s")


def slow_down(machine: str, quota: str) -> None:
    shell(machine, f"systemctl set-property --runtime llm-llama-router.service CPUQuota={quota}")


def streams_until_one_is_on(fleet: Fleet, server: str) -> t.Iterator[Asking]:
    """The gateway chooses who answers; the next goes where the one before still is not."""
    elsewhere = 0
    for number in range(4):
        # LiteLLM ends an answer that says one word a hundred times.
        yield fleet.asking(("chat", f"Tell me long story {number}.", LONG), temperature=1, frequency_penalty=1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if fleet.counters(server)["running"]:
                return
            now = fleet.counters(LLAMA)["running"]
            if now > elsewhere:
                elsewhere = now
                break
    raise AssertionError(f"the gateway sends nothing to {server}")


def turned_away(fleet: Fleet, server: str) -> bool:
    """Of several new requests none comes to it, and none is lost."""
    before = fleet.counters(server)["prompt"]
    answers = fleet.asking(*[("chat", "Hello", 8)] * 6).answers()
    assert broken(answers, 8) == []
    return fleet.counters(server)["prompt"] == before


def until(condition: t.Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(1)
