"""To an older version and forward again under steady requests, with versions between that break on the copy, and for real. In this order."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from conftest import Admin, FrontDoor, Steady, chat, play, shell  # type: ignore[import-not-found]

OLD, NEW = "1.106.0", "1.106.2"
BROKEN = "99990101000000_broken"
Row = tuple[str, ...]


def version(machine: str) -> str:
    return shell(machine, "readlink /opt/llm/litellm/current").partition("-")[0]


def keys(admin: Admin) -> list[Row]:
    return [tuple(line.split("|")) for line in admin.query('SELECT token, key_alias, max_budget FROM "LiteLLM_VerificationToken" ORDER BY 1').splitlines()]


@pytest.fixture
def migrations(machine: str) -> str:
    """Where the new version has its migrations."""
    return shell(machine, f"ls -d /opt/llm/litellm/{NEW}-*/lib/python3*/site-packages/litellm_proxy_extras/migrations").strip()


def add_migration(machine: str, migrations: str, statement: str) -> None:
    shell(machine, f"mkdir -p {migrations}/{BROKEN} && echo '{statement}' >{migrations}/{BROKEN}/migration.sql")


def upgrade(inventory: Path, to: str, *more: str) -> t.Any:
    return play(inventory, "upgrade", "--extra-vars", f"litellm_version={to}", *more)


def test_a_version_must_be_named(inventory: Path) -> None:
    assert "Say which version of LiteLLM" in play(inventory, "upgrade").said


def test_back_to_an_older_version(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path) -> None:
    before = keys(admin)
    with Steady(front_door, "laptop") as steady:
        run = upgrade(inventory, OLD)
    assert run.rc == 0, run.said[-3000:]
    assert version(machine) == OLD
    assert set(steady.statuses) == {200}
    assert keys(admin) == before
    assert admin.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'litellm_%'") == "0"
    print(f"back to {OLD}: {len(steady.statuses)} requests, all answered")


def test_a_version_that_cannot_make_its_tables_changes_nothing(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path, migrations: str) -> None:
    before = keys(admin)
    add_migration(machine, migrations, "ALTER TABLE there_is_no_such ADD COLUMN a int;")
    with Steady(front_door, "laptop") as steady:
        run = upgrade(inventory, NEW)
    assert run.rc != 0
    assert "cannot make its tables in a copy of litellm, so nothing was changed" in run.said
    assert version(machine) == OLD
    assert set(steady.statuses) == {200}
    assert keys(admin) == before
    assert admin.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'litellm_%'") == "0"


def test_a_version_that_does_not_start_goes_back_with_its_tables(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path, migrations: str) -> None:
    before = keys(admin)
    add_migration(machine, migrations, "CREATE TABLE of_the_new_version (a int);")
    server = f"{migrations}/../../litellm/proxy/proxy_server.py"
    shell(machine, f"cp {server} /root/proxy_server.py && echo 'if \"--port\" in sys.argv: raise RuntimeError' >>{server}")
    with Steady(front_door, "laptop") as steady:
        run = upgrade(inventory, NEW, "--extra-vars", "litellm_start_timeout=120")
    shell(machine, f"cp /root/proxy_server.py {server}")
    assert run.rc != 0
    assert f"LiteLLM {NEW} did not do its work on {machine}, so {OLD} runs again, with the database as it was before" in run.said
    assert version(machine) == OLD
    assert admin.query("SELECT to_regclass('of_the_new_version')") == ""
    assert admin.query(f"SELECT count(*) FROM _prisma_migrations WHERE migration_name = '{BROKEN}'") == "0"
    assert keys(admin) == before
    assert chat(front_door, front_door.key("laptop")).status == 200
    lost = [status for status in steady.statuses if status != 200]
    print(f"back from a version that does not start: {len(steady.statuses)} requests, {len(lost)} without an answer: {set(lost)}")


def test_forward_again(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path, migrations: str) -> None:
    before = keys(admin)
    shell(machine, f"rm -r {migrations}/{BROKEN}")
    with Steady(front_door, "laptop") as steady:
        run = upgrade(inventory, NEW)
    assert run.rc == 0, run.said[-3000:]
    assert version(machine) == NEW
    assert set(steady.statuses) == {200}
    assert keys(admin) == before
