"""What the gateway must not lose: backed up by the clock and by hand, damaged in every file, restored onto a machine that has never been a gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backups import BLANK, Backup, Restoring, restore  # type: ignore[import-not-found]
from conftest import Admin, shell, until  # type: ignore[import-not-found]

BACKUPS = "/var/backups/llm"
PROGRAM = "python3 /opt/llm/backup/backup.py"
SLEEPER = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()"


def names(machine: str) -> list[str]:
    return shell(machine, f"{PROGRAM} list /etc/llm/backup/settings.json").split()


def with_settings(machine: str, **changed: t.Any) -> str:
    """A copy of the unit's settings, for backups into a directory of its own."""
    shell(machine, f"rm -rf {changed['directory']}")
    settings = {**json.loads(shell(machine, "cat /etc/llm/backup/settings.json")), "success_file": "/run/backup-success", **changed}
    subprocess.run(
        ["docker", "exec", "--interactive", machine, "sh", "-c", "cat >/run/backup-settings.json"], input=json.dumps(settings), text=True, check=True
    )
    return "/run/backup-settings.json"


def test_the_clock_makes_one(machine: str) -> None:
    shell(machine, "rm -f /var/lib/llm/backup/last-success")
    soon = "[Timer]\\nOnCalendar=\\nOnActiveSec=1s\\nAccuracySec=1s\\nRandomizedDelaySec=0\\n"
    shell(machine, f"mkdir -p /run/systemd/system/llm-backup.timer.d && printf '{soon}' >/run/systemd/system/llm-backup.timer.d/soon.conf")
    try:
        shell(machine, "systemctl daemon-reload && systemctl restart llm-backup.timer")
        until(lambda: "yes" in shell(machine, "test ! -e /var/lib/llm/backup/last-success || echo yes"), 30, "a backup is made")
    finally:
        shell(machine, "rm -r /run/systemd/system/llm-backup.timer.d && systemctl daemon-reload && systemctl restart llm-backup.timer")
    said = json.loads(shell(machine, "cat /var/lib/llm/backup/last-success"))
    assert said["backup"] == names(machine)[-1]
    assert said["rows"] > 200  # LiteLLM's own migrations alone are more
    assert shell(machine, f"stat --format=%a {BACKUPS}").strip() == "700"


def test_no_plain_secret_is_in_it_or_beside_it(backup: Backup, machine: str, secrets: Path, public: str) -> None:
    files = list(backup.path.iterdir())
    assert sorted(path.name for path in files) == ["litellm.dump.age", "manifest.json", "manifest.sum", "secrets.tar.age"]
    assert json.loads((backup.path / "manifest.json").read_text())["encrypted_to"] == [public]
    everything = b"".join(path.read_bytes() for path in files)
    said = shell(machine, "cat /etc/llm/backup/settings.json; journalctl --no-pager --output=cat --unit=llm-backup; systemctl show llm-backup")
    for secret in (path.read_text().strip() for path in secrets.rglob("*") if path.is_file()):
        assert secret.encode() not in everything
        assert secret not in said
    kept = shell(machine, "cat /var/lib/llm/backup/secrets.tar.age | head -c 30")
    assert kept.startswith("age-encryption.org")


def test_a_flipped_byte_of_any_file_is_found(backup: Backup, machine: str) -> None:
    verify = f"{PROGRAM} verify /etc/llm/backup/settings.json"
    assert f"{backup.path.name}: as it was made" in shell(machine, verify)
    for name in sorted(path.name for path in backup.path.iterdir()):
        flip = f"""python3 -c '
p = "{BACKUPS}/{backup.path.name}/{name}"; b = bytearray(open(p, "rb").read()); b[len(b) // 2] ^= 1; open(p, "wb").write(b)'"""
        shell(machine, flip)
        said = shell(machine, f"{verify} && exit 9 || test $? = 1")
        shell(machine, flip)
        assert f"{name} is damaged" in said
    assert f"{backup.path.name}: as it was made" in shell(machine, verify)


def test_what_must_not_be_restored_is_refused_before_anything_is_touched(backup: Path, blank: Path, identity: Path, secrets: Path, tmp_path: Path) -> None:
    another = tmp_path / "another.key"
    subprocess.run(["age-keygen", "--output", another], check=True, capture_output=True)
    damaged = tmp_path / backup.path.name
    shutil.copytree(backup.path, damaged)
    dump = bytearray((damaged / "litellm.dump.age").read_bytes())
    dump[-1] ^= 1
    (damaged / "litellm.dump.age").write_bytes(dump)
    # An installation that has secrets of its own, and one that is this one but for its salt.
    others, salted = tmp_path / "others", tmp_path / "salted"
    for place in (others, salted):
        place.mkdir()
        (place / "litellm_salt_key").write_text("0" * 64)
    (others / "backup_key").write_text("1" * 64)
    shutil.copy(secrets / "backup_key", salted)
    mine = {"restore_identity": str(identity), "llm_secrets_dir": str(tmp_path / "none")}
    refused = (
        ("litellm.dump.age is damaged", damaged, mine),
        ("is encrypted: name the file with the private key", backup.path, {**mine, "restore_identity": ""}),
        ("is not encrypted to the key in", backup.path, {**mine, "restore_identity": str(another)}),
        ("is a backup of another installation", backup.path, {**mine, "llm_secrets_dir": str(others)}),
        ("The salt does not match", backup.path, {**mine, "llm_secrets_dir": str(salted)}),
    )
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda one: restore(blank, one[1], **one[2]), refused))
    for (because, _place, _variables), run in zip(refused, runs):
        assert run.rc != 0
        assert because in run.said, run.said[-2000:]
    assert not (tmp_path / "none").exists()
    assert [path.name for path in salted.iterdir() if path.name not in ("litellm_salt_key", "backup_key")] == []
    assert shell(BLANK, "ls /opt") == ""
    assert list(Path("/tmp").glob("llm-restore-*")) == []


def test_a_restore_begins(restoring: Restoring) -> None:
    """It takes minutes, and goes on while keys are tested; test_4_restored.py looks at it."""
    assert restoring.process.poll() in (None, 0)


def test_old_ones_go_and_the_newest_stay(machine: str) -> None:
    settings = with_settings(machine, directory="/run/backups", keep={"last": 2})
    made = []
    for _night in range(3):
        made.append(shell(machine, f"{PROGRAM} make {settings} && sleep 1").split(":")[0].rsplit("/", 1)[1])
    assert shell(machine, f"{PROGRAM} list {settings}").split() == made[1:]


def test_an_interrupted_backup_is_none(admin: Admin, machine: str) -> None:
    settings = with_settings(machine, directory="/run/interrupted")
    lock = 'BEGIN; LOCK TABLE "LiteLLM_SpendLogs" IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)'
    holder = subprocess.Popen(
        ["docker", "exec", machine, "runuser", "--user", "postgres", "--", "psql", "--no-psqlrc", "--dbname=litellm", f"--command={lock}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: admin.query(f"{SLEEPER} AND state = 'active'") != "", 10, "the table is locked")
        shell(machine, f"systemd-run --unit=interrupted --property=Type=exec {PROGRAM} make {settings}")
        until(lambda: "unfinished" in shell(machine, "ls -A /run/interrupted 2>/dev/null || true"), 10, "it has begun")
        shell(machine, "systemctl kill --signal=KILL interrupted")
        until(lambda: "yes" in shell(machine, "systemctl is-active --quiet interrupted || echo yes"), 10, "it is dead")
    finally:
        admin.query(SLEEPER.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"))
        shell(machine, "systemctl reset-failed interrupted || true")
        holder.wait(timeout=30)
    assert shell(machine, f"{PROGRAM} list {settings}") == ""
    assert "unfinished" in shell(machine, "ls -A /run/interrupted")
    shell(machine, f"{PROGRAM} make {settings}")
    assert len(shell(machine, "ls -A /run/interrupted").split()) == 1


def test_a_full_disk_is_a_failure_that_is_seen(machine: str) -> None:
    settings = with_settings(machine, directory="/run/full", success_file="/run/never")
    shell(machine, "mkdir -p /run/full && mount -t tmpfs -o size=32k tmpfs /run/full")
    try:
        said = shell(machine, f"{PROGRAM} make {settings} 2>&1 && exit 9 || test $? = 2")
        assert "No backup: " in said
        assert shell(machine, "ls -A /run/full; ls /run/never 2>/dev/null || true") == ""
    finally:
        shell(machine, "umount /run/full")
