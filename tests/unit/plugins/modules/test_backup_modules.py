# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import json
import typing as t
from dataclasses import asdict
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, Server, Table
from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_restore import Place, Ready, Restored
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import pack
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._services import Services
from ansible_collections.baremetal.llm.plugins.module_utils._systemd_timer import Timer
from ansible_collections.baremetal.llm.plugins.modules import backup_info, backup_open, backup_prune, backup_restore, backup_secrets, systemd_timer
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.backup_stand_in import KEY, RECIPIENT, SALT, Gateway, age, gateway

__all__ = ["age", "gateway"]
Call = t.Callable[..., dict[str, t.Any]]


def test_info_lists_and_proves(call: Call, gateway: Gateway) -> None:
    assert "There is no backup in" in call(backup_info, directory=str(gateway.backups))["msg"]
    assert call(backup_info, directory=str(gateway.backups), required=False)["backups"] == []
    name = make(gateway.settings()).name
    (one,) = call(backup_info, directory=str(gateway.backups), key=KEY)["backups"]
    assert (one["name"], one["proven"], one["error"], one["files"]) == (name, True, "", ["litellm.dump", "manifest.json", "manifest.sum"])
    assert not call(backup_info, directory=str(gateway.backups), prove="none")["backups"][0]["proven"]
    (gateway.backups / name / "litellm.dump").write_bytes(b"PGDMP everythinh")
    assert "litellm.dump is damaged" in call(backup_info, directory=str(gateway.backups), key=KEY)["msg"]
    (one,) = call(backup_info, directory=str(gateway.backups), key=KEY, required=False)["backups"]
    assert (one["proven"], "litellm.dump is damaged" in one["error"]) == (False, True)


def test_secrets_arrive_and_are_not_shown(call: Call, gateway: Gateway, age: Path) -> None:
    packed = base64.b64encode(pack(gateway.secrets, {})).decode()
    options = {"directory": str(gateway.root / "kept"), "packed": packed, "key": KEY}
    assert "backup_secrets_in_the_clear: true" in call(backup_secrets, **options)["msg"]
    answer = call(backup_secrets, **options, encrypt_to=[RECIPIENT])
    assert answer["changed"]
    assert not any(secret in json.dumps(answer) for secret in (KEY, SALT, packed))
    assert not call(backup_secrets, **options, encrypt_to=[RECIPIENT])["changed"]
    gone = call(backup_secrets, directory=options["directory"], state="absent")
    assert gone["changed"]
    assert "The backups do not hold the secrets" in json.dumps(gone["warnings"])


def test_open_tells_what_was_put_back_and_warns_of_others(call: Call, gateway: Gateway) -> None:
    call(backup_secrets, directory=str(gateway.root), packed=base64.b64encode(pack(gateway.secrets, {})).decode(), key=KEY, in_the_clear=True)
    place = gateway.backups / make(gateway.settings(secrets=str(gateway.root / "secrets.tar"))).name
    (gateway.secrets / "backup_key").unlink()
    (gateway.secrets / "keys/laptop").write_text("sk-rotated")
    options = {"backup": str(place), "secrets": str(gateway.secrets)}
    told = call(backup_open, check=True, **options)
    assert (told["changed"], told["put_back"], (gateway.secrets / "backup_key").exists()) == (True, ["backup_key"], False)
    answer = call(backup_open, **options)
    assert (answer["changed"], answer["put_back"], answer["different"]) == (True, ["backup_key"], ["keys/laptop"])
    assert (answer["dump"], answer["sealed"], answer["manifest"]["host"]) == (str(place / "litellm.dump"), False, "door")
    assert "are not those of the backup" in json.dumps(answer["warnings"])
    assert not any(secret in json.dumps(answer) for secret in (KEY, SALT, "sk-rotated"))
    assert "The salt does not match" in call(backup_open, **options, salt="another salt, with 32 characters too")["msg"]
    assert "public_key" in call(backup_open, **options, target="/x")["msg"]


def test_restore_hands_everything_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def restore(dump: Path, wanted: Contents, litellm: str, place: Place) -> Restored:
        seen.append((dump, wanted, litellm, place))
        return Restored("litellm_before_x", 9, True)

    monkeypatch.setattr(backup_restore, "restore", restore)
    monkeypatch.setattr(backup_restore, "give_back", lambda old, place: f"{old} {place.database}")
    monkeypatch.setattr(backup_restore, "drop", lambda server, old: seen.append((server, old)))
    contents = Contents("15.14", {"public.keys": Table(2, "1:2")}, ("1_init",))
    manifest = {**asdict(contents), "litellm": "1.106.2"}
    answer = call(backup_restore, dump="/x", manifest=manifest, server={"host": "db", "user": "u"}, server_password="hush-hush")
    assert "hush-hush" not in json.dumps(answer)
    assert {key: answer[key] for key in ("changed", "old", "rows", "older")} == {"changed": True, "old": "litellm_before_x", "rows": 9, "older": True}
    path, wanted, litellm, place = seen.pop()
    server = Server("db", 5432, "u", "", place.server.passfile, "verify-full", "")
    assert (path, wanted, litellm, place) == (Path("/x"), contents, "1.106.2", Place("litellm", "litellm", place.services, server))
    assert (place.services.names, place.services.docker) == (("llm-litellm", "llm-litellm-standby"), None)
    assert place.server.passfile
    assert not Path(place.server.passfile).exists()
    assert call(backup_restore, state="given_back", old="o")["failed_database"] == "o litellm"
    assert call(backup_restore, state="dropped", old="o")["changed"]
    assert seen == [(Server(), "o")]
    assert "missing" in call(backup_restore, state="dropped")["msg"]

    assert call(backup_restore, check=True, state="dropped", old="o")["skipped"]
    assert seen == [(Server(), "o")]

    def refuse(*_arguments: t.Any) -> t.NoReturn:
        raise BackupError("another row")

    monkeypatch.setattr(backup_restore, "restore", refuse)
    assert call(backup_restore, dump="/x", manifest={**asdict(contents), "litellm": ""})["msg"] == "another row"


def test_what_only_shares_the_database_is_stopped_and_started(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, tuple[str, ...], bool]] = []
    for what in ("stop", "start"):
        monkeypatch.setattr(Services, what, lambda services, what=what: seen.append((what, services.names, services.docker is not None)))
    assert call(backup_restore, state="stopped", services=["llm-litellm"], containers=True)["changed"]
    assert call(backup_restore, check=True, state="started")["skipped"]
    assert call(backup_restore, state="started")["changed"]
    assert seen == [("stop", ("llm-litellm",), True), ("start", ("llm-litellm", "llm-litellm-standby"), False)]


def test_restore_makes_a_place_and_removes_it(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[t.Any] = []

    def prepare(_wanted: Contents, _litellm: str, _place: Place, directory: Path, *, sealed: bool, check: bool) -> Ready:
        seen.append((directory, sealed, check))
        return Ready(there=True, older=False, public_key="" if check else "age1x")

    monkeypatch.setattr(backup_restore, "prepare", prepare)
    manifest = {**asdict(Contents("15.14")), "litellm": ""}
    answer = call(backup_restore, state="prepared", manifest=manifest)
    assert {key: answer[key] for key in ("changed", "directory", "public_key", "there")} == {
        "changed": False, "directory": "/var/lib/llm/restore", "public_key": "age1x", "there": True
    }  # fmt: skip
    assert "directory" not in call(backup_restore, check=True, state="prepared", manifest=manifest, sealed=False)
    assert seen == [(Path("/var/lib/llm/restore"), True, False), (Path("/var/lib/llm/restore"), False, True)]
    (tmp_path / "place").mkdir()
    assert not call(backup_restore, state="forgotten", directory=str(tmp_path / "place"))["changed"]
    assert not (tmp_path / "place").exists()


def test_prune_keeps_what_shall_stay(call: Call, tmp_path: Path) -> None:
    made = [f"2026010{day}T020000Z" for day in range(1, 5)]
    for name in (*made, ".unfinished-20260105T020000Z"):
        (tmp_path / name).mkdir()
    options = {"directory": str(tmp_path), "keep": {"last": 1, "daily": 2}}
    told = call(backup_prune, check=True, **options)
    assert (told["changed"], told["removed"], len(list(tmp_path.iterdir()))) == (True, made[:2], 5)
    assert call(backup_prune, **options)["removed"] == made[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == made[2:]
    assert not call(backup_prune, **options)["changed"]
    assert call(backup_prune, directory=str(tmp_path), keep={})["removed"] == made[2:3]  # the newest stays


def test_timer_hands_everything_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Timer, bool]] = []

    def present(wish: Timer, _run: t.Any, check: bool) -> Difference:
        seen.append((wish, check))
        return Difference()

    monkeypatch.setattr(systemd_timer, "present", present)
    monkeypatch.setattr(systemd_timer, "absent", lambda _name, _run, _check: Difference())
    options = {"name": "llm-x", "service": "[Service]", "timer": "[Timer]", "schedule": ["daily"], "files": [{"path": "/etc/x", "content": "a"}]}
    answer = call(systemd_timer, check=True, **options, secret_files=[{"path": "/etc/key", "mode": "0600"}], secret_contents=["hush-hush"])
    assert "hush-hush" not in json.dumps(answer)
    ((wish, check),) = seen
    assert (check, wish.schedule, wish.service, wish.timer) == (True, ("daily",), "[Service]", "[Timer]")
    assert [(str(one.path), one.mode, one.secret) for one in wish.files] == [("/etc/x", 0o644, False), ("/etc/key", 0o600, True)]
    assert "of equal length" in call(systemd_timer, **options, secret_files=[{"path": "/etc/key"}])["msg"]
    assert not call(systemd_timer, name="llm-x", state="absent")["changed"]
