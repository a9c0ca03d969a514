"""What takes minutes: a disk that is full, a long time without the database, and two processes that count together."""

from __future__ import annotations

import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.tests.query_engines import engines_for
from conftest import Admin, FrontDoor, chat, play, shell, until  # type: ignore[import-not-found]

SERVER = "postgresql@15-llm"
# Left uncompressed, it is twice what the small disk holds.
FILLS = """
CREATE TABLE test_filler (a text); ALTER TABLE test_filler ALTER a SET STORAGE EXTERNAL;
INSERT INTO test_filler SELECT repeat(md5(i::text), 100) FROM generate_series(1, 100000) AS i
"""
LIMIT_WITHIN = 20  # seconds in which a minute's limit is asked for
STARTS_WITHIN = 240


@pytest.fixture
def key(admin: Admin) -> t.Iterator[str]:
    # After the test before, LiteLLM's readiness may say what was true some seconds ago.
    until(lambda: admin.call("GET", "/key/list").status == 200, STARTS_WITHIN, "keys can be managed")
    admin.remove_key("test-faults")
    yield admin.make_key("test-faults")
    admin.remove_key("test-faults")


def let_in(front_door: FrontDoor, key: str) -> bool:
    return chat(front_door, key).status == 200


def test_a_full_disk_cuts_nobody_off_and_is_over_when_there_is_room(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    """The write-ahead log gets a small disk of its own, which is filled."""
    wal = "/var/lib/postgresql/15/llm/pg_wal"
    shell(machine, f"systemctl stop {SERVER} && mkdir -p /mnt/wal && mount -t tmpfs -o size=160m,mode=0700 tmpfs /mnt/wal")
    shell(machine, f"chown postgres: /mnt/wal && cp -a {wal}/. /mnt/wal && mount --bind /mnt/wal {wal} && systemctl start {SERVER}")
    try:
        until(lambda: let_in(front_door, key), 60, "the key is let in")
        shell(machine, f"fallocate --length $(df --output=avail --block-size=1 {wal} | tail -n 1) {wal}/filler || true")
        with pytest.raises(subprocess.CalledProcessError):  # it writes until there is no room, and the server stops
            admin.query(FILLS)
        deadline, seen = time.monotonic() + 90, []
        while time.monotonic() < deadline:
            seen.append(chat(front_door, key).status)
            time.sleep(2)
        assert set(seen) == {200, 503}, seen
        print(f"disk full: {seen.count(200)} of {len(seen)} answered, the others 503")
    finally:
        shell(machine, f"rm -f {wal}/filler")
    seconds = until(lambda: admin.call("GET", "/health/readiness").status == 200, 120, "the server comes back by itself")
    print(f"room again: the database was back after {seconds:.1f} s")
    until(lambda: let_in(front_door, key), STARTS_WITHIN, "the key is let in")
    until(lambda: admin.database() == "connected", STARTS_WITHIN, "LiteLLM has its database")
    admin.query("DROP TABLE IF EXISTS test_filler")
    shell(machine, f"systemctl stop {SERVER} && umount {wal} && cp -a /mnt/wal/. {wal} && umount /mnt/wal && systemctl start {SERVER}")
    until(lambda: let_in(front_door, key), STARTS_WITHIN, "the key is let in")


def test_a_minute_without_the_database(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    assert let_in(front_door, key)
    shell(machine, f"systemctl stop {SERVER}")
    try:
        deadline, seen = time.monotonic() + 90, []
        while time.monotonic() < deadline:
            seen.append(chat(front_door, key).status)
            time.sleep(3)
    finally:
        shell(machine, f"systemctl start {SERVER}")
    assert set(seen) == {200, 503}
    assert seen == sorted(seen)  # first it is remembered, then it is not
    seconds = until(lambda: let_in(front_door, key), 30, "the key is let in")
    print(f"without the database: {seen.count(200)} of {len(seen)} answered, then 503; {seconds:.1f} s after it came back, answers again")


def test_one_that_lost_its_database_is_mended(admin: Admin, front_door: FrontDoor, machine: str, key: str) -> None:
    """A query engine that hangs: it is there, the database is there, and LiteLLM has none."""
    shell(machine, "pkill --signal STOP --full [q]uery-engine")
    try:
        until(lambda: admin.database() == "connected", STARTS_WITHIN, "LiteLLM has its database again")
        until(lambda: let_in(front_door, key), STARTS_WITHIN, "the key is let in")
    finally:
        shell(machine, "pkill --signal CONT --full [q]uery-engine || true")


def test_two_processes_count_together(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path) -> None:
    refused = play(inventory, "gateway", "--extra-vars", '{"litellm_workers": 2, "__llm_redis": {}}')
    assert "each process would count for itself" in refused.said
    run = play(inventory, "gateway", "--extra-vars", "litellm_workers=2")
    assert run.rc == 0, run.said[-3000:]
    admin.remove_key("test-limit")
    limited = admin.make_key("test-limit", rpm_limit=2)
    began = time.monotonic()
    seen = [chat(front_door, limited).status for _ask in range(8)]
    assert time.monotonic() - began < LIMIT_WITHIN
    assert seen.count(200) == 2, seen
    assert set(seen) == {200, 429}
    admin.remove_key("test-limit")
    assert len(engines_for("llm-litellm", machine)) == 4  # two processes, and as many beside them in reserve
    assert engines_for("nobody", machine) == {}
