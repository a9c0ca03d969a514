# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""LiteLLM's callback of the role litellm, without LiteLLM: what it is given and gives back. With the real one: tests/bench/routing.py."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
import typing as t
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles/litellm/files/llm_gateway.py"


class Unavailable(Exception):
    def __init__(self, message: str, llm_provider: str, model: str) -> None:
        super().__init__(message)


class Router:
    def __init__(self, *deployments: dict[str, t.Any]) -> None:
        self.deployments = list(deployments)

    def get_model_list(self, model_name: str) -> list[dict[str, t.Any]]:
        return self.deployments


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> tuple[t.Any, types.ModuleType]:
    """The callback, and the module in which the proxy keeps its router. A word is a token."""
    modules = {name: types.ModuleType(name) for name in ("httpx", "litellm", "litellm.integrations", "litellm.proxy")}
    modules["litellm.integrations.custom_logger"] = logger = types.ModuleType("custom_logger")
    modules["litellm.proxy.proxy_server"] = server = types.ModuleType("proxy_server")
    modules["httpx"].__dict__["Timeout"] = lambda seconds, connect: (seconds, connect)
    modules["litellm"].__dict__["ServiceUnavailableError"] = Unavailable
    modules["litellm"].__dict__["token_counter"] = lambda messages, tools: len(messages[0]["content"].split())
    logger.__dict__["CustomLogger"] = object
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("llm_gateway", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.gateway, server


def deployment(name: str, limit: int | None) -> dict[str, t.Any]:
    return {"model_info": {"id": name, **({"max_input_tokens": limit} if limit else {})}}


SMALL, LARGE, ENDLESS = deployment("small", 10), deployment("large", 100), deployment("endless", None)


def left(
    loaded: tuple[t.Any, types.ModuleType], everything: list[t.Any], healthy: list[t.Any], words: int, tried: t.Sequence[str] = ()
) -> list[str]:
    gateway, server = loaded
    server.__dict__["llm_router"] = Router(*everything)
    request = {"metadata": {"previous_models": [{"deployment_id": name} for name in tried]}}
    found = asyncio.run(gateway.async_filter_deployments("auto", healthy, [{"content": "word " * words}], request))
    return [one["model_info"]["id"] for one in found]


@pytest.mark.parametrize(("timeout", "expected"), [(600, (600, 3.0)), (1, (1, 1)), (None, None)])
def test_connecting_has_a_limit_of_its_own(loaded: tuple[t.Any, types.ModuleType], timeout: t.Any, expected: t.Any) -> None:
    assert asyncio.run(loaded[0].async_pre_call_deployment_hook({"timeout": timeout}, "acompletion")) == {"timeout": expected}


def test_other_calls_keep_their_timeout(loaded: tuple[t.Any, types.ModuleType]) -> None:
    assert asyncio.run(loaded[0].async_pre_call_deployment_hook({"timeout": 5}, "arerank")) == {"timeout": 5}


def test_what_failed_is_passed_over_while_there_is_another(loaded: tuple[t.Any, types.ModuleType]) -> None:
    both = [SMALL, LARGE]
    assert left(loaded, both, both, 1, tried=["small"]) == ["large"]
    assert left(loaded, both, both, 1, tried=["small", "large"]) == ["small", "large"]


def test_a_prompt_that_only_fits_what_rests_finds_nothing_available(loaded: tuple[t.Any, types.ModuleType]) -> None:
    for resting in (LARGE, ENDLESS):
        with pytest.raises(Unavailable, match="What holds a prompt of 50 tokens is not available"):
            left(loaded, [SMALL, resting], [SMALL], 50)


def test_a_prompt_that_fits_nothing_and_one_that_fits_are_left_to_litellm(loaded: tuple[t.Any, types.ModuleType]) -> None:
    assert left(loaded, [SMALL, LARGE], [SMALL], 500) == ["small"]
    assert left(loaded, [SMALL, LARGE], [SMALL], 5) == ["small"]
    assert left(loaded, [SMALL, LARGE], [SMALL, LARGE], 50) == ["small", "large"]
    assert left(loaded, [ENDLESS, LARGE], [ENDLESS], 50) == ["endless"]
