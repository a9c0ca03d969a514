# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether LiteLLM does its work with the database: a key is made, lets its holder in, brings an answer, and is gone again."""

from __future__ import annotations

import secrets
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api, ApiError

_QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


class SmokeError(LLMError):
    """It does not; the message says at what."""


def smoke(url: str, master_key: str, models: t.Sequence[str], timeout: float) -> str:
    """The model that has answered. Raises ``SmokeError``."""
    admin = Api(url, master_key, timeout)
    alias = f"smoke-test-{secrets.token_hex(4)}"
    try:
        key = admin.post("/key/generate", {"key_alias": alias})["key"]
    except ApiError as exc:
        raise SmokeError(f"A key cannot be made: {exc}") from exc
    try:
        return _asked(Api(url, key, timeout), models)
    finally:
        admin.post("/key/delete", {"key_aliases": [alias]})


def _asked(client: Api, models: t.Sequence[str]) -> str:
    try:
        offered = {model["id"] for model in client.get("/v1/models")["data"]}
    except ApiError as exc:
        raise SmokeError(f"A new key is not let in: {exc}") from exc
    if missing := sorted(set(models) - offered):
        raise SmokeError(f"The model {missing[0]} is not on offer any more.")
    why = "there is no model"
    for model in models:
        try:
            client.post("/v1/chat/completions", {"model": model, **_QUESTION})
        except ApiError as exc:  # its server may be down: one that answers is enough
            why = str(exc)
        else:
            return model
    raise SmokeError(f"No model answers: {why}")
