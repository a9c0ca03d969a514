# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the start of a vLLM server to its first tokens: it loads for minutes, and compiles what a length of prompt needs when it meets one."""

from __future__ import annotations

import json
import re
import secrets
import time
import typing as t
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

POLL = 0.5  # seconds
_SERVED = re.compile(r"^vllm:request_success_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
_COMPLAINT = re.compile(r"\b\w*(?:Error|Exception): .+|\berror: .+")
_REMARK = re.compile(r"\b(?:INFO|WARNING|DEBUG) \d|Warning: ")  # vLLM's warnings may tell of errors that could come
_START = re.compile(r"^Starting \S+\.service.*$", re.MULTILINE)  # systemd's line
_TOKEN = 42  # any will do
_ROUTES = {"generate": "/v1/completions", "pooling": "/v1/embeddings"}


class NotReady(LLMError):
    """The server died, did not come up in time, or did not answer a first request."""


class Busy(LLMError):
    """Nothing answers yet, or it answers that it is not healthy."""


@dataclass(frozen=True)
class Server:
    """A vLLM server. The key shows in no ``repr`` and in no error."""

    url: str
    model: str
    api_key: str = field(default="", repr=False)

    def ask(self, path: str, timeout: float, body: t.Mapping[str, t.Any] | None = None) -> str:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})}
        request = urllib.request.Request(self.url.rstrip("/") + path, data=data, headers=headers)  # noqa: S310 - http, to our own service
        # a proxy of the environment is for the world outside, never for our own services
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as answer:
                return str(answer.read().decode(errors="replace"))
        except urllib.error.HTTPError as exc:
            said = " ".join(exc.read(2000).decode(errors="replace").split())
            raise (Busy if exc.code == 503 else NotReady)(f"{self.url}{path} answered {exc.code}{said and ': '}{said}") from exc
        except OSError as exc:
            raise Busy(f"{self.url}{path} does not answer ({exc})") from exc


class Warmth(t.NamedTuple):
    """One request: tokens of its prompt, and seconds until its answer."""

    tokens: int
    seconds: float


def wait_until_healthy(
    server: Server,
    timeout: float,
    restarts: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait for ``/health``. A server that died, which ``restarts`` counts, will die again: nobody waits for it."""
    begin, before = clock(), restarts()
    while True:
        try:
            server.ask("/health", 10)
        except Busy as exc:
            said = str(exc)
        else:
            return
        if restarts() != before:
            raise NotReady("it died while it started")
        if clock() >= begin + timeout:
            raise NotReady(f"it was not healthy within {timeout:g} s: {said}")
        sleep(POLL)


def is_warm(server: Server) -> bool:
    """Whether it has answered a request since its start."""
    return any(float(count) > 0 for count in _SERVED.findall(server.ask("/metrics", 30)))


def warm_up(server: Server, lengths: t.Sequence[int], timeout: float, kind: str = "generate") -> list[Warmth]:
    """One request of each length in tokens, the shortest first; what the context cannot hold is cut to it."""
    most = int(json.loads(server.ask("/v1/models", 30))["data"][0]["max_model_len"]) - 2  # two are left for the answer
    found = []
    for length in sorted({min(max(length, 1), most) for length in lengths}):
        started = time.monotonic()
        server.ask(_ROUTES[kind], timeout, _body(server.model, [_TOKEN] * length, kind))
        found.append(Warmth(length, round(time.monotonic() - started, 3)))
    return found


def complaints(log: str) -> list[str]:
    """What its last start complained about, in order and each once. The first is mostly the reason, the others follow from it."""
    latest: list[str] = []
    for start in reversed(_START.split(log)):
        lines = [line.strip() for line in start.splitlines() if line.strip() and not _REMARK.search(line)]
        latest = latest or lines
        found = [match[0].strip() for match in map(_COMPLAINT.search, lines) if match]
        if found:
            return list(dict.fromkeys(found))[:6]
    return latest[-6:]


def _body(model: str, prompt: list[int], kind: str) -> dict[str, t.Any]:
    if kind == "pooling":
        return {"model": model, "input": prompt}
    # The salt keeps the beginning of one prompt from being taken out of the cache of another.
    return {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "cache_salt": secrets.token_hex(8)}
