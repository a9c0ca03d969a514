"""What test_2_backup.py began: a blank machine is the gateway of the backup, row by row."""

from __future__ import annotations

from pathlib import Path

from backups import ADDRESSES, BLANK, SPENT, Backup, Restoring, rows  # type: ignore[import-not-found]
from conftest import Admin, FrontDoor, shell  # type: ignore[import-not-found]


def test_it_is_restored_onto_a_blank_machine(backup: Backup, restoring: Restoring, secrets: Path) -> None:
    run = restoring.finished()
    assert run.rc == 0, run.said[-3000:]
    restored = rows(BLANK)
    for table, wanted in backup.rows.items():
        # LiteLLM runs there meanwhile, and may have logged a request of its own.
        missing = [row for row in wanted if row not in restored[table]]
        assert missing == [], table
    assert restored["LiteLLM_VerificationToken"] == backup.rows["LiteLLM_VerificationToken"]

    theirs = restoring.inventory / ".secrets"
    for name in ("litellm_salt_key", "litellm_master_key", "backup_key", "keys/laptop"):
        assert (theirs / name).read_text() == (secrets / name).read_text(), name
    key = (theirs / "keys/laptop").read_text().strip()
    door = FrontDoor(BLANK, ADDRESSES[BLANK], theirs)
    assert door.ask("GET", "/v1/models", key).status == 200
    assert door.ask("GET", "/v1/models", "sk-" + "0" * 64).status == 401
    admin = Admin(BLANK, (theirs / "litellm_master_key").read_text().strip())
    (told,) = admin.call("GET", "/key/list?key_alias=laptop&return_full_object=true").body["keys"]
    assert told["spend"] == SPENT
    left = shell(BLANK, "ls -d /var/tmp/llm-restore-* 2>/dev/null || true") + "".join(str(path) for path in Path("/tmp").glob("llm-restore-*"))
    assert left == ""


def test_the_database_that_was_there_is_kept(restoring: Restoring) -> None:
    command = "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align --command=\"SELECT datname FROM pg_database WHERE datname ~ '^litellm'\""
    found = sorted(shell(BLANK, command).split())
    assert found[0] == "litellm"
    assert [name[:15] for name in found[1:]] == ["litellm_before_"]
