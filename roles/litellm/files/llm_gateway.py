# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Three things for which LiteLLM has no setting; it loads this file as a callback from beside its config.yaml.

LiteLLM's timeouts hold for connecting as well as for reading, and a model may think for minutes before its first token. A server that swallows
packets would be waited for just as long, so connecting gets a limit of its own.

A request that failed is tried again, and least-busy may choose the same deployment, which has just become idle, until the attempts are used up.
Whatever has failed for a request is passed over as long as there is another.

A prompt that only fits a deployment that rests after failures is not too long. LiteLLM sees only those that are left and would tell the
client so (400); what it gets is that the model is unavailable (503), after the route's fallbacks have been asked.
"""

from __future__ import annotations

import os
import typing as t

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger

CALLS = frozenset({"acompletion", "aresponses", "aembedding"})  # those for which this was seen to work
CONNECT_TIMEOUT = float(os.environ.get("LLM_CONNECT_TIMEOUT", "3"))


class Gateway(CustomLogger):  # type: ignore[misc]
    async def async_pre_call_deployment_hook(self, kwargs: dict[str, t.Any], call_type: t.Any) -> dict[str, t.Any]:
        timeout = kwargs.get("timeout")
        if getattr(call_type, "value", call_type) in CALLS and isinstance(timeout, (int, float)):
            kwargs["timeout"] = httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout))
        return kwargs

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[t.Any],
        messages: list[t.Any] | None,
        request_kwargs: dict[str, t.Any] | None = None,
        parent_otel_span: t.Any = None,
    ) -> list[t.Any]:
        tried = _tried(request_kwargs or {})
        healthy_deployments = [one for one in healthy_deployments if _id(one) not in tried] or healthy_deployments
        left = [_limit(one) for one in healthy_deployments]
        resting = [_limit(one) for one in _all_deployments(model)]
        if not messages or not left or None in left or len(left) == len(resting):
            return healthy_deployments
        needed = litellm.token_counter(messages=messages, tools=(request_kwargs or {}).get("tools"))
        if needed > max(left) and any(limit is None or needed <= limit for limit in resting):
            raise litellm.ServiceUnavailableError(
                message=f"What holds a prompt of {needed} tokens is not available at the moment. Try again later.", llm_provider="", model=model
            )
        return healthy_deployments


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


gateway = Gateway()
