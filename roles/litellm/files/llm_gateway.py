# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Seven things for which LiteLLM has no setting; it loads this file as a callback from beside its config.yaml.

A model may think for minutes before its first token, so LiteLLM's timeouts are long. A server that has vanished, so that its packets do not come any
more, would be waited for just as long. The kernel finds out in seconds, for every kind of call, if it is told to ask: see ``engine_socket``.

An answer that ends without a reason to end was cut, if what stands between ends the transfer as if it were whole: llama.cpp's router does when the
process of a model dies. LiteLLM would make up a reason, and clients would take the half for the whole; they get an error instead.

A request that failed is tried again, and least-busy may choose the same deployment, which has just become idle, until the attempts are used up.
Whatever has failed for a request is passed over as long as there is another.

A prompt that only fits a deployment that rests after failures is not too long. LiteLLM sees only those that are left and would tell the
client so (400), and where all of them rest that it asked too often (429); where none can be connected to, that the gateway broke (500). What it gets
is that the model is unavailable (503), after the route's fallbacks have been asked. Where it is the database that cannot be connected to, it says so.

A key that has reached its limit would be tried again with the route's fallbacks, of which LiteLLM takes those with settings for the name of a model: the
client would be told that its model is no string (400). It is told of the limit.

What LiteLLM says of a key's limits and budgets can hold the key's hash, under which the database knows it. It is taken out.

What LiteLLM remembers it forgets at a time of day, and at a time of day it writes what was spent. If the clock is set back by hours, it would keep for as
many hours more a limit that is used up, a server that rests, a key that was removed, and would write nothing. Both go by a clock that nobody sets.
"""

from __future__ import annotations

import datetime
import re
import socket
import time
import types
import typing as t

import httpx
import litellm
from apscheduler.executors import base as executors
from apscheduler.schedulers import base as schedulers
from apscheduler.triggers import interval
from fastapi import HTTPException
from litellm.caching import in_memory_cache
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.llms.custom_httpx import http_handler
from litellm.llms.openai.common_utils import BaseOpenAILLM
from litellm.proxy.common_request_processing import ProxyBaseLLMRequestProcessing

TCP_OPTIONS = {
    socket.TCP_SYNCNT: 1,  # asks twice for a connection: 3 seconds
    # asks after a second of silence, and twice again: a dead connection ends after 3 seconds, that of a silent model does not
    socket.TCP_KEEPIDLE: 1,
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: 2,
}


NOBODY = "No server of this model answers at the moment. Try again later."
TORN = "The engine broke off in the middle of its answer."
# What llama.cpp's router says with a 500 while it starts or ends the process of a model.
ROUTER_ALONE = ("proxy error: ", "model is not loaded", "model is not running")
HASH = re.compile(r"\b[0-9a-f]{64}\b")
NO_KEYS = "The gateway cannot look keys up at the moment, because its database does not answer. Try again later."


def engine_socket(address: tuple[t.Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TCP_OPTIONS.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def watch_connections() -> None:
    """Every connection to an engine is made with ``engine_socket``, those of /v1/completions too, for which LiteLLM would use another client."""
    http_handler.build_aiohttp_keepalive_socket_factory  # noqa: B018 - a LiteLLM without it must not start: it would wait for hours
    http_handler.build_aiohttp_keepalive_socket_factory = lambda: engine_socket
    litellm.aclient_session = BaseOpenAILLM.get_async_http_client()


def refuse_torn_answers() -> None:
    """Replaces the method that makes up a reason."""
    finish = CustomStreamWrapper.finish_reason_handler

    def checked(stream: t.Any) -> t.Any:
        if stream.received_finish_reason is None and stream.intermittent_finish_reason is None:
            stream._log_stream_failure_and_raise(litellm.InternalServerError(message=TORN, model=stream.model, llm_provider=stream.custom_llm_provider))
        return finish(stream)

    CustomStreamWrapper.finish_reason_handler = checked


def let_limits_be() -> None:
    """Without fallbacks at this place, the refusal reaches the client. After a failure of a model they are asked elsewhere."""
    ProxyBaseLLMRequestProcessing._configured_fallbacks = staticmethod(lambda **_given: None)


BEGAN = time.time() - time.monotonic()


def steady() -> float:
    """The time as it was when LiteLLM started, and what has gone by since."""
    return BEGAN + time.monotonic()


class Steady(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> t.Any:
        return cls.fromtimestamp(steady(), tz)


def go_by_a_clock_that_nobody_sets() -> None:
    in_memory_cache.time.time  # noqa: B018 - one that tells the time in another way must not start
    in_memory_cache.time = types.SimpleNamespace(time=steady)
    for module in (executors, schedulers, interval):
        module.datetime.now  # noqa: B018 - as above
        module.datetime = Steady


class Gateway(CustomLogger):  # type: ignore[misc]
    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[t.Any],
        messages: list[t.Any] | None,
        request_kwargs: dict[str, t.Any] | None = None,
        parent_otel_span: t.Any = None,
    ) -> list[t.Any]:
        if not healthy_deployments:
            raise _unavailable(model, NOBODY)
        tried = _tried(request_kwargs or {})
        healthy_deployments = [one for one in healthy_deployments if _id(one) not in tried] or healthy_deployments
        left = [_limit(one) for one in healthy_deployments]
        resting = [_limit(one) for one in _all_deployments(model)]
        if not messages or None in left or len(left) == len(resting):
            return healthy_deployments
        needed = litellm.token_counter(messages=messages, tools=(request_kwargs or {}).get("tools"))
        if needed > max(left) and any(limit is None or needed <= limit for limit in resting):
            raise _unavailable(model, f"What holds a prompt of {needed} tokens is not available at the moment. Try again later.")
        return healthy_deployments

    async def async_post_call_failure_hook(
        self, request_data: dict[str, t.Any], original_exception: Exception, user_api_key_dict: t.Any, traceback_str: str | None = None
    ) -> HTTPException | None:
        _hide_hashes(original_exception)
        # LiteLLM's own words would tell how often it tried, and what its fallbacks said.
        if NOBODY in str(original_exception):
            return HTTPException(503, NOBODY)
        if not _engine_gone(original_exception):
            return None
        # The error with which a stream ends, also one that has not begun, is made of the error itself.
        vars(original_exception).update(message=TORN, status_code=503)
        # What LiteLLM adds to every request it has let in is not there yet: it was the database that did not answer.
        return HTTPException(503, NOBODY if "proxy_server_request" in request_data else NO_KEYS)


def _hide_hashes(found: Exception) -> None:
    """In the error itself, so that its kind, its status and its headers stay as they are."""
    for name in ("message", "detail"):
        if isinstance(text := getattr(found, name, None), str):
            setattr(found, name, HASH.sub("(hidden)", text))
    found.args = tuple(HASH.sub("(hidden)", text) if isinstance(text, str) else text for text in found.args)


def _engine_gone(found: BaseException | None) -> bool:
    """It cannot be connected to, or it has hung up instead of answering."""
    if any(text in str(found) for text in (NOBODY, *ROUTER_ALONE)):
        return True
    while found is not None:
        if isinstance(found, (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError)):
            return True
        found = found.__cause__ or found.__context__
    return False


def _unavailable(model: str, message: str) -> Exception:
    return t.cast("Exception", litellm.ServiceUnavailableError(message=message, llm_provider="", model=model))


def _all_deployments(model: str) -> list[t.Any]:
    from litellm.proxy.proxy_server import llm_router  # noqa: PLC0415 - exists once the proxy has read its configuration

    return (llm_router.get_model_list(model_name=model) if llm_router else None) or []


def _tried(request_kwargs: dict[str, t.Any]) -> set[str]:
    """The deployments that have failed for this request, of which LiteLLM keeps a list with its metadata."""
    kept = [request_kwargs.get(key) or {} for key in ("metadata", "litellm_metadata")]
    return {attempt["deployment_id"] for one in kept for attempt in one.get("previous_models") or [] if attempt.get("deployment_id")}


def _id(deployment: t.Any) -> str:
    return str((deployment.get("model_info") or {}).get("id"))


def _limit(deployment: t.Any) -> int | None:
    limit = (deployment.get("model_info") or {}).get("max_input_tokens")
    return limit if isinstance(limit, int) else None


watch_connections()
refuse_torn_answers()
let_limits_be()
go_by_a_clock_that_nobody_sets()
gateway = Gateway()
