# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import DumpError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import load, make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError, verify
from ansible_collections.baremetal.llm.plugins.module_utils._backup_store import Keep, alone, expired, name_of, names, prune, staged
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.backup_stand_in import KEY, RECIPIENT, Gateway, age, gateway

__all__ = ["age", "gateway"]
START = datetime(2026, 1, 1, 2, 30, tzinfo=timezone.utc)


def nights(count: int, hours: int = 24) -> list[str]:
    return [name_of(START + timedelta(hours=hours * night)) for night in range(count)]


def test_retention_keeps_the_last_and_the_newest_of_each_day_week_and_month() -> None:
    found = nights(90)  # 1 January to 31 March
    kept = sorted(set(found) - set(expired(found, Keep(last=2, daily=4, weekly=3, monthly=3))))
    days = [name[:8] for name in kept]
    # Of this week the last four days; the Sundays before; the ends of the months.
    assert days == ["20260131", "20260228", "20260322", "20260328", "20260329", "20260330", "20260331"]


def test_several_a_day_count_as_one_day() -> None:
    found = nights(48, hours=1)  # 02:30 to 01:30 two days later
    assert sorted(set(found) - set(expired(found, Keep(last=1, daily=2)))) == ["20260101T233000Z", "20260102T233000Z", "20260103T013000Z"][1:]
    assert len(found) - len(expired(found, Keep(last=5))) == 5


def test_the_newest_always_stays_and_gaps_take_nothing_away() -> None:
    assert expired(nights(3), Keep(last=0)) == nights(3)[:2]
    old = [name_of(START - timedelta(days=400)), *nights(1)]
    assert expired(old, Keep(last=0, daily=2)) == []  # two days that have any, however long ago
    assert expired([], Keep()) == []


def test_prune_removes_them_and_touches_nothing_else(tmp_path: Path) -> None:
    for name in [*nights(4), "mine", ".unfinished-x"]:
        (tmp_path / name).mkdir()
    (tmp_path / "20260101T000000Z").touch()  # no directory
    assert prune(tmp_path, Keep(last=3)) == nights(4)[:1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".unfinished-x", "mine", "20260101T000000Z", *nights(4)[1:]])
    assert names(tmp_path / "nowhere") == []


def test_an_interrupted_backup_is_none_and_its_rest_goes(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def work() -> None:
        with staged(tmp_path, nights(1)[0]) as place:
            (place / "litellm.dump").touch()
            raise Killed

    with pytest.raises(Killed):
        work()
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / ".unfinished-20260101T023000Z"  # as a machine that lost its power leaves it
    left.mkdir()
    assert names(tmp_path) == []
    with alone(tmp_path):
        assert not left.exists()
        with pytest.raises(BackupError, match="being made in .* right now"), alone(tmp_path):
            pass


def test_make_proves_prunes_and_says_so(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(START + timedelta(days=day, seconds=part) for day in range(4) for part in (0, 1))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: t.Any = None) -> t.Any:
            return next(ticks)

    monkeypatch.setattr(_backup_make, "datetime", Clock)
    settings = gateway.settings(keep=Keep(last=2))
    assert [make(settings).pruned for _night in range(3)] == [(), (), ("20260101T023000Z",)]
    said = json.loads((tmp_path / "last-success").read_text())
    assert (said["backup"], said["rows"]) == ("20260103T023000Z", 11)
    assert said["bytes"] == sum(path.stat().st_size for path in (gateway.backups / said["backup"]).iterdir())
    assert (tmp_path / "last-success").stat().st_mode & 0o777 == 0o644
    assert gateway.backups.stat().st_mode & 0o777 == 0o700


def test_a_failure_leaves_no_backup_and_no_success(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(gateway.settings())
    before = (tmp_path / "last-success").read_text()

    def dump(*_arguments: t.Any) -> t.NoReturn:
        raise DumpError("pg_dump failed: the disk is full")

    monkeypatch.setattr(_backup_make, "dump", dump)
    monkeypatch.setattr(_backup_make, "name_of", lambda _now: "20990101T000000Z")
    with pytest.raises(DumpError, match="the disk is full"):
        make(gateway.settings(keep=Keep(last=1)))
    assert len(names(gateway.backups)) == 1
    assert len(list(gateway.backups.iterdir())) == 1
    assert (tmp_path / "last-success").read_text() == before


def test_two_in_one_second_are_one(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backup_make, "name_of", lambda _now: "20260101T023000Z")
    make(gateway.settings())
    with pytest.raises(BackupError, match="within this very second"):
        make(gateway.settings())


def test_encrypted_and_with_secrets(gateway: Gateway, age: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets.tar.age").write_bytes(b"sealed")
    settings = gateway.settings(recipients=(RECIPIENT,), secrets=str(tmp_path / "secrets.tar.age"), litellm=str(tmp_path))
    found = verify(gateway.backups / make(settings).name, KEY)
    assert (found.dump, found.secrets, found.encrypted_to) == ("litellm.dump.age", "secrets.tar.age", (RECIPIENT,))
    assert found.litellm == tmp_path.name


def test_a_wrong_public_key_is_refused_before_anything_is_made(gateway: Gateway) -> None:
    for wrong, because in (("AGE-SECRET-KEY-1ABC", "holds a private key"), ("ssh-ed25519 AAAA", "no public key of age's"), ("age1short", "no public key")):
        with pytest.raises(InputError, match=because):
            make(gateway.settings(recipients=(wrong,)))
    assert not gateway.backups.exists()


def test_settings_come_from_the_units_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"directory": "/b", "host": "h", "key_file": "/k", "success_file": "/s", "recipients": ["a"], "keep": {"daily": 7}}))
    found = load(file)
    assert (found.recipients, found.keep, found.server.system_user) == (("a",), Keep(1, 7, 0, 0), "postgres")
    file.write_text(
        json.dumps({"directory": "/b", "host": "h", "key_file": "/k", "success_file": "/s", "server": {"host": "db", "user": "u", "system_user": ""}})
    )
    assert load(file).server.words("x") == {"host": "db", "port": "5432", "user": "u", "dbname": "x"}
