"""LiteLLM with its database: what clients see while one of the two is gone, and that both come back without hands. The slow ones are in gateway_faults."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.tests.query_engines import engines_for
from conftest import Admin, FrontDoor, chat, play, shell, until  # type: ignore[import-not-found]

SERVER = "postgresql@15-llm"
STARTS_WITHIN = 240  # seconds; 25 on an idle machine, of which this one need not be


@pytest.fixture
def key(admin: Admin) -> t.Iterator[str]:
    # After the test before, LiteLLM's readiness may say what was true some seconds ago.
    until(lambda: admin.call("GET", "/key/list").status == 200, STARTS_WITHIN, "keys can be managed")
    admin.remove_key("test-database")  # that of a run which was stopped
    yield admin.make_key("test-database")
    admin.remove_key("test-database")


def both_connected(admin: Admin) -> bool:
    return all(admin.database(port) == "connected" for port in (4000, 4001))


def process(machine: str, unit: str) -> str:
    return shell(machine, f"systemctl show --value --property=MainPID {unit}").strip()


def test_both_know_their_database(admin: Admin) -> None:
    assert both_connected(admin)
    assert admin.query("SELECT count(*) FROM baremetal_llm.facts") == "1"


def test_nothing_of_it_is_written_where_everybody_can_read(machine: str, secrets: t.Any) -> None:
    salt, master_key = ((secrets / name).read_text().strip() for name in ("litellm_salt_key", "litellm_master_key"))
    said = shell(machine, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'; systemctl show 'llm-litellm*'; journalctl --no-pager --output=cat --unit='llm-litellm*'")
    assert salt not in said
    assert master_key not in said


def test_who_has_no_right_does_not_reach_the_database(machine: str) -> None:
    asked = "runuser --user nobody -- python3 -c 'import psycopg2; psycopg2.connect(\"host=/var/run/postgresql dbname=litellm user=litellm\")' 2>&1 || true"
    assert "Peer authentication failed" in shell(machine, asked)


def test_litellm_alone_reaches_its_query_engines(machine: str) -> None:
    assert len(engines_for("llm-litellm", machine)) == 2  # one of each instance
    assert engines_for("nobody", machine) == {}


def test_a_killed_query_engine_comes_back(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    shell(machine, "pkill --signal KILL --full [q]uery-engine")
    seconds = until(lambda: chat(front_door, key).status == 200, 30, "a key that nobody remembers is looked up")
    until(lambda: both_connected(admin), 60, "both are connected")
    print(f"the engine killed: a new key was looked up after {seconds:.1f} s")


def test_a_killed_litellm_is_not_missed(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    assert chat(front_door, key).status == 200
    before = process(machine, "llm-litellm")
    shell(machine, f"kill -KILL {before}")
    deadline, seen = time.monotonic() + 5, []
    while time.monotonic() < deadline:
        seen.append(chat(front_door, key).status)
        time.sleep(0.25)  # Nginx does not know this key, and lets few of its requests through
    assert set(seen) == {200}
    until(lambda: admin.database() == "connected", STARTS_WITHIN, "it runs again, with its database")
    assert process(machine, "llm-litellm") != before


def test_without_the_database_keys_are_neither_let_in_nor_called_wrong(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    admin.remove_key("test-known")  # that of a run which was stopped
    known = admin.make_key("test-known")
    try:
        assert chat(front_door, known).status == 200
        shell(machine, f"systemctl stop {SERVER}")
        assert chat(front_door, known).status == 200  # LiteLLM remembers it for a minute
        refused = [chat(front_door, one) for one in (key, "sk-" + "0" * 64)]
        assert [reply.status for reply in refused] == [503, 503], refused
        assert "database" in refused[0].body["error"]["message"]
        until(lambda: admin.call("GET", "/health/readiness").status == 503, 30, "LiteLLM says so")
        assert admin.database() == "disconnected"
    finally:
        shell(machine, f"systemctl start {SERVER}")
    seconds = until(lambda: chat(front_door, key).status == 200, 30, "the key is let in")
    assert chat(front_door, "sk-" + "0" * 64).status == 401
    print(f"the database back: the key was let in after {seconds:.1f} s")
    admin.remove_key("test-known")


def test_without_the_database_at_its_start_litellm_waits_for_it(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    """Left to itself, it would answer 401 for ever and say that it is ready."""
    shell(machine, f"systemctl stop {SERVER} && systemctl kill --signal=KILL llm-litellm llm-litellm-standby")
    try:
        for _look in range(10):
            assert chat(front_door, key).status in (502, 503)
            assert admin.database() == admin.database(4001) == ""
            time.sleep(1)
    finally:
        shell(machine, f"systemctl start {SERVER}")
    until(lambda: chat(front_door, key).status == 200, STARTS_WITHIN, "the key is let in")
    until(lambda: both_connected(admin), STARTS_WITHIN, "both are connected")


def test_another_salt_key_is_refused_before_anything_is_changed(admin: Admin, machine: str, inventory: Path) -> None:
    before = [process(machine, unit) for unit in ("llm-litellm", "llm-litellm-standby")]
    admin.query("INSERT INTO \"LiteLLM_CredentialsTable\" VALUES ('test', 'test', '{}', '{}', now(), 'test', now(), 'test')")
    try:
        run = play(inventory, "gateway", "--extra-vars", f"llm_salt_key={'x' * 64}")
    finally:
        admin.query("DELETE FROM \"LiteLLM_CredentialsTable\" WHERE credential_id = 'test'")
    assert run.rc != 0
    assert "litellm_salt_key is not the one with which this database was written" in run.said
    assert "could not read any more: 1 credentials. Keys, budgets and spend would stay" in run.said
    assert before == [process(machine, unit) for unit in ("llm-litellm", "llm-litellm-standby")]
    assert "xxxxxxxx" not in shell(machine, "cat /etc/llm/litellm/salt")
