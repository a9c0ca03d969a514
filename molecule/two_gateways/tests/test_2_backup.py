"""Backups of somebody else's server, and a restore that stops LiteLLM on both gateways. Nothing readable is left anywhere, however it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from conftest import ONE, TWO, Admin, FrontDoor, ask_store, chat, play, shell, until  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[3]
DATABASES = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'litellm%'"
KEYS = 'SELECT token, key_alias, spend, max_budget, rpm_limit FROM "LiteLLM_VerificationToken" ORDER BY 1'
# Whatever a program's environment or arguments hold while it runs, seen by somebody who is not root.
SPY = """
import pathlib, sys
wanted, seen = sys.stdin.read().strip().encode(), set()
while not pathlib.Path("/tmp/enough").exists():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            if b"pg_dump" in text:
                seen.add("pg_dump")
            if wanted in text:
                seen.add(f"the password in {name}")
print(sorted(seen))
"""


@pytest.fixture(scope="module")
def options(identity: Path, public: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, t.Any]:
    return {"backup_encrypt_to": [public], "restore_identity": str(identity), "llm_backup_copies": str(tmp_path_factory.mktemp("copies"))}


def back_up(inventory: Path, options: dict[str, t.Any]) -> None:
    began = time.monotonic()
    run = play(inventory, "backup", "--extra-vars", json.dumps({**options, "llm_backup_copies_keep": {"last": 1}}))
    assert run.rc == 0, run.said[-3000:]
    print(f"\nbackup.yml: {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="module")
def copies(options: dict[str, t.Any], inventory: Path) -> Path:
    """With one that was made by the first gateway, which is the one that makes them; the other has nothing to do."""
    found = Path(options["llm_backup_copies"]) / ONE
    (found / ".unfinished-20200103T020000Z").mkdir(parents=True)
    back_up(inventory, options)
    assert shell(TWO, "ls /var/backups/llm 2>/dev/null || true") == ""
    return found


@pytest.fixture
def backup(copies: Path) -> Path:
    (made,) = copies.iterdir()
    return made


def restore(inventory: Path, backup: Path, options: dict[str, t.Any], *arguments: str) -> t.Any:
    return play(inventory, "restore", *arguments, "--extra-vars", json.dumps({**options, "restore_from": str(backup)}))


def rows() -> tuple[str, str]:
    return ask_store(DATABASES, "postgres"), ask_store(KEYS)


def left() -> str:
    """What a restore has left on the controller and on the gateways."""
    here = "".join(str(path) for path in Path("/tmp").glob("llm-restore-*"))
    return here + "".join(shell(machine, "ls -d /var/lib/llm/restore /run/llm-pgpass-* 2>/dev/null || true") for machine in (ONE, TWO))


def test_the_password_is_nowhere_while_a_backup_is_made_and_old_copies_go(copies: Path, options: dict[str, t.Any], inventory: Path) -> None:
    (first,) = copies.iterdir()
    shutil.copytree(first, copies / "20200101T020000Z")
    password = (inventory / ".secrets/database_password").read_text()
    spy = subprocess.Popen(
        ["docker", "exec", "--interactive", "--user", "nobody", ONE, "python3", "-c", SPY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert spy.stdin
    assert spy.stdout
    spy.stdin.write(password)
    spy.stdin.close()
    back_up(inventory, options)
    shell(ONE, "touch /tmp/enough")
    assert spy.stdout.read().strip() == "['pg_dump']"
    spy.wait()
    shell(ONE, "rm /tmp/enough")
    said = shell(ONE, "journalctl --no-pager --output=cat --unit=llm-backup; systemctl show llm-backup; cat /etc/llm/backup/settings.json")
    assert password.strip() not in said
    (made,) = copies.iterdir()
    assert made.name > first.name


def test_what_the_server_does_not_allow_is_refused_with_what_to_say_there(backup: Path, options: dict[str, t.Any], inventory: Path) -> None:
    before = rows()
    limited = restore(inventory, backup, options, f"--limit={ONE}")
    assert "LiteLLM has to stop on all of them: run this without --limit" in limited.said
    run = restore(inventory, backup, options)
    assert run.rc != 0
    assert "may not replace a database on baremetal-llm-test-pair-store:5432, so nothing was changed" in run.said
    assert "ALTER ROLE litellm CREATEDB" in run.said
    assert rows() == before
    assert left() == ""
    ask_store("ALTER ROLE litellm CREATEDB", "postgres")


def test_a_check_says_what_would_be_done_and_changes_nothing(backup: Path, options: dict[str, t.Any], inventory: Path, tmp_path: Path) -> None:
    before = rows()
    run = restore(inventory, backup, options, "--check")
    assert run.rc == 0, run.said[-3000:]
    assert re.search(r"A run would restore \d{3,} rows of .* beside the present one on baremetal-llm-test-pair-store", run.said)
    assert f"LiteLLM would stop for a moment on {ONE} and {TWO}" in run.said
    lost = {**options, "llm_secrets_dir": str(tmp_path / "lost")}
    run = restore(inventory, backup, lost, "--check")
    assert run.rc == 0, run.said[-3000:]
    assert "A run would first put back these secrets" in run.said
    assert not (tmp_path / "lost").exists()
    assert rows() == before
    assert left() == ""


def test_both_stop_and_go_on_with_what_was_backed_up(
    backup: Path, options: dict[str, t.Any], inventory: Path, doors: dict[str, FrontDoor], admins: dict[str, Admin]
) -> None:
    # LiteLLM at the other gateway knows a key that is not in the backup, and would write it down again.
    admins[TWO].remove_key("test-later")
    later = admins[TWO].make_key("test-later")
    assert chat(doors[TWO], later, "chat").status == 200
    wanted = set(json.loads((backup / "manifest.json").read_text())["tables"])
    began = time.monotonic()
    run = restore(inventory, backup, options)
    assert run.rc == 0, run.said[-3000:]
    print(f"\nrestore.yml for two gateways: {time.monotonic() - began:.1f} s")
    assert "public.LiteLLM_VerificationToken" in wanted
    assert "test-later" not in ask_store(KEYS)
    for machine in (ONE, TWO):
        until(lambda machine=machine: chat(doors[machine], doors[machine].key("counted"), "chat").status == 200, 60, "the key is let in")  # type: ignore[misc]
        until(lambda machine=machine: chat(doors[machine], later, "chat").status == 401, 90, "the later key is unknown")  # type: ignore[misc]
    assert re.fullmatch(r"litellm litellm_before_\d+", ask_store(DATABASES, "postgres"))
    assert left() == ""


def test_a_killed_restore_leaves_nothing_that_can_be_read(backup: Path, options: dict[str, t.Any], inventory: Path) -> None:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", str(inventory), str(ROOT / "playbooks/restore.yml")]
    variables = json.dumps({**options, "restore_from": str(backup)})
    run = subprocess.Popen(
        [*command, "--extra-vars", variables],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: list(Path("/tmp").glob("llm-restore-*/litellm.dump.age")) or run.poll() is not None, 300, "the dump is on its way")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    (way,) = Path("/tmp").glob("llm-restore-*")
    found = [path.read_bytes() for path in way.rglob("*") if path.is_file()]
    shutil.rmtree(way)
    assert found
    assert all(content.startswith(b"age-encryption.org") for content in found)
    # On the gateway it is for root alone, sealed, and the next restore begins with its removal.
    assert shell(ONE, "stat --format=%a /var/lib/llm/restore").strip() == "700"
    shell(ONE, "! grep --recursive --files-with-matches PGDMP /var/lib/llm/restore")
    shell(ONE, "rm -r /var/lib/llm/restore")
    for machine in (ONE, TWO):
        shell(machine, "systemctl start llm-litellm llm-litellm-standby")
    ask_store("ALTER ROLE litellm NOCREATEDB", "postgres")
