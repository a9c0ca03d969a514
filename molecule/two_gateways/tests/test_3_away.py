"""A gateway is off, the store is off: what clients see, and that nobody has to lend a hand."""

from __future__ import annotations

import subprocess
import time
import typing as t
from pathlib import Path

from conftest import ADDRESS, ONE, STORE, TWO, Admin, FrontDoor, chat, play, shell, until  # type: ignore[import-not-found]

AWAY = 75  # seconds: longer than LiteLLM has a key in mind


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def answer(door: FrontDoor, key: str) -> int:
    try:
        return chat(door, key, "chat").status
    except OSError:
        return 0


def test_a_gateway_is_off_and_everything_goes_on_at_the_other(
    shared: FrontDoor, doors: dict[str, FrontDoor], admins: dict[str, Admin], inventory: Path
) -> None:
    docker("stop", "--time", "60", ONE)
    try:
        until(lambda: answer(shared, shared.key("counted")) == 200, 30, "the shared address answers")
        admins[TWO].remove_key("test-alone")
        key = admins[TWO].make_key("test-alone", rpm_limit=2)
        seen = [answer(doors[TWO], key) for _time in range(5)]
        assert seen == [200, 200, 429, 429, 429]
        run = play(inventory, "keys", f"--limit={TWO}")
        assert run.rc == 0, run.said[-3000:]
    finally:
        docker("start", ONE)
    seconds = until(lambda: answer(doors[ONE], doors[ONE].key("counted")) == 200, 300, "it answers again")
    print(f"\nthe gateway that was off answered {seconds:.0f} s after it was switched on")
    admins[TWO].remove_key("test-alone")


def test_the_store_is_off_for_a_while(doors: dict[str, FrontDoor], admins: dict[str, Admin]) -> None:
    for door in doors.values():
        assert answer(door, door.key("counted")) == 200
    docker("stop", "--time", "60", STORE)
    seen: dict[str, list[tuple[int, float]]] = {machine: [] for machine in ADDRESS}
    try:
        deadline = time.monotonic() + AWAY
        while time.monotonic() < deadline:
            for machine, door in doors.items():
                began = time.monotonic()
                seen[machine].append((answer(door, door.key("counted")), time.monotonic() - began))
            time.sleep(2)
    finally:
        docker("start", STORE)
    back = time.monotonic()
    for machine, found in seen.items():
        codes = [code for code, _seconds in found]
        slowest = max(seconds for _code, seconds in found)
        print(f"\n{machine} without its store: {codes.count(200)} of {len(codes)} answered, then {set(codes) - {200}}, the slowest after {slowest:.1f} s")
        assert set(codes) == {200, 503}
        assert codes == sorted(codes)  # first a key is remembered, then it is not; never 401
    for machine, door in doors.items():
        until(lambda door=door: answer(door, door.key("counted")) == 200, 120, "it answers again")  # type: ignore[misc]
        print(f"{machine}: answered {time.monotonic() - back:.1f} s after the store was switched on")
    # They count together again.
    admins[ONE].remove_key("test-together")
    key = admins[ONE].make_key("test-together", rpm_limit=2)

    def counted() -> t.Any:
        codes = [answer(doors[machine], key) for machine in (ONE, TWO, ONE, TWO)]
        return codes == [200, 200, 429, 429] or time.sleep(61)

    print(f"they counted together {until(counted, 200, 'one limit'):.0f} s after that")
    admins[ONE].remove_key("test-together")
    assert shell(ONE, "systemctl show --property=NRestarts --value llm-litellm").strip() == "0"
