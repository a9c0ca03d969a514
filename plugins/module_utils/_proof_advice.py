# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why something is not served, by kind of failure: one word for the table, what it means, and what to do about it."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._proof import EmptyAnswerError, HeapError, OpenDoorError, Target
from ansible_collections.baremetal.llm.plugins.module_utils._stream import (
    NO_WAY,
    REFUSED,
    SILENT,
    UNKNOWN_NAME,
    BrokenStreamError,
    HTTPStatusError,
    HungUpError,
    TimedOutError,
    TLSError,
    UnreachableError,
    WrongKindError,
)


class Advice(t.NamedTuple):
    word: str  # for the table
    meaning: str
    remedy: str


ENGINE_LOG = "on {host}: systemctl status 'llm-*'; journalctl -u 'llm-*' -n 100"
DOOR_LOG = "on the gateway: journalctl -u llm-litellm -n 100; what the engines' own rows say comes first"
AGAIN = "run playbooks/inference.yml for {host}, then playbooks/gateway.yml"

# What failed -> advice at an engine, advice at the front door.
_ADVICE: dict[str, tuple[Advice, Advice]] = {
    REFUSED: (
        Advice("refused", "The host is up, but nothing listens at this address and port.", f"look {ENGINE_LOG}; or {AGAIN}"),
        Advice("refused", "Nginx does not listen.", "look on the gateway: systemctl status llm-nginx; or run playbooks/gateway.yml"),
    ),
    SILENT: (
        Advice(
            "no connection",
            "No answer at all: the host is down, its address is another one, or a firewall drops what comes from the gateway.",
            "see that {host} is up and that llm_address or ansible_host is the address at which the gateway reaches it; "
            "or take it out of use meanwhile with llm_drain: true and run playbooks/gateway.yml",
        ),
        Advice("no connection", "No answer at all: a firewall drops what comes to the front door.", "see that nginx_port is open on the gateway"),
    ),
    UNKNOWN_NAME: (
        Advice("unknown name", "The gateway cannot resolve the host's name.", "set llm_address or ansible_host of {host} to an address"),
        Advice("unknown name", "The gateway cannot resolve the name of its own front door.", "see /etc/hosts and the DNS of the gateway"),
    ),
    NO_WAY: (
        Advice("no way", "The gateway has no route to this address.", "see llm_address and ansible_host of {host}, and the gateway's own routes"),
        Advice("no way", "The gateway has no route to its own front door.", "see nginx_bind"),
    ),
    "tls": (
        Advice("TLS", "The connection cannot be made secure.", "see the address of {host}"),
        Advice("TLS", "The certificate or its names do not pass.", "see llm_server_names and nginx_tls_certificate, then run playbooks/gateway.yml"),
    ),
    "key": (
        Advice("key refused", "The engine runs with another key than the one in <inventory>/.secrets/engine_key.", AGAIN),
        Advice("key refused", "The front door does not know the key of the first of llm_keys.", "run playbooks/gateway.yml"),
    ),
    "model": (
        Advice("unknown model", "The engine answers, but does not serve a model of this name.", AGAIN),
        Advice("unknown model", "LiteLLM does not offer this name.", "run playbooks/gateway.yml"),
    ),
    "busy": (
        Advice("too busy", "The engine has more to do than it takes.", "ask again later; or see its parallel requests in llm_models"),
        Advice(
            "too busy",
            "The limit of the first of llm_keys is reached, or LiteLLM lets the engines behind the name rest after failures.",
            "run playbooks/prove.yml again in a minute; if it stays, raise requests_per_minute of that client, or " + DOOR_LOG,
        ),
    ),
    "server": (
        Advice("server error", "The engine failed while it answered or while it loaded the model.", "look " + ENGINE_LOG),
        Advice("server error", "LiteLLM got no answer from an engine, or failed itself.", "look " + DOOR_LOG),
    ),
    "status": (
        Advice("wrong answer", "Not what an OpenAI-compatible engine answers.", "see what listens there; or look " + ENGINE_LOG),
        Advice("wrong answer", "The request was turned down, or something else came than what was asked for.", "look " + DOOR_LOG),
    ),
    "cut": (
        Advice("cut", "The answer began and broke off: the engine stopped, was restarted or ran out of memory.", "look " + ENGINE_LOG),
        Advice("cut", "The answer began and broke off on its way.", "look " + DOOR_LOG),
    ),
    "hung up": (
        Advice("hung up", "It took the request and closed the connection without an answer.", "look " + ENGINE_LOG),
        Advice("hung up", "It took the request and closed the connection without an answer.", "look " + DOOR_LOG),
    ),
    "slow": (
        Advice("timed out", "It took the request and was not done in time; perhaps the model still loads.", "raise llm_prove_timeout, or look " + ENGINE_LOG),
        Advice("timed out", "It took the request and was not done in time.", "raise llm_prove_timeout, or look " + DOOR_LOG),
    ),
    "empty": (
        Advice("empty", "The answer is complete and has nothing in it.", "see the model's chat template and its mode in llm_models"),
        Advice("empty", "The answer is complete and has nothing in it.", "see the model's own rows above, then " + DOOR_LOG),
    ),
    "heap": (
        Advice("in a heap", "The tokens did not come one by one.", "look " + ENGINE_LOG),
        Advice(
            "in a heap",
            "Something on the way collects the tokens instead of passing them on.",
            "see that no other proxy stands before the gateway",
        ),
    ),
    "open": (
        Advice("open", "Whoever reaches the engine can use it without a key.", AGAIN),
        Advice("open", "Whoever reaches the front door can use it without a key.", "see nginx_api_keys, then run playbooks/gateway.yml"),
    ),
}
_KINDS: dict[type[LLMError], str] = {
    TLSError: "tls",
    HungUpError: "hung up",
    WrongKindError: "status",
    BrokenStreamError: "cut",
    TimedOutError: "slow",
    EmptyAnswerError: "empty",
    HeapError: "heap",
    OpenDoorError: "open",
}
_UNKNOWN_MODEL = re.compile("Invalid model name|model .* not found", re.IGNORECASE)  # LiteLLM and llama.cpp say it with 400
_STATUSES = {401: "key", 403: "key", 404: "model", 408: "slow", 429: "busy", 504: "slow"}


def advise(target: Target, error: LLMError) -> Advice:
    at_engine, at_door = _ADVICE[kind_of(error)]
    advice = at_engine if target.at_engine else at_door
    return advice._replace(remedy=advice.remedy.format(host=target.host))


def kind_of(error: LLMError) -> str:
    if isinstance(error, UnreachableError):
        return error.why
    if isinstance(error, HTTPStatusError):
        if error.status == 400 and _UNKNOWN_MODEL.search(error.message):
            return "model"
        return _STATUSES.get(error.status, "server" if error.status >= 500 else "status")
    return next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "status")
