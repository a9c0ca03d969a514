# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a second server brings, and what the front door costs: tokens per second and time to first token with 1, 8 and 32 streams at a time.

    tests/bench/fleet/streams.py [--streams 1 8 32] [--seconds 8]

A gateway and two servers, whose processors are limited (--processors), so that two have twice what one has. The model `one` is on the first server, `two`
on both. Asked directly, `two` is asked at both servers in equal parts: the balance that nothing beats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
import typing as t
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / ".collections")]

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, Question, stream  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.fleet.machines import Fleet, fleet, say  # noqa: E402

DOOR, DIRECT = "front door", "direct"
ONE, TWO = "one", "two"
TOKENS = 48


class Cell(t.NamedTuple):
    """A way, a model, a number of streams, and what came of it."""

    way: str
    model: str
    streams: int
    tokens_per_second: float
    first_token: float
    first_token_p95: float
    answers: int
    failed: int
    why: str  # of the most frequent failure


def load(way: str, model: str, endpoints: t.Sequence[Endpoint], streams: int, seconds: float) -> Cell:
    """So many streams at a time until the time is up; what is running then is read to its end and counted with its time."""
    firsts: list[float] = []
    tokens: list[int] = []
    failures: list[str] = []
    started = time.monotonic()

    def client(endpoint: Endpoint) -> None:
        while time.monotonic() - started < seconds:
            try:
                pace = stream(endpoint, Question(model, "Count from one to one hundred in words.", TOKENS)).pace
            except LLMError as exc:
                failures.append(str(exc))
                continue
            firsts.append(pace.first_token or 0.0)
            tokens.append(pace.tokens)

    clients = [threading.Thread(target=client, args=(endpoint,)) for endpoint in itertools.islice(itertools.cycle(endpoints), streams)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    took = time.monotonic() - started
    if not firsts:
        raise SystemExit(f"Nothing was answered: {failures[:1]}")
    ordered = sorted(firsts)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    why = statistics.mode(failures) if failures else ""
    return Cell(way, model, streams, sum(tokens) / took, statistics.median(firsts), p95, len(firsts), len(failures), why)


def measure(made: Fleet, streams: t.Sequence[int], seconds: float) -> list[Cell]:
    gateway, first, second = made.names
    ways = {
        (DIRECT, ONE): [made.engine(first)],
        (DIRECT, TWO): [made.engine(first), made.engine(second)],
        (DOOR, ONE): [made.front_door(gateway)],
        (DOOR, TWO): [made.front_door(gateway)],
    }
    for (way, model), endpoints in ways.items():
        load(way, model, endpoints, 4, 1)  # loaded and warm
    cells = []
    for count in streams:
        for (way, model), endpoints in ways.items():
            say(f"{count} streams, {way}, {model}")
            cells.append(load(way, model, endpoints, count, seconds))
    return cells


def report(cells: t.Sequence[Cell]) -> str:
    found = {(cell.way, cell.model, cell.streams): cell for cell in cells}
    lines = [f"{'streams':<9}{'servers':<9}{'way':<12}{'tokens/s':>10}{'first token':>13}{'p95':>10}{'answers':>9}{'failed':>8}"]
    for cell in cells:
        lines.append(
            f"{cell.streams:<9}{cell.model:<9}{cell.way:<12}{cell.tokens_per_second:>10.0f}{cell.first_token * 1000:>10.0f} ms"
            f"{cell.first_token_p95 * 1000:>7.0f} ms{cell.answers:>9}{cell.failed:>8}"
        )
    lines += ["", f"{'streams':<9}{'two/one':>10}{'direct':>10}{'door/direct, one':>19}{'two':>8}{'first token, door - direct, one':>34}{'two':>10}"]
    for count in dict.fromkeys(cell.streams for cell in cells):
        speed = {key[:2]: cell.tokens_per_second for key, cell in found.items() if key[2] == count}
        first = {key[:2]: cell.first_token * 1000 for key, cell in found.items() if key[2] == count}
        lines.append(
            f"{count:<9}{speed[DOOR, TWO] / speed[DOOR, ONE]:>10.2f}{speed[DIRECT, TWO] / speed[DIRECT, ONE]:>10.2f}"
            f"{speed[DOOR, ONE] / speed[DIRECT, ONE]:>19.2f}{speed[DOOR, TWO] / speed[DIRECT, TWO]:>8.2f}"
            f"{first[DOOR, ONE] - first[DIRECT, ONE]:>31.0f} ms{first[DOOR, TWO] - first[DIRECT, TWO]:>7.0f} ms"
        )
    lines += [f"{cell.streams} streams, {cell.way}, {cell.model}: {cell.failed} failed: {cell.why}" for cell in cells if cell.failed]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure one and two servers behind the front door.")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--processors", type=float, default=0.25, help="of each server")
    parser.add_argument("--layers", type=int, default=16, help="of the model: how slow it is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the machines")
    given = parser.parse_args()
    with fleet(3, given.keep, layers=given.layers) as made:
        gateway, first, second = made.names
        say("making them what the inventory says")
        made.site(made.inventory(gateway, {first: [ONE, TWO], second: [TWO]}))
        made.limit_processors([first, second], given.processors)
        cells = measure(made, given.streams, given.seconds)
    print(json.dumps([cell._asdict() for cell in cells]) if given.json else report(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
