# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""LiteLLM's callback of the role litellm, without LiteLLM: what it is given and gives back. With the real one: tests/bench/routing.py."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import socket
import sys
import time
import types
import typing as t
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles/litellm/files/llm_gateway.py"


class Unavailable(Exception):
    """Any error of LiteLLM's."""

    def __init__(self, message: str, llm_provider: str, model: str) -> None:
        super().__init__(message)


class Router:
    def __init__(self, *deployments: dict[str, t.Any]) -> None:
        self.deployments = list(deployments)

    def get_model_list(self, model_name: str) -> list[dict[str, t.Any]]:
        return self.deployments


class OpenAI:
    @staticmethod
    def get_async_http_client() -> str:
        return "the client"


class Stream:
    """LiteLLM's CustomStreamWrapper, as far as it is replaced."""

    model, custom_llm_provider = "chat", "openai"

    def __init__(self, received: str | None, intermittent: str | None = None) -> None:
        self.received_finish_reason, self.intermittent_finish_reason = received, intermittent

    def finish_reason_handler(self) -> str:
        return self.received_finish_reason or self.intermittent_finish_reason or "made up"

    def _log_stream_failure_and_raise(self, error: Exception) -> None:
        raise error


class Refused(Exception):
    """fastapi's HTTPException, as far as it is used."""

    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


class NotConnected(Exception):
    """httpx's NetworkError and its like."""


MODULES = (
    "apscheduler",
    "apscheduler.executors",
    "apscheduler.schedulers",
    "apscheduler.triggers",
    "fastapi",
    "httpx",
    "litellm",
    "litellm.caching",
    "litellm.integrations",
    "litellm.integrations.custom_logger",
    "litellm.litellm_core_utils",
    "litellm.litellm_core_utils.streaming_handler",
    "litellm.llms",
    "litellm.llms.custom_httpx",
    "litellm.llms.openai",
    "litellm.llms.openai.common_utils",
    "litellm.proxy",
    "litellm.proxy.common_request_processing",
    "litellm.proxy.proxy_server",
)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> tuple[t.Any, types.ModuleType]:
    """The callback, and the module in which the proxy keeps its router. A word is a token."""
    modules = {name: types.ModuleType(name) for name in MODULES}
    server = modules["litellm.proxy.proxy_server"]
    modules["litellm"].__dict__["ServiceUnavailableError"] = modules["litellm"].__dict__["InternalServerError"] = Unavailable
    modules["litellm"].__dict__["token_counter"] = lambda messages, tools: len(messages[0]["content"].split())
    modules["litellm.caching"].__dict__["in_memory_cache"] = memory = types.ModuleType("in_memory_cache")
    memory.__dict__["time"] = time
    for place, name in (("executors", "base"), ("schedulers", "base"), ("triggers", "interval")):
        modules[f"apscheduler.{place}"].__dict__[name] = scheduled = types.ModuleType(name)
        scheduled.__dict__["datetime"] = datetime.datetime
    modules["litellm.integrations.custom_logger"].__dict__["CustomLogger"] = object
    modules["litellm.litellm_core_utils.streaming_handler"].__dict__["CustomStreamWrapper"] = type("Stream", (Stream,), {})
    modules["litellm.llms.custom_httpx"].__dict__["http_handler"] = handler = types.ModuleType("http_handler")
    handler.__dict__["build_aiohttp_keepalive_socket_factory"] = None
    modules["litellm.llms.openai.common_utils"].__dict__["BaseOpenAILLM"] = OpenAI
    modules["fastapi"].__dict__["HTTPException"] = Refused
    modules["litellm.proxy.common_request_processing"].__dict__["ProxyBaseLLMRequestProcessing"] = type("Processing", (), {})
    modules["httpx"].__dict__.update(dict.fromkeys(("ConnectTimeout", "NetworkError", "RemoteProtocolError"), NotConnected))
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


def left(loaded: tuple[t.Any, types.ModuleType], everything: list[t.Any], healthy: list[t.Any], words: int, tried: t.Sequence[str] = ()) -> list[str]:
    gateway, server = loaded
    server.__dict__["llm_router"] = Router(*everything)
    request = {"metadata": {"previous_models": [{"deployment_id": name} for name in tried]}}
    found = asyncio.run(gateway.async_filter_deployments("auto", healthy, [{"content": "word " * words}], request))
    return [one["model_info"]["id"] for one in found]


@pytest.mark.usefixtures("loaded")
def test_the_kernel_watches_every_connection_to_an_engine() -> None:
    handler = sys.modules["litellm.llms.custom_httpx"].__dict__["http_handler"]
    make = handler.build_aiohttp_keepalive_socket_factory()
    with make((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as made:
        assert not made.getblocking()
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = {name: made.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in ("SYNCNT", "KEEPIDLE", "KEEPINTVL", "KEEPCNT")}
        assert options == {"SYNCNT": 1, "KEEPIDLE": 1, "KEEPINTVL": 1, "KEEPCNT": 2}
    assert sys.modules["litellm"].__dict__["aclient_session"] == "the client"


@pytest.mark.usefixtures("loaded")
def test_an_answer_without_a_reason_to_end_was_cut() -> None:
    replaced = sys.modules["litellm.litellm_core_utils.streaming_handler"].__dict__["CustomStreamWrapper"]
    assert replaced("length").finish_reason_handler() == "length"
    assert replaced(None, "stop").finish_reason_handler() == "stop"
    with pytest.raises(Unavailable, match="broke off in the middle"):
        replaced(None).finish_reason_handler()


def test_what_failed_is_passed_over_while_there_is_another(loaded: tuple[t.Any, types.ModuleType]) -> None:
    both = [SMALL, LARGE]
    assert left(loaded, both, both, 1, tried=["small"]) == ["large"]
    assert left(loaded, both, both, 1, tried=["small", "large"]) == ["small", "large"]


def test_a_prompt_that_only_fits_what_rests_finds_nothing_available(loaded: tuple[t.Any, types.ModuleType]) -> None:
    for resting in (LARGE, ENDLESS):
        with pytest.raises(Unavailable, match="What holds a prompt of 50 tokens is not available"):
            left(loaded, [SMALL, resting], [SMALL], 50)


def test_where_all_rest_nobody_asked_too_often(loaded: tuple[t.Any, types.ModuleType]) -> None:
    with pytest.raises(Unavailable, match="No server of this model answers at the moment"):
        left(loaded, [SMALL, LARGE], [], 5)


def test_a_server_that_cannot_be_connected_to_is_unavailable_and_a_cut_answer_is_not(loaded: tuple[t.Any, types.ModuleType]) -> None:
    def told(cause: Exception) -> t.Any:
        error = Unavailable("Connection error.", "", "chat")
        error.__cause__ = Unavailable("Connection error.", "", "chat")
        error.__cause__.__context__ = cause
        return asyncio.run(loaded[0].async_post_call_failure_hook({"proxy_server_request": {}}, error, None))

    assert told(NotConnected()).status_code == 503
    assert told(ConnectionResetError()) is None


def test_what_a_stream_ends_with_says_so_too(loaded: tuple[t.Any, types.ModuleType]) -> None:
    """LiteLLM makes that of the error itself."""
    error = Unavailable("Response payload is not completed", "", "chat")
    error.__context__ = NotConnected()
    asyncio.run(loaded[0].async_post_call_failure_hook({"proxy_server_request": {}}, error, None))
    assert vars(error) == {**vars(error), "status_code": 503, "message": "The engine broke off in the middle of its answer."}


def test_a_router_that_starts_the_process_of_a_model_is_no_broken_gateway(loaded: tuple[t.Any, types.ModuleType]) -> None:
    error = Refused(500, "OpenAIException - proxy error: Could not establish connection")
    assert asyncio.run(loaded[0].async_post_call_failure_hook({"proxy_server_request": {}}, error, None)).status_code == 503
    error = Refused(500, "OpenAIException - the template of this model does not take tools")
    assert asyncio.run(loaded[0].async_post_call_failure_hook({"proxy_server_request": {}}, error, None)) is None


def test_a_database_that_cannot_be_connected_to_is_no_model_that_cannot(loaded: tuple[t.Any, types.ModuleType]) -> None:
    error = Unavailable("Connection error.", "", "chat")
    error.__cause__ = NotConnected()
    told = asyncio.run(loaded[0].async_post_call_failure_hook({}, error, None))
    assert told.status_code == 503
    assert "look keys up" in told.detail


def test_a_limit_of_a_key_is_not_tried_around(loaded: tuple[t.Any, types.ModuleType]) -> None:
    processing = sys.modules["litellm.proxy.common_request_processing"].__dict__["ProxyBaseLLMRequestProcessing"]
    assert processing()._configured_fallbacks(llm_router=loaded[1], user_api_key_dict=None) is None


def test_no_error_holds_the_hash_of_a_key(loaded: tuple[t.Any, types.ModuleType]) -> None:
    error = Refused(429, f"Rate limit exceeded for api_key: {'0a' * 32}. Limit type: requests.")
    error.message = f"Key={'0a' * 32}"  # type: ignore[attr-defined]
    assert asyncio.run(loaded[0].async_post_call_failure_hook({}, error, None)) is None
    assert (error.status_code, error.detail) == (429, "Rate limit exceeded for api_key: (hidden). Limit type: requests.")
    assert str(error) == error.detail
    assert error.message == "Key=(hidden)"  # type: ignore[attr-defined]


def test_a_prompt_that_fits_nothing_and_one_that_fits_are_left_to_litellm(loaded: tuple[t.Any, types.ModuleType]) -> None:
    assert left(loaded, [SMALL, LARGE], [SMALL], 500) == ["small"]
    assert left(loaded, [SMALL, LARGE], [SMALL], 5) == ["small"]
    assert left(loaded, [SMALL, LARGE], [SMALL, LARGE], 50) == ["small", "large"]
    assert left(loaded, [ENDLESS, LARGE], [ENDLESS], 50) == ["endless"]


@pytest.mark.usefixtures("loaded")
def test_what_is_remembered_is_forgotten_in_time_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = sys.modules["litellm.caching"].__dict__["in_memory_cache"]
    assert memory.time.time() == pytest.approx(time.time(), abs=5)
    before = memory.time.time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= memory.time.time() < before + 5
    scheduler = sys.modules["apscheduler.schedulers"].__dict__["base"]
    assert before <= scheduler.datetime.now(datetime.timezone.utc).timestamp() < before + 5
