"""Through the front door only: who is let in, how far, how fast, and what is written down of it."""

from __future__ import annotations

import json
import typing as t

import pytest
from conftest import FrontDoor, Reply  # type: ignore[import-not-found]

testinfra_hosts = ["ansible://gateways"]
CHAT = "/v1/chat/completions"
WRONG_KEY = "0" * 64


def test_every_token_arrives_on_its_own(front_door: FrontDoor) -> None:
    paces = []
    for _attempt in range(5):  # a busy machine may deliver a heap once; what buffers does it every time
        paces.append(front_door.stream("laptop", 200).pace)
        if paces[-1].delivery == "one_by_one":
            return
    raise AssertionError(paces)


def test_models_are_listed(front_door: FrontDoor) -> None:
    models = front_door.ask("GET", "/v1/models", front_door.key("laptop"))
    assert models.status == 200
    assert models.body["data"]


def test_anyone_may_ask_whether_it_is_up(front_door: FrontDoor) -> None:
    assert front_door.ask("GET", "/health").body == {"status": "ok"}


@pytest.mark.parametrize("key", ["", WRONG_KEY])
def test_without_a_valid_key_there_is_nothing(front_door: FrontDoor, fresh_limits: None, key: str) -> None:
    for reply in (front_door.ask("POST", CHAT, key, {}), front_door.ask("GET", "/v1/models", key)):
        assert_error(reply, 401, "invalid_api_key")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_keys_are_taken_from_one_header_only(front_door: FrontDoor, fresh_limits: None) -> None:
    key = front_door.key("laptop")
    assert front_door.ask("GET", f"/v1/models?key={key}&api_key={key}").status == 401
    assert front_door.ask("GET", "/v1/models", WRONG_KEY, **{"X-Api-Key": key, "X-LiteLLM-Api-Key": key}).status == 401


def test_a_flood_of_bad_keys_is_limited_and_good_keys_are_served(front_door: FrontDoor, fresh_limits: None) -> None:
    replies = [front_door.ask("POST", CHAT, f"{n:064x}", {}) for n in range(12)]
    assert replies[0].status == 401
    assert_error(replies[-1], 429, "rate_limit_exceeded")
    assert int(replies[-1].headers["Retry-After"]) > 0
    assert front_door.ask("GET", "/v1/models", front_door.key("laptop")).status == 200


def test_a_key_over_its_limit_waits_while_another_is_served(front_door: FrontDoor, fresh_limits: None) -> None:
    replies = [front_door.ask("GET", "/v1/models", front_door.key("slow")) for _n in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 429, 429]  # 6 a minute, and 1 ahead of that
    assert_error(replies[-1], 429, "rate_limit_exceeded")
    assert replies[-1].headers["Retry-After"] == "10"
    assert front_door.chat("laptop").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/v1/files",
        "/v1/models/../../key/list",
        "/v1/models/..%2f..%2fkey/list",
        "/openai/../v1/models",  # LiteLLM would see it as a pass-through to a provider
        "//v1/models",
        "/v1/%6dodels",
        "/authorized",
        # LiteLLM's administration
        "/key/list",
        "/key/generate",
        "/model/info",
        "/config/yaml",
        "/mcp-rest/test/connection",
        "/ui/",
        "/health/readiness",
    ],
)
def test_routes_off_the_list_do_not_exist(front_door: FrontDoor, path: str) -> None:
    for method in ("GET", "POST"):
        assert_error(front_door.ask(method, path, front_door.key("laptop")), 404, "not_found")


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET")])
def test_a_route_takes_its_methods_only(front_door: FrontDoor, method: str, path: str, allowed: str) -> None:
    reply = front_door.ask(method, path, front_door.key("laptop"))
    assert_error(reply, 405, "method_not_allowed")
    assert reply.headers["Allow"] == allowed


def test_errors_of_the_backend_pass(front_door: FrontDoor) -> None:
    body = {"model": "no-such-model", "messages": [{"role": "user", "content": "Hello"}]}
    reply = front_door.ask("POST", CHAT, front_door.key("laptop"), body)
    assert reply.status in (400, 404)
    assert "no-such-model" in reply.body["error"]["message"]


def test_a_request_can_be_too_large(front_door: FrontDoor) -> None:
    reply = front_door.ask("POST", CHAT, front_door.key("laptop"), **{"Content-Length": str(2**30)})
    assert_error(reply, 413, "request_too_large")


def test_the_log_names_the_client_and_no_key(host: t.Any, front_door: FrontDoor, fresh_limits: None) -> None:
    key = front_door.key("laptop")
    reply = front_door.ask("GET", f"/v1/models?api_key={key}", key, **{"X-LLM-Client": "intruder", "X-Request-ID": "mine"})
    front_door.ask("GET", f"/v1/models?api_key={key}", WRONG_KEY)
    journal = host.check_output("journalctl --unit llm-nginx --output cat --no-pager --boot")
    assert key not in journal
    assert WRONG_KEY not in journal
    lines = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["id"] == reply.headers["X-Request-ID"]]
    assert [(line["client"], line["path"], line["status"]) for line in mine] == [("laptop", "/v1/models", 200)]


def test_reloads_do_not_cut_a_stream(host: t.Any, front_door: FrontDoor) -> None:
    script = "while true; do systemctl reload llm-nginx; sleep 0.1; done"
    host.check_output(f"systemd-run --quiet --unit reloads sh -ec '{script}'")
    try:
        pace = front_door.stream("laptop", 1900).pace  # raises if the stream is cut
        assert pace.total > 0.5, "too quick to have met a reload"
        assert host.run("systemctl is-active reloads").rc == 0, "a reload has failed"
    finally:
        host.run("systemctl stop reloads")


def assert_error(reply: Reply, status: int, code: str) -> None:
    """In OpenAI's shape, so that its clients show the message."""
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert set(reply.body) == {"error"}
    assert set(reply.body["error"]) == {"message", "type", "param", "code"}
    assert reply.body["error"]["code"] == code
