"""Keys, limits, budgets and spend are the same at both gateways, because there is one database and one place to count in."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from conftest import ONE, TWO, Admin, FrontDoor, ask_store, chat, play, shell, until  # type: ignore[import-not-found]

Doors = dict[str, FrontDoor]
Admins = dict[str, Admin]
WITHIN = 30  # seconds in which a minute's limit is asked for
OVER_BUDGET = 422
CHAT = 3  # of each gateway, where spend is added up


def statuses(doors: Doors, key: str, times: int) -> list[int]:
    """Of requests that go to one and the other in turn."""
    return [chat(doors[(ONE, TWO)[number % 2]], key, "chat").status for number in range(times)]


def changed(said: str) -> dict[str, int]:
    """Of each host in a playbook's recap."""
    return {host: int(count) for host, count in re.findall(r"(\S+) : ok=\d+ changed=(\d+)", said)}


def test_the_tables_were_made_once(doors: Doors) -> None:
    """Both gateways were made at the same time."""
    done = "finished_at IS NOT NULL AND rolled_back_at IS NULL"
    asked = f"SELECT count(*), count(DISTINCT migration_name), count(*) FILTER (WHERE {done}) FROM _prisma_migrations"
    rows, names, finished = ask_store(asked).split("|")
    assert int(rows) > 200
    assert rows == names == finished
    logs = {machine: shell(machine, "journalctl --unit=llm-litellm-migrate --output=cat --no-pager") for machine in (ONE, TWO)}
    print(f"\n{rows} migrations; " + "; ".join(f"{machine}: {len(re.findall(r'[0-9]+ migrations, from', log))} runs" for machine, log in logs.items()))
    for machine, log in logs.items():
        assert "Failed" not in log, f"{machine}: {log[-2000:]}"


def test_a_key_of_the_inventory_works_at_both(doors: Doors) -> None:
    assert statuses(doors, doors[ONE].key("counted"), 2) == [200, 200]
    assert statuses(doors, "sk-" + "0" * 64, 2) == [401, 401]


def test_a_key_made_at_one_works_at_the_other_and_goes_with_it(doors: Doors, admins: Admins) -> None:
    admins[ONE].remove_key("test-new")
    key = admins[ONE].make_key("test-new")
    assert statuses(doors, key, 2) == [200, 200]
    admins[TWO].remove_key("test-new")
    seconds = until(lambda: statuses(doors, key, 2) == [401, 401], 90, "the key is gone at both")
    print(f"\na key that is removed at one is unknown at both after {seconds:.1f} s")


def test_a_limit_is_one_limit(doors: Doors, admins: Admins) -> None:
    admins[ONE].remove_key("test-three")
    for key, limit in ((doors[ONE].key("four"), 4), (admins[ONE].make_key("test-three", rpm_limit=3), 3)):
        began = time.monotonic()
        seen = statuses(doors, key, 4 * limit)
        assert time.monotonic() - began < WITHIN
        assert seen.count(200) == limit, seen
        assert set(seen) == {200, 429}
    admins[ONE].remove_key("test-three")


def test_a_budget_used_up_at_one_is_used_up_at_the_other(doors: Doors, admins: Admins) -> None:
    admins[ONE].remove_key("test-poor")
    key = admins[ONE].make_key("test-poor", max_budget=0.1, budget_duration="1d")
    assert statuses(doors, key, 2) == [200, 200]  # the other knows the key, and has it in mind
    until(lambda: chat(doors[ONE], key, "chat").status == OVER_BUDGET, 60, "the budget is used up")
    seconds = until(lambda: chat(doors[TWO], key, "chat").status == OVER_BUDGET, 90, "it is used up at the other")
    print(f"\na budget used up at one is used up at the other {seconds:.1f} s later")
    admins[ONE].remove_key("test-poor")


def test_spend_is_the_sum(doors: Doors, admins: Admins) -> None:
    admins[ONE].remove_key("test-sum")
    key = admins[ONE].make_key("test-sum")
    replies = [chat(doors[machine], key, "chat") for machine in (ONE, TWO) for _time in range(CHAT)]
    assert {reply.status for reply in replies} == {200}
    tokens = sum(reply.body["usage"]["total_tokens"] for reply in replies)
    asked = "SELECT spend FROM \"LiteLLM_VerificationToken\" WHERE key_alias = 'test-sum'"
    seconds = until(lambda: abs(float(ask_store(asked) or 0) - tokens / 1000) < 1e-9, 120, "both have written down what was spent")
    print(f"\n{tokens} tokens of {len(replies)} requests were written down after {seconds:.1f} s")
    time.sleep(5)
    assert abs(float(ask_store(asked)) - tokens / 1000) < 1e-9
    admins[ONE].remove_key("test-sum")


def test_keys_are_brought_once(doors: Doors, inventory: Path) -> None:
    """One gateway tells the database, both tell their Nginx."""
    there = [{"name": "load", "requests_per_minute": 60000, "burst": 600, "parallel": 200}, {"name": "four", "requests_per_minute": 4}, {"name": "counted"}]
    more = ["--extra-vars", json.dumps({"llm_keys": [*there, {"name": "late"}]})]
    began = time.monotonic()
    run = play(inventory, "keys", *more)
    assert run.rc == 0, run.said[-3000:]
    print(f"\nkeys.yml for two gateways: {time.monotonic() - began:.1f} s, changed {changed(run.said)}")
    assert statuses(doors, doors[ONE].key("late"), 2) == [200, 200]
    again = play(inventory, "keys", *more)
    assert set(changed(again.said).values()) == {0}, again.said[-3000:]
    assert ask_store("SELECT count(*) FROM \"LiteLLM_VerificationToken\" WHERE key_alias = 'late'") == "1"
