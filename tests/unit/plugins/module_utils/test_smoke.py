# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _smoke
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import ApiError


class Gateway:
    """LiteLLM, with models of which some answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, bool], makes: bool = True, lets_in: bool = True) -> None:
        self.answers, self.makes, self.lets_in = answers, makes, lets_in
        self.told: list[tuple[str, str]] = []
        monkeypatch.setattr(_smoke, "Api", lambda _url, key, _timeout: Client(self, key))


class Client:
    def __init__(self, gateway: Gateway, key: str) -> None:
        self.gateway, self.key = gateway, key

    def get(self, _path: str) -> t.Any:
        if not self.gateway.lets_in:
            raise ApiError("401")
        return {"data": [{"id": name} for name in self.gateway.answers]}

    def post(self, path: str, body: dict[str, t.Any]) -> t.Any:
        self.gateway.told.append((self.key, path))
        if path == "/key/generate":
            if not self.gateway.makes:
                raise ApiError("no database")
            return {"key": "sk-new"}
        if path == "/v1/chat/completions" and not self.gateway.answers[body["model"]]:
            raise ApiError("503: no server")
        return {}


def test_one_model_that_answers_is_enough_and_the_key_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, {"cold": False, "warm": True})
    assert _smoke.smoke("url", "master", ["cold", "warm"], 5) == "warm"
    assert gateway.told == [("master", "/key/generate"), *[("sk-new", "/v1/chat/completions")] * 2, ("master", "/key/delete")]


@pytest.mark.parametrize(
    ("given", "models", "expected"),
    [
        ({"answers": {"a": False}}, ["a"], "No model answers: 503: no server"),
        ({"answers": {"a": True}}, ["a", "b"], "The model b is not on offer"),
        ({"answers": {"a": True}, "lets_in": False}, ["a"], "A new key is not let in: 401"),
    ],
)
def test_what_fails_is_said_and_the_key_is_gone(monkeypatch: pytest.MonkeyPatch, given: dict[str, t.Any], models: list[str], expected: str) -> None:
    gateway = Gateway(monkeypatch, **given)
    with pytest.raises(_smoke.SmokeError, match=expected):
        _smoke.smoke("url", "master", models, 5)
    assert gateway.told[-1] == ("master", "/key/delete")


def test_without_a_database_no_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(monkeypatch, {"a": True}, makes=False)
    with pytest.raises(_smoke.SmokeError, match="A key cannot be made: no database"):
        _smoke.smoke("url", "master", ["a"], 5)
    assert len(gateway.told) == 1
