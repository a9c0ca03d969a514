# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_keys import Outcome, Wish
from ansible_collections.baremetal.llm.plugins.modules import key_files, litellm_keys, litellm_spend_info

Call = t.Callable[..., dict[str, t.Any]]
VALUE = "sk-" + "a" * 64


def test_the_wish_arrives_and_no_value_comes_back(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Wish, bool]] = []

    def apply(_api: t.Any, wish: Wish, _now: t.Any, check: bool) -> Outcome:
        seen.append((wish, check))
        return Outcome(True, {"before": "", "after": "x"}, [f"key laptop: made of {VALUE}"])

    monkeypatch.setattr(litellm_keys, "apply", apply)
    keys = [{"name": "laptop", "team": "lab", "max_budget": 5}]
    answer = call(litellm_keys, check=True, master_key="sk-master", keys=keys, key_values={"laptop": VALUE}, teams=[{"name": "lab"}])
    ((wish, check),) = seen
    assert (check, wish.purge, wish.values) == (True, False, {"laptop": VALUE})
    assert (wish.keys[0]["team"], wish.keys[0]["max_budget"], wish.keys[0]["grace"], wish.teams[0]["state"]) == ("lab", 5.0, "24h", "present")
    assert answer["changed"]
    assert VALUE not in json.dumps(answer)
    assert "sk-master" not in json.dumps(answer)


def test_an_error_is_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(*_arguments: t.Any) -> t.NoReturn:
        raise InputError("no such thing")

    monkeypatch.setattr(litellm_keys, "apply", apply)
    assert call(litellm_keys, master_key="sk-master", keys=[], key_values={})["msg"] == "no such thing"


def test_files_are_rotated_and_check_mode_only_says_so(call: Call, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/laptop").write_text(VALUE + "\n")
    for check in (True, False):
        answer = call(key_files, check=check, dir=str(tmp_path), keys=[{"name": "laptop", "grace": "1h"}], rotate=["laptop"])
        assert answer["events"] == ["rotate laptop, because llm_rotate names it"]
        assert answer["diff"] == {"before": "key file laptop: as it was\n", "after": "key file laptop: a new key\n"}
        assert VALUE not in json.dumps(answer)
        assert (tmp_path / "keys/laptop.previous").exists() is not check
    assert (tmp_path / "keys/laptop.previous").read_text().startswith(VALUE)
    assert not call(key_files, dir=str(tmp_path), keys=[{"name": "laptop"}])["changed"]
    purged = call(key_files, dir=str(tmp_path), keys=[], purge=True)
    assert purged["events"] == ["set aside laptop, because llm_keys does not name it"]
    assert purged["diff"]["after"] == "key file laptop: called .removed\n"
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["laptop.removed"]
    assert "llm_rotate names x" in call(key_files, dir=str(tmp_path), keys=[{"name": "laptop"}], rotate=["x"])["msg"]


def test_spend_is_that_of_the_month_unless_told_otherwise(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def spend(_api: t.Any, first: t.Any, last: t.Any) -> list[dict[str, t.Any]]:
        seen.append((str(first), str(last)))
        return []

    monkeypatch.setattr(litellm_spend_info, "spend", spend)
    answer = call(litellm_spend_info, master_key="sk-master", last="2026-10-31")
    assert (seen, answer["first"], answer["csv"].splitlines()[0][:8]) == ([("2026-10-01", "2026-10-31")], "2026-10-01", "day,key,")
    assert answer["lines"] == ["Nothing was spent from 2026-10-01 to 2026-10-31."]
    assert call(litellm_spend_info, master_key="sk-master", first="soon")["msg"] == "first is 'soon': it must be a day, such as 2026-11-01."
