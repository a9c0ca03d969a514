# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Many streams held open at once on a front door, and the worst company beside them: slow readers, floods of wrong keys, half-open connections.

It goes to loopback addresses only, and everything in it has a number and an end. The backend is ``tests/doubles/sse_backend.py``, which writes into each
event when it was sent.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import ipaddress
import json
import socket
import ssl
import statistics
import time
import typing as t

from tests.load.steady_load import BROKEN, HANG, Request, Shape, Target, ask

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclasses.dataclass
class Held(Request):
    """A request whose events say when they were sent; ``delays`` in seconds."""

    delays: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pace:
    """``streams`` of ``tokens`` events, ``pause`` seconds apart, the first one after ``first``; opened within ``ramp`` seconds."""

    streams: int
    tokens: int
    pause: float
    ramp: float = 0
    first: float = 0
    patience: float = 60

    @property
    def shape(self) -> Shape:
        return Shape(tokens=self.tokens, patience=self.patience, prompt=json.dumps({"pause": self.pause, "first": self.first}))


def only_here(target: Target) -> None:
    """Load is for this machine's own loopback addresses."""
    if not ipaddress.ip_address(target.address).is_loopback:
        raise ValueError(f"{target.address} is not a loopback address: load is not sent to other machines.")


def tls(target: Target) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=target.ca) if target.ca else None


async def hold(target: Target, pace: Pace, requests: list[Held]) -> None:
    """Open them, one after the other, and read each to its end. ``requests`` fills up meanwhile."""
    only_here(target)
    context, begun = tls(target), time.monotonic()

    def now() -> float:
        return time.monotonic() - begun

    async def one(number: int) -> None:
        await asyncio.sleep(pace.ramp * number / max(1, pace.streams))
        request = Held(number, now())
        requests.append(request)
        # A few addresses of ours, as clients have; one alone would run into its own limit.
        mine = dataclasses.replace(target, source=f"127.0.1.{number % 50 + 1}")
        try:
            request.outcome, request.detail = await ask(
                mine, pace.shape, request, now, context, on_text=lambda text: request.delays.append(time.time() - float(text.split()[0]))
            )
        except (asyncio.TimeoutError, TimeoutError):
            request.outcome, request.detail = HANG, f"silent for {pace.patience:g} s"
        except (OSError, EOFError, ValueError) as exc:
            request.outcome, request.detail = BROKEN, type(exc).__name__
        request.end = now()

    await asyncio.gather(*(one(number) for number in range(pace.streams)))


async def flood(target: Target, source: str, seconds: float, at_once: int = 8) -> collections.Counter[str]:
    """Wrong keys, half of them well-formed, as fast as ``at_once`` connections can. Returns what was answered."""
    only_here(target)
    seen: collections.Counter[str] = collections.Counter()
    context, end = tls(target), time.monotonic() + seconds

    async def guess() -> None:
        while time.monotonic() < end:
            try:
                reader, writer = await _open(target, source, context)
                with contextlib.closing(writer):
                    for number in range(50):
                        key = f"sk-{number:064x}" if number % 2 else "not-a-key"
                        head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
                        writer.write(head.encode())
                        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                        size = int(answer.lower().split(b"content-length: ")[1].split()[0])
                        await asyncio.wait_for(reader.readexactly(size), 30)
                        seen[answer.split()[1].decode()] += 1
                        if time.monotonic() >= end:
                            return
            except (OSError, EOFError, asyncio.TimeoutError):
                seen["broken"] += 1
                await asyncio.sleep(0.1)

    await asyncio.gather(*(guess() for _number in range(at_once)))
    return seen


async def half_open(target: Target, source: str, seconds: float, connections: int) -> int:
    """So many connections that never say a whole request, opened again when they are cut. Returns how often they were."""
    only_here(target)
    context, end, cut = tls(target), time.monotonic() + seconds, 0

    async def one(number: int) -> None:
        nonlocal cut
        await asyncio.sleep(number / connections * min(10, seconds / 2))
        while time.monotonic() < end:
            with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
                # every other one does not even begin with TLS
                reader, writer = await _open(target, source, context if number % 2 else None)
                with contextlib.closing(writer):
                    if number % 2:
                        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
                    while time.monotonic() < end:
                        try:
                            if not await asyncio.wait_for(reader.read(64), 1):
                                break
                        except asyncio.TimeoutError:
                            continue
                    cut += 1
            await asyncio.sleep(0.2)

    await asyncio.gather(*(one(number) for number in range(connections)))
    return cut


async def slow_readers(target: Target, pace: Pace, source: str, seconds: float) -> int:
    """Clients with a valid key that ask for much and read next to nothing. Returns how many were still served at the end."""
    only_here(target)
    context, end, alive = tls(target), time.monotonic() + seconds, 0
    body = {"model": target.model, "max_tokens": pace.tokens, "stream": True, "messages": [{"role": "user", "content": pace.shape.prompt}]}
    text = json.dumps(body)
    head = f"POST {target.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.key}\r\nContent-Type: application/json\r\n"

    async def one(number: int) -> None:
        nonlocal alive
        await asyncio.sleep(number / pace.streams * 5)
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.bind((source, 0))
        plain.setblocking(False)
        with contextlib.suppress(OSError, EOFError, asyncio.TimeoutError):
            await asyncio.get_running_loop().sock_connect(plain, (target.address, target.port))
            reader, writer = await asyncio.open_connection(sock=plain, ssl=context, server_hostname=target.name if context else None, limit=512)
            with contextlib.closing(writer):
                writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
                while time.monotonic() < end:
                    if not await asyncio.wait_for(reader.read(64), 30):
                        return
                    await asyncio.sleep(2)
                alive += 1

    await asyncio.gather(*(one(number) for number in range(pace.streams)))
    return alive


async def latency(target: Target, source: str, seconds: float, every: float = 0.5) -> list[float | None]:
    """A short request with a valid key again and again: seconds of each, None for one that failed."""
    only_here(target)
    context, end = tls(target), time.monotonic() + seconds
    found: list[float | None] = []
    shape = Shape(tokens=1, patience=60)
    mine = dataclasses.replace(target, source=source)
    while time.monotonic() < end:
        began = time.monotonic()
        request = Held(len(found), 0)
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.TimeoutError):
            outcome, _detail = await ask(mine, shape, request, time.monotonic, context)
            found.append(time.monotonic() - began if outcome == "whole" else None)
            await asyncio.sleep(max(0, every - (time.monotonic() - began)))
            continue
        found.append(None)
        await asyncio.sleep(every)
    return found


async def _open(target: Target, source: str, context: ssl.SSLContext | None) -> Opened:
    opening = asyncio.open_connection(target.address, target.port, ssl=context, server_hostname=target.name if context else None, local_addr=(source, 0))
    return await asyncio.wait_for(opening, 30)


def percentile(values: t.Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def median(values: t.Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")
