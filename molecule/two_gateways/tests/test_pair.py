"""Two gateways and one address: it moves within seconds when its gateway dies, it is never at two, and a stream through the other one does not notice."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
import typing as t

import pytest
from conftest import ADDRESS, ONE, SHARED, TWO, Load, Shape, Target  # type: ignore[import-not-found]

from tests.load.steady_load import WHOLE, summary

OTHER = {ONE: TWO, TWO: ONE}


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def has_it(machine: str) -> bool:
    return SHARED in docker("exec", machine, "ip", "-brief", "address")


def holders() -> list[str]:
    return [machine for machine in ADDRESS if has_it(machine)]


def until(condition: t.Callable[[], t.Any], seconds: float, what: str) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


class Watch:
    """Looks at both gateways all the time, and remembers when both had the address."""

    def __enter__(self) -> Watch:
        self.both, self.looks, self.end = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self) -> None:
        while not self.end.wait(0.1):
            found = holders()
            self.looks += 1
            self.both += len(found) == 2 and len(holders()) == 2  # one look after the other: it may have moved between them

    def __exit__(self, *_exception: object) -> None:
        self.end.set()
        self.thread.join()


@pytest.fixture
def holder() -> str:
    until(lambda: len(holders()) == 1 and healthy(), 60, "one gateway has the address and both are well")
    return holders()[0]


def healthy() -> bool:
    """keepalived's own check, on both."""
    return all(docker("exec", machine, "sh", "-c", "/etc/llm/keepalived/healthy && echo yes") == "yes" for machine in ADDRESS)


def served(load: Load, since: float) -> list[float]:
    return [one.start for one in list(load.requests) if one.outcome == WHOLE and one.start >= since]


def test_the_address_serves_and_so_does_each_gateway(holder: str, target: t.Callable[[str], Target]) -> None:
    for address in (SHARED, *ADDRESS.values()):
        with Load(target(address), Shape(tokens=10)) as load:
            time.sleep(2)
        assert load.requests
        assert {one.outcome for one in load.requests} == {WHOLE}, address


@pytest.mark.parametrize("death", ["killed", "nginx", "litellm"])
def test_the_address_moves_when_its_gateway_cannot_serve(holder: str, target: t.Callable[[str], Target], death: str) -> None:
    within = {"killed": 6, "nginx": 20, "litellm": 20}[death]
    units = {"nginx": "llm-nginx", "litellm": "llm-litellm llm-litellm-standby"}.get(death, "")
    try:
        with Watch() as watch, Load(target(SHARED), Shape(rate=5, tokens=5, patience=5)) as load:
            time.sleep(2)
            began = load.now()
            if death == "killed":
                docker("kill", holder)
            else:
                docker("exec", holder, "sh", "-c", f"systemctl stop {units}")
            moved = until(lambda: has_it(OTHER[holder]), within, "the address is at the other gateway")
            with contextlib.suppress(AssertionError):  # said below, with what clients saw instead
                until(lambda: served(load, began + moved), 30, "an answer over the address")
        again = served(load, began + moved)
        print(f"\n{death}: the address moved after {moved:.1f} s, first answered: what was sent after {min(again, default=0) - began:.1f} s")
        print(summary(load.requests))
        assert again
    finally:
        if death == "killed":
            docker("start", holder)
        else:
            docker("exec", holder, "sh", "-c", f"systemctl start {units}")
    with Watch() as back:
        until(healthy, 300, "the gateway that had gone is well")
        time.sleep(8)  # long enough for it to take the address, if it would
        assert holders() == [OTHER[holder]], "nobody takes the address from a gateway that is healthy"
    assert watch.looks > 5
    assert watch.both == back.both == 0, "the address was at two gateways"


def test_a_stream_through_one_gateway_while_the_other_reboots(holder: str, target: t.Callable[[str], Target]) -> None:
    with Watch() as watch, Load(target(SHARED), Shape(rate=0.5, clients=2, tokens=1500)) as load:
        until(lambda: len([one for one in load.requests if one.tokens > 5]) == 2, 30, "two streams flow")
        docker("restart", "--time", "60", OTHER[holder])
        until(healthy, 300, "the rebooted gateway is well")
    print(f"\nreboot of the other one: {summary(load.requests)}")
    assert {one.outcome for one in load.requests} == {WHOLE}
    assert watch.both == 0
    assert holders() == [holder]
