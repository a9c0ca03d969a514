"""Another version on both, one after the other: nobody who asks notices, and what fails on the first never reaches the second. In this order."""

from __future__ import annotations

import typing as t
from pathlib import Path

from conftest import ADDRESS, ONE, TWO, FrontDoor, Steady, ask_store, play, shell  # type: ignore[import-not-found]

OLD, NEW = "1.106.0", "1.106.2"
KEYS = 'SELECT token, key_alias, max_budget FROM "LiteLLM_VerificationToken" ORDER BY 1'


def versions() -> list[str]:
    return [shell(machine, "readlink /opt/llm/litellm/current").partition("-")[0] for machine in ADDRESS]


def upgrade(inventory: Path, to: str, *more: str) -> t.Any:
    return play(inventory, "upgrade", "--extra-vars", f"litellm_version={to}", *more)


def test_what_cannot_be_tried_on_a_copy_is_refused(inventory: Path) -> None:
    run = upgrade(inventory, OLD)
    assert run.rc != 0
    assert f"LiteLLM on {ONE} is to change from {NEW}" in run.said
    assert "run this again with -e litellm_untried=true" in run.said
    assert versions() == [NEW, NEW]


def test_back_to_an_older_version(shared: FrontDoor, doors: dict[str, FrontDoor], inventory: Path) -> None:
    before = ask_store(KEYS)
    with Steady(doors[ONE], "counted", "chat") as one, Steady(doors[TWO], "counted", "chat") as two, Steady(shared, "counted", "chat") as both:
        run = upgrade(inventory, OLD, "--extra-vars", "litellm_untried=true")
    assert run.rc == 0, run.said[-3000:]
    assert versions() == [OLD, OLD]
    assert ask_store(KEYS) == before
    assert [set(client.statuses) for client in (one, two, both)] == [{200}] * 3
    print(f"\nback to {OLD}: {[len(client.statuses) for client in (one, two, both)]} requests at one, the other and the shared address, all answered")


def test_a_version_that_fails_on_the_first_never_reaches_the_second(shared: FrontDoor, inventory: Path) -> None:
    server = shell(ONE, f"ls /opt/llm/litellm/{NEW}-*/lib/python3*/site-packages/litellm/proxy/proxy_server.py").strip()
    shell(ONE, f"cp {server} /root/proxy_server.py && echo 'if \"--port\" in sys.argv: raise RuntimeError' >>{server}")
    began = shell(TWO, "systemctl show --property=ActiveEnterTimestamp llm-litellm llm-litellm-standby")
    with Steady(shared, "counted", "chat") as steady:
        run = upgrade(inventory, NEW, "--extra-vars", "litellm_untried=true litellm_start_timeout=120")
    shell(ONE, f"cp /root/proxy_server.py {server}")
    assert run.rc != 0
    assert f"LiteLLM {NEW} did not do its work on {ONE}, so {OLD} runs again" in run.said
    assert versions() == [OLD, OLD]
    assert shell(TWO, "systemctl show --property=ActiveEnterTimestamp llm-litellm llm-litellm-standby") == began
    assert set(steady.statuses) == {200}
    print(f"\nback from a version that does not start: {len(steady.statuses)} requests at the shared address, all answered")


def test_forward_again(shared: FrontDoor, inventory: Path) -> None:
    before = ask_store(KEYS)
    with Steady(shared, "counted", "chat") as steady:
        run = upgrade(inventory, NEW, "--extra-vars", "litellm_untried=true")
    assert run.rc == 0, run.said[-3000:]
    assert versions() == [NEW, NEW]
    assert ask_store(KEYS) == before
    assert set(steady.statuses) == {200}
