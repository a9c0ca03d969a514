# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs in vLLM's server: the routes that its key does not guard do not exist.

vLLM asks for its key below /v1 and leaves others open that answer prompts just as well, such as /invocations.
"""

from __future__ import annotations

import typing as t

OPEN = ("/health", "/metrics", "/ping", "/version")
GUARDED = "/v1/"
_BODY = b'{"error": {"message": "There is no such route.", "type": "invalid_request_error", "param": null, "code": "not_found"}}'


class OnlyGuarded:
    """ASGI middleware, named in the option ``middleware``."""

    def __init__(self, app: t.Callable[..., t.Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, t.Any], receive: t.Any, send: t.Callable[[dict[str, t.Any]], t.Awaitable[None]]) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or path.startswith(GUARDED) or path.rstrip("/") in OPEN:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": _BODY})
