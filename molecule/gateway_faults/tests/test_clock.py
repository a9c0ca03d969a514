"""The clock jumps, two days ahead and back, as LiteLLM, its query engine and their clients see it.

The clock of a container is that of its host, and stays as it is. libfaketime gives the services another one, which jumps while they run; what measures
durations (CLOCK_MONOTONIC) goes on as it does when a real clock is set. Only a thread that sleeps is no use under libfaketime 0.9.10: start.py does
not watch meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.baremetal.llm.tests.query_engines import engines_for
from conftest import Admin, FrontDoor, chat, shell, until  # type: ignore[import-not-found]

UNITS = ("llm-litellm-standby", "llm-litellm")
CLOCK = "/etc/test-clock"
DROP_IN = f"""[Service]
Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1
"""
STARTS_WITHIN = 240
MINUTE = 75  # seconds after which a minute's limit is open again
ALIASES = ("test-dated", "test-limited", "test-gone")
STEADY = "laptop"  # which Nginx knows: keys that it does not know have a limit in common


def run_with(machine: str, admin: Admin, change: str) -> None:
    """Both with the change, one after the other."""
    for unit, port in zip(UNITS, (4001, 4000), strict=True):
        shell(machine, change.format(unit=unit))
        shell(machine, f"systemctl daemon-reload && systemctl restart {unit}")
        until(lambda port=port: admin.database(port) == "connected", STARTS_WITHIN, f"{unit} has its database")


@pytest.fixture(scope="module")
def clock(machine: str, admin: Admin) -> t.Iterator[t.Callable[[str], None]]:
    """Sets it, such as +2d."""

    def jump(to: str) -> None:
        shell(machine, f"echo '{to}' >{CLOCK}.new && mv {CLOCK}.new {CLOCK}")

    shell(machine, "apt-get -qq update && apt-get -qq install --yes --no-install-recommends libfaketime >/dev/null")
    jump("+0d")
    run_with(machine, admin, f"printf '%s' '{DROP_IN}' >/etc/systemd/system/{{unit}}.service.d/clock.conf")
    yield jump
    run_with(machine, admin, "rm /etc/systemd/system/{unit}.service.d/clock.conf")


@pytest.fixture
def keys(admin: Admin) -> t.Iterator[dict[str, str]]:
    for alias in ALIASES:
        admin.remove_key(alias)
    limits: dict[str, dict[str, t.Any]] = {"test-dated": {"duration": "1d"}, "test-limited": {"rpm_limit": 2}}
    yield {alias: admin.make_key(alias, **limits.get(alias, {})) for alias in ALIASES}
    for alias in ALIASES:
        admin.remove_key(alias)


@dataclass
class Steady:
    """One request after the other, all the time."""

    front_door: FrontDoor
    key: str
    seen: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def go_on(self) -> None:
        while not self.over.wait(1):
            self.seen.append(chat(self.front_door, self.key).status)


@contextlib.contextmanager
def slow_engine(machine: str) -> t.Iterator[None]:
    """At full speed the tiny model's stream would be over before the clock has jumped."""
    try:
        shell(machine, "systemctl set-property --runtime llm-llama-router CPUQuota=15%")
        yield
    finally:
        shell(machine, "systemctl set-property --runtime llm-llama-router CPUQuota=")


def is_whole_over(front_door: FrontDoor, jump: t.Callable[[], None]) -> bool:
    """Whether a stream is whole that runs while the clock jumps."""
    tokens_after: list[str] = []
    thread = threading.Thread(target=jump)

    def on_token(text: str) -> None:
        if not thread.ident:
            thread.start()
        if not thread.is_alive():
            tokens_after.append(text)

    answer = front_door.stream("laptop", 200, on_token)
    thread.join()
    return answer.finish_reason == "length" and len(tokens_after) > 0


def spent(admin: Admin, alias: str) -> float:
    return float(admin.query(f"SELECT spend FROM \"LiteLLM_VerificationToken\" WHERE key_alias = '{alias}'") or 0)


def test_a_jump_ahead_and_back_costs_no_answer_and_leaves_nothing_shut(
    admin: Admin, front_door: FrontDoor, machine: str, keys: dict[str, str], clock: t.Callable[[str], None]
) -> None:
    def status(alias: str) -> int:
        return chat(front_door, keys[alias]).status

    def is_full() -> bool:
        return status("test-limited") == 429

    assert {status(alias) for alias in ALIASES} == {200}
    steady = Steady(front_door, front_door.key(STEADY))
    beside = threading.Thread(target=steady.go_on)
    beside.start()
    try:
        with slow_engine(machine):
            assert is_whole_over(front_door, lambda: clock("+2d"))
        assert status("test-dated") == 401  # by the clock, its day is over
        until(is_full, 20, "its limit of this minute is used up")
        assert status("test-gone") == 200  # and remembered, with the day after tomorrow
        before = spent(admin, STEADY)
        until(lambda: spent(admin, STEADY) > before, 90, "what is spent is written")
        until(is_full, 20, "its limit of this minute is used up")

        with slow_engine(machine):
            assert is_whole_over(front_door, lambda: clock("+0d"))
        admin.remove_key("test-gone")
        until(lambda: status("test-dated") == 200, 10, "its day is not over")
        seconds = until(lambda: not is_full(), MINUTE, "the limit is that of a minute")
        print(f"the limit was open again {seconds:.1f} s after the clock had jumped back")
        until(lambda: status("test-gone") == 401, MINUTE, "the key that was removed is forgotten")
        before = spent(admin, STEADY)
        until(lambda: spent(admin, STEADY) > before, 90, "what is spent is written")
    finally:
        clock("+0d")
        steady.over.set()
        beside.join()
    assert set(steady.seen) == {200}, steady.seen
    assert engines_for("nobody", machine) == {}
    print(f"{len(steady.seen)} requests beside it were answered, and the streams that ran were whole")
