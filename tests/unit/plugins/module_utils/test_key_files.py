# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import os
import re
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _key_files
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._key_files import carry_out, planned, read_key, with_keys

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.timezone.utc)
LAPTOP = {"name": "laptop"}


def later(**time: int) -> dt.datetime:
    return NOW + dt.timedelta(**time)


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (directory / "keys").iterdir()}


def run(directory: Path, keys: list[dict[str, t.Any]], *rotate: str, now: dt.datetime = NOW, purge: bool = False) -> list[str]:
    changes = planned(keys, str(directory), rotate, now, purge)
    for change in changes:
        carry_out(change, next((key for key in keys if key["name"] == change.name), {}), str(directory), now)
    return [f"{change.what} {change.name}" for change in changes]


def made(directory: Path, name: str, days_ago: int = 0) -> str:
    (item,) = with_keys([{"name": name}], str(directory), NOW)
    moment = (NOW - dt.timedelta(days=days_ago)).timestamp()
    os.utime(directory / "keys" / name, (moment, moment))
    return str(item["key"])


def test_a_key_is_given_or_made(tmp_path: Path) -> None:
    given, new = with_keys([{"name": "ci", "key": "mine"}, {"name": "laptop", "burst": 3}], str(tmp_path), NOW)
    assert given == {"name": "ci", "key": "mine"}
    assert new["burst"] == 3
    assert re.fullmatch(r"sk-[0-9a-f]{64}", new["key"])
    assert files(tmp_path) == {"laptop": new["key"] + "\n"}


def test_who_is_absent_or_over_has_none(tmp_path: Path) -> None:
    keys = [{"name": "a", "state": "absent"}, {"name": "b", "expires": "2026-11-20"}]
    assert with_keys(keys, str(tmp_path), NOW) == []
    assert not (tmp_path / "keys").exists()


def test_a_rotation_keeps_the_old_key_for_its_grace(tmp_path: Path) -> None:
    old = made(tmp_path, "laptop")
    assert run(tmp_path, [LAPTOP], "laptop") == ["rotate laptop"]
    (item,) = with_keys([LAPTOP], str(tmp_path), later(hours=23))
    assert item["previous_key"] == old
    assert re.fullmatch(r"sk-[0-9a-f]{64}", item["key"])
    assert item["key"] != old
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "keys").iterdir())
    (item,) = with_keys([LAPTOP], str(tmp_path), later(hours=25))
    assert "previous_key" not in item
    assert run(tmp_path, [LAPTOP], now=later(hours=23)) == []
    assert run(tmp_path, [LAPTOP], now=later(hours=25)) == ["forget laptop"]
    assert list(files(tmp_path)) == ["laptop"]


def test_a_rotation_that_was_killed_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made(tmp_path, "laptop")
    replace = _key_files._replace

    def killed(path: Path, content: str) -> None:
        if path.name == "laptop":
            raise KeyboardInterrupt
        replace(path, content)

    monkeypatch.setattr(_key_files, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [LAPTOP], "laptop")
    assert read_key(str(tmp_path), "laptop") == old
    (item,) = with_keys([LAPTOP], str(tmp_path), NOW)
    assert item == {"name": "laptop", "key": old}
    monkeypatch.undo()
    assert run(tmp_path, [LAPTOP]) == ["rotate laptop"]
    (item,) = with_keys([LAPTOP], str(tmp_path), NOW)
    assert item["previous_key"] == old
    assert run(tmp_path, [LAPTOP]) == []


@pytest.mark.parametrize(
    ("fields", "days_ago", "due"),
    [
        ({"rotate_after": "90d"}, 91, True),
        ({"rotate_after": "90d"}, 89, False),
        ({"rotate": "2026-11-20"}, 2, True),
        ({"rotate": "2026-11-20"}, 0, False),
        ({"rotate": "2026-12-24"}, 2, False),
    ],
)
def test_old_keys_are_rotated_once(tmp_path: Path, fields: dict[str, t.Any], days_ago: int, due: bool) -> None:
    made(tmp_path, "laptop", days_ago)
    key = {**LAPTOP, **fields}
    assert run(tmp_path, [key]) == (["rotate laptop"] if due else [])
    os.utime(tmp_path / "keys" / "laptop", (NOW.timestamp(), NOW.timestamp()))
    assert run(tmp_path, [key]) == []


def test_what_is_absent_is_forgotten_so_that_it_never_comes_back(tmp_path: Path) -> None:
    old = made(tmp_path, "laptop")
    run(tmp_path, [LAPTOP], "laptop")
    gone = {**LAPTOP, "state": "absent"}
    assert run(tmp_path, [gone]) == ["remove laptop"]
    assert files(tmp_path) == {}
    assert run(tmp_path, [gone]) == []
    assert made(tmp_path, "laptop") != old


def test_what_is_purged_keeps_its_value_under_another_name(tmp_path: Path) -> None:
    old, kept = made(tmp_path, "laptop"), made(tmp_path, "phone")
    run(tmp_path, [LAPTOP, {"name": "phone"}], "laptop")
    new = read_key(str(tmp_path), "laptop")
    (tmp_path / "keys/README").write_text("not a key")
    (tmp_path / "keys/.laptop.1.aa").write_text("left by a run that was killed")
    assert run(tmp_path, [{"name": "phone"}]) == []
    assert run(tmp_path, [{"name": "phone"}], purge=True) == ["set aside laptop"]
    assert read_key(str(tmp_path), "laptop.removed") == new
    assert old not in "".join(files(tmp_path).values())
    assert sorted(files(tmp_path)) == [".laptop.1.aa", "README", "laptop.removed", "phone"]
    assert read_key(str(tmp_path), "phone") == kept
    assert run(tmp_path, [{"name": "phone"}], purge=True) == []
    assert made(tmp_path, "laptop") != new, "a key that was removed does not come back by itself"
    assert run(tmp_path / "nowhere", [], purge=True) == []


def test_a_rotation_of_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="llm_rotate names lptop, which llm_keys does not have: there is: laptop"):
        run(tmp_path, [LAPTOP], "lptop")
    with pytest.raises(InputError, match="given in the inventory"):
        run(tmp_path, [{**LAPTOP, "key": "sk-x"}], "laptop")
    assert run(tmp_path, [LAPTOP], "laptop") == []  # there is none yet, so the first one is new
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/laptop.previous").write_text("sk-x\n")
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path, [LAPTOP])
