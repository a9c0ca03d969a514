# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Steady load on a front door: streamed chat completions at a fixed rate, and for every request what its client saw.

The rate does not slow down when answers do, as clients who do not know of each other do not either; but no more than ``clients``
requests are open at a time, so that it stays bounded. Its HTTP is as plain as possible, because how a connection ends is what counts here.

    tests/load/steady_load.py --address 10.0.0.10 --name gateway --ca .secrets/tls/ca.crt --key-file .secrets/keys/laptop --model chat --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import ssl
import sys
import threading
import time
import typing as t
from pathlib import Path

WHOLE = "whole"  # ended with [DONE]
TOLD = "told"  # an error that says so: an HTTP status, or an error event in the stream
BROKEN = "broken"  # the connection was refused, or ended in the middle of the transfer: a client cannot take it for an answer
SHORT = "short"  # ended as if it were whole, without [DONE]: a client may take it for an answer
HANG = "hang"  # silent for longer than a client's patience
OUTCOMES = (WHOLE, TOLD, BROKEN, SHORT, HANG)


@dataclasses.dataclass(frozen=True)
class Target:
    """A front door: ``name`` stands in its certificate; without ``ca`` it speaks plain HTTP."""

    address: str
    port: int
    model: str
    key: str = dataclasses.field(repr=False)
    name: str = "localhost"
    ca: str = ""
    path: str = "/v1/chat/completions"
    source: str = ""  # address of ours that it is asked from; empty: any


@dataclasses.dataclass
class Request:
    """What became of one request; times in seconds since the load began, None as long as it has not happened."""

    number: int
    start: float
    first: float | None = None  # its first token
    latest: float | None = None  # its latest token
    end: float | None = None
    status: int = 0
    outcome: str = ""
    detail: str = ""
    tokens: int = 0
    server: str = ""  # which deployment LiteLLM says has answered

    @property
    def failed(self) -> bool:
        return self.outcome not in (WHOLE, "")

    @property
    def lost(self) -> bool:
        """It failed before its client had seen anything of an answer."""
        return self.failed and self.first is None

    @property
    def cut(self) -> bool:
        return self.failed and self.first is not None


@dataclasses.dataclass(frozen=True)
class Shape:
    """How much load: requests per second, tokens each, how long a client waits in silence, and what it says."""

    rate: float = 2
    clients: int = 32
    tokens: int = 40
    patience: float = 60
    prompt: str = "Tell me a story."


class Load:
    """Runs in a thread of its own from ``with`` to its end; what is open then is waited for."""

    def __init__(self, target: Target, shape: Shape, begun: float | None = None) -> None:
        self.target, self.shape = target, shape
        self.requests: list[Request] = []
        self._begun = time.monotonic() if begun is None else begun  # two loads with one beginning can be compared
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def now(self) -> float:
        return time.monotonic() - self._begun

    async def _run(self) -> None:
        context = ssl.create_default_context(cafile=self.target.ca) if self.target.ca else None
        places = asyncio.Semaphore(self.shape.clients)
        tasks: set[asyncio.Task[None]] = set()
        due = self.now()
        while not self._stop.is_set():
            await places.acquire()
            request = Request(len(self.requests), self.now())
            self.requests.append(request)
            task = asyncio.create_task(self._one(request, context))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _done: places.release())
            due = max(due + 1 / self.shape.rate, self.now())
            await asyncio.sleep(due - self.now())
        await asyncio.gather(*tasks)

    async def _one(self, request: Request, context: ssl.SSLContext | None) -> None:
        try:
            request.outcome, request.detail = await ask(self.target, self.shape, request, self.now, context)
        except (asyncio.TimeoutError, TimeoutError):
            request.outcome, request.detail = HANG, f"silent for {self.shape.patience:g} s"
        except (OSError, EOFError, ValueError) as exc:
            request.outcome, request.detail = BROKEN, type(exc).__name__
        request.end = self.now()


async def ask(
    target: Target,
    shape: Shape,
    request: Request,
    now: t.Callable[[], float],
    context: ssl.SSLContext | None,
    *,
    on_text: t.Callable[[str], None] | None = None,
) -> tuple[str, str]:
    """One request on a connection of its own. Returns its outcome with a detail; a connection that breaks raises."""
    connecting = asyncio.open_connection(
        target.address,
        target.port,
        ssl=context,
        server_hostname=target.name if context else None,
        local_addr=(target.source, 0) if target.source else None,
    )
    reader, writer = await asyncio.wait_for(connecting, shape.patience)
    try:
        writer.write(_message(target, shape))
        headers = await _head(reader, shape.patience)
        request.status = int(headers[""])
        request.server = headers.get("x-litellm-model-id", "")
        if request.status != 200:
            body = b"".join([part async for part in _body(reader, headers, shape.patience)])
            return TOLD, f"{request.status} {_words(body)}"
        async for event in _events(_body(reader, headers, shape.patience)):
            if event == "[DONE]":
                return WHOLE, ""
            said = json.loads(event)
            if said.get("error"):
                return TOLD, f"error event: {_words(event.encode())}"
            if text := _text(said):
                if on_text:
                    on_text(text)
                request.latest = now()
                request.first = request.first or request.latest
                request.tokens += 1
        return SHORT, "ended without [DONE]"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await asyncio.wait_for(writer.wait_closed(), 1)


def _message(target: Target, shape: Shape) -> bytes:
    body = {
        "model": target.model,
        "max_tokens": shape.tokens,
        "stream": True,
        **({"messages": [{"role": "user", "content": shape.prompt}]} if "chat" in target.path else {"prompt": shape.prompt}),
    }
    data = json.dumps(body).encode()
    head = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.name}",
        f"Authorization: Bearer {target.key}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


async def _head(reader: asyncio.StreamReader, patience: float) -> dict[str, str]:
    """The headers in lower case; the status is the one without a name."""
    text = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience)).decode("latin-1")
    first, *lines = text.split("\r\n")[:-2]
    return {"": first.split()[1]} | {name.strip().lower(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


async def _body(reader: asyncio.StreamReader, headers: t.Mapping[str, str], patience: float) -> t.AsyncIterator[bytes]:
    """Its pieces. Raises IncompleteReadError when it ends before its end."""
    if headers.get("transfer-encoding", "") == "chunked":
        while size := int(await asyncio.wait_for(reader.readuntil(b"\r\n"), patience), 16):
            yield (await asyncio.wait_for(reader.readexactly(size + 2), patience))[:-2]
        await asyncio.wait_for(reader.readexactly(2), patience)
    else:
        yield await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", 0))), patience)


async def _events(pieces: t.AsyncIterator[bytes]) -> t.AsyncIterator[str]:
    """The data of server-sent events; comments that keep a connection alive are none."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode()


def _text(said: dict[str, t.Any]) -> str:
    return "".join(choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in said.get("choices") or [])


def _words(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        text = str(error.get("message") or error)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:160]


def summary(requests: t.Sequence[Request]) -> str:
    """What became of them, for people: a line of figures, then a line for each way in which one failed."""
    counts = collections.Counter(request.outcome for request in requests)
    waits = sorted(request.first - request.start for request in requests if request.first is not None)
    figures = [f"{len(requests)} requests", *(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])]
    if waits:
        figures.append(f"first token after {waits[len(waits) // 2]:.2f} s (median), {waits[-1]:.2f} s (longest)")
    lines = [", ".join(figures)]
    for (outcome, detail), number in collections.Counter((one.outcome, one.detail) for one in requests if one.failed).most_common():
        lines.append(f"  {number} {outcome}: {detail}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Steady load on a front door.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--name", required=True, help="name in its certificate")
    parser.add_argument("--ca", default="", help="file with its CA; none: plain HTTP")
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    for field in dataclasses.fields(Shape):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = parser.parse_args()
    target = Target(given.address, given.port, given.model, given.key_file.read_text().strip(), given.name, given.ca)
    with Load(target, Shape(given.rate, given.clients, given.tokens, given.patience, given.prompt)) as load:
        time.sleep(given.seconds)
    print(summary(load.requests))
    return 1 if any(request.failed for request in load.requests) else 0


if __name__ == "__main__":
    sys.exit(main())
