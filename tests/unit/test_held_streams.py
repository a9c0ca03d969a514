# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The crowd of clients against the stand-in for an engine: what it counts, and that it stays on this machine."""

from __future__ import annotations

import asyncio
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.doubles.sse_backend import serve
from tests.load.held_streams import Held, Pace, half_open, hold, latency
from tests.load.steady_load import Target


def against_the_stand_in(use: t.Callable[[Target], t.Awaitable[t.Any]]) -> t.Any:
    async def run() -> t.Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await use(Target("127.0.0.1", port, "double", "key"))

    return asyncio.run(run())


def test_every_stream_is_counted_with_the_delay_of_its_events() -> None:
    requests: list[Held] = []
    against_the_stand_in(lambda target: hold(target, Pace(20, tokens=4, pause=0.05, first=0.1), requests))
    assert {(one.outcome, one.tokens) for one in requests} == {("whole", 4)}
    assert all(one.first is not None and one.first - one.start >= 0.1 for one in requests)
    assert all(0 <= delay < 1 for one in requests for delay in one.delays)
    assert {len(one.delays) for one in requests} == {4}


def test_a_silent_engine_is_no_whole_answer() -> None:
    requests: list[Held] = []
    against_the_stand_in(lambda target: hold(target, Pace(1, tokens=1, pause=0, first=5, patience=0.2), requests))
    assert requests[0].outcome == "hang"


def test_latency_counts_what_failed() -> None:
    assert all(against_the_stand_in(lambda target: latency(target, "127.0.0.1", 0.3, every=0.1)))


def test_half_open_connections_end() -> None:
    # nobody cuts them here, so they end with the time
    assert against_the_stand_in(lambda target: half_open(target, "127.0.0.1", 1, 3)) in (0, 3)


@pytest.mark.parametrize("address", ["192.168.0.50", "10.0.0.1"])
def test_load_is_not_sent_to_other_machines(address: str) -> None:
    with pytest.raises(ValueError, match=address):
        asyncio.run(hold(Target(address, 443, "chat", "key"), Pace(1, 1, 0), []))
