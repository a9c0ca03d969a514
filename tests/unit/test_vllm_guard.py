# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The middleware that runs in vLLM: which routes there are."""

from __future__ import annotations

import asyncio
import json
import typing as t

import pytest
from ansible_collections.baremetal.llm.roles.vllm.files.llm_guard import OnlyGuarded


def passed(scope: dict[str, t.Any]) -> tuple[bool, list[dict[str, t.Any]]]:
    """Whether the request reached the application, and what was sent instead."""
    reached: list[bool] = []
    sent: list[dict[str, t.Any]] = []

    async def application(*_arguments: t.Any) -> None:
        reached.append(True)

    async def send(message: dict[str, t.Any]) -> None:
        sent.append(message)

    asyncio.run(OnlyGuarded(application)(scope, None, send))
    return bool(reached), sent


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/health", "/metrics", "/metrics/", "/version"])
def test_what_the_key_guards_or_monitoring_needs_passes(path: str) -> None:
    assert passed({"type": "http", "path": path}) == (True, [])


@pytest.mark.parametrize("path", ["/", "/invocations", "/tokenize", "/v1", "/v1x/chat", "/V1/chat", "/healthy", "/metrics/x", "//v1/models", "/x/v1/models"])
def test_anything_else_does_not_exist(path: str) -> None:
    reached, (start, body) = passed({"type": "http", "path": path})
    assert (reached, start["status"]) == (False, 404)
    assert json.loads(body["body"])["error"]["code"] == "not_found"


def test_sockets_are_closed_and_the_server_may_start() -> None:
    assert passed({"type": "websocket", "path": "/realtime"}) == (False, [{"type": "websocket.close", "code": 1008}])
    assert passed({"type": "lifespan"}) == (True, [])
