# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules around LiteLLM's database: that each option arrives, and what comes back."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._database_trial import Trial, TrialError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ConnectError
from ansible_collections.baremetal.llm.plugins.module_utils._salt import SaltError
from ansible_collections.baremetal.llm.plugins.module_utils._smoke import SmokeError
from ansible_collections.baremetal.llm.plugins.modules import database_trial, litellm_salt, litellm_smoke

Call = t.Callable[..., dict[str, t.Any]]
SALT, KEY = "salt-" * 8, "sk-" + "k" * 40
TRIAL = {"database": "litellm", "owner": "litellm", "dump": "/var/lib/llm/upgrades/x.dump", "python": "/opt/x/bin/python"}


def test_a_trial_is_handed_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trial] = []

    def attempt(trial: Trial) -> tuple[str, ...]:
        seen.append(trial)
        return ("2_b",)

    monkeypatch.setattr(database_trial, "attempt", attempt)
    assert call(database_trial, check=True, **TRIAL)["migrations"] == []
    assert seen == []
    assert call(database_trial, **TRIAL, port=5433, environment={"WORKERS": 2})["migrations"] == ["2_b"]
    assert seen == [Trial("litellm", "litellm", Path(TRIAL["dump"]), TRIAL["python"], Path("/etc/llm/litellm"), {"WORKERS": "2"}, 5433)]
    call(database_trial, **TRIAL, image="sha256:1")
    assert seen[1].image == "sha256:1"


def test_the_way_back_needs_no_program(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trial] = []
    monkeypatch.setattr(database_trial, "bring_back", seen.append)
    wish = {name: value for name, value in TRIAL.items() if name != "python"}
    assert call(database_trial, state="back", **wish)["changed"]
    assert len(seen) == 1
    assert "python" in call(database_trial, **wish)["msg"]


def test_what_was_tried_in_vain_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(_trial: Trial) -> t.NoReturn:
        raise TrialError("nothing was changed")

    monkeypatch.setattr(database_trial, "attempt", attempt)
    answer = call(database_trial, **TRIAL)
    assert (answer["failed"], answer["msg"]) == (True, "nothing was changed")


def test_every_instance_is_asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm_smoke, "smoke", lambda url, key, models, timeout: f"{url} {models[0]} {timeout} {key == KEY}")
    wish: dict[str, t.Any] = {"urls": ["one", "two"], "master_key": KEY, "models": ["chat"], "timeout": 7}
    assert call(litellm_smoke, check=True, **wish)["answered"] == []
    answer = call(litellm_smoke, **wish)
    assert answer["answered"] == ["one chat 7 True", "two chat 7 True"]
    assert KEY not in json.dumps(answer)

    def refuse(*_arguments: t.Any) -> t.NoReturn:
        raise SmokeError("No model answers")

    monkeypatch.setattr(litellm_smoke, "smoke", refuse)
    assert call(litellm_smoke, **wish)["msg"] == "No model answers"


@pytest.mark.parametrize(
    ("error", "check", "failed"),
    [(None, False, False), (SaltError("another"), False, True), (SaltError("another"), True, True), (ConnectError("gone"), False, True)],
)
def test_the_salt_is_looked_at(call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception | None, check: bool, failed: bool) -> None:
    seen: list[tuple[str, str]] = []

    def look(address: str, salt_key: str) -> bool:
        seen.append((address, salt_key))
        if error:
            raise error
        return True

    monkeypatch.setattr(litellm_salt, "check", look)
    answer = call(litellm_salt, check=check, address="postgresql://litellm@x/litellm", salt_key=SALT)
    assert bool(answer.get("failed")) is failed
    assert failed or answer["remembered"]
    assert seen == [("postgresql://litellm@x/litellm", SALT)]
    assert SALT not in json.dumps(answer)


def test_before_there_is_a_database_check_mode_says_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: str, _salt_key: str) -> t.NoReturn:
        raise ConnectError("nobody there")

    monkeypatch.setattr(litellm_salt, "check", refuse)
    assert not call(litellm_salt, check=True, address="a", salt_key=SALT).get("failed")
