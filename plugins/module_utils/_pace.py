# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The figures of a stream of tokens, from the times at which its events arrived: one by one, or in a heap?

How `delivery` is decided. An *arrival* is one read of the socket that brought tokens; a read waits for the first byte
and then takes all that is there, so tokens that were held back and let go together are one arrival, however many
packets or TLS records they fill. The stream is a `heap` when the arrivals brought HEAP_AVERAGE tokens or more on
average, or when a single one brought half of all: a proxy that buffers 4 KiB makes a dozen arrive together. Clock
times play no part, because a tiny model streams honestly with 0.1 ms between its tokens. But a reader that has to wait
for a processor for a moment finds a heap, too. Therefore a few tokens together are no heap yet, and an answer with
fewer than ENOUGH tokens, or one that took less than LONG_ENOUGH seconds in all, is `unknown`.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import typing as t
from collections import Counter

HEAP_AVERAGE = 4
ENOUGH = 8
LONG_ENOUGH = 0.05
HEADER = ("first token", "tokens/s", "gap median", "gap p95", "gap max", "total", "tokens", "delivery")

Delivery = t.NewType("Delivery", str)
ONE_BY_ONE = Delivery("one_by_one")
HEAP = Delivery("heap")
UNKNOWN = Delivery("unknown")


class Stamp(t.NamedTuple):
    """When a token event left the socket, and in which read."""

    time: float
    read: int


@dataclasses.dataclass(frozen=True)
class Pace:
    """How the tokens of one answer came. Times are in seconds."""

    tokens: int  # the server's count, or the number of events where it sends none
    events: int
    arrivals: int
    largest_arrival: int  # events
    first_token: float | None
    gap_median: float | None
    gap_p95: float | None
    gap_max: float | None
    tokens_per_second: float | None  # after the first one; None where the delivery hides it
    total: float
    delivery: Delivery


def measure(started: float, ended: float, stamps: t.Sequence[Stamp], tokens: int | None = None) -> Pace:
    """The figures of one answer, from nothing but the times at which its events arrived."""
    gaps = [later.time - earlier.time for earlier, later in zip(stamps, stamps[1:])]
    arrivals = Counter(stamp.read for stamp in stamps).values()
    delivery = _delivery(arrivals, ended - started)
    count = len(stamps) if tokens is None else tokens
    span = stamps[-1].time - stamps[0].time if stamps else 0.0
    return Pace(
        tokens=count,
        events=len(stamps),
        arrivals=len(arrivals),
        largest_arrival=max(arrivals, default=0),
        first_token=stamps[0].time - started if stamps else None,
        gap_median=statistics.median(gaps) if gaps else None,
        gap_p95=_percentile(gaps, 0.95) if gaps else None,
        gap_max=max(gaps, default=None),
        tokens_per_second=(count - 1) / span if span > 0 and count > 1 and delivery != HEAP else None,
        total=ended - started,
        delivery=delivery,
    )


def table(rows: t.Iterable[tuple[str, Pace | str]]) -> list[str]:
    """Lines to print: a row for every named pace, or for the sentence that says why there is none."""
    lines = [("model", HEADER), *((name, _cells(pace)) for name, pace in rows)]
    first = max(len(name) for name, _cells_ in lines)
    full = [cells for _name, cells in lines if len(cells) == len(HEADER)]
    widths = [max(map(len, column)) for column in zip(*full)]
    return [
        "  ".join([name.ljust(first), *map(str.rjust, cells[:-1], widths), cells[-1]]).rstrip() for name, cells in lines
    ]


def _cells(pace: Pace | str) -> tuple[str, ...]:
    if isinstance(pace, str):
        return (pace,)
    speed = "-" if pace.tokens_per_second is None else f"{pace.tokens_per_second:.1f}"
    gaps = map(milliseconds, (pace.gap_median, pace.gap_p95, pace.gap_max))
    return (milliseconds(pace.first_token), speed, *gaps, milliseconds(pace.total), str(pace.tokens), explain(pace))


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.{0 if value >= 0.1 else 1}f} ms"


def explain(pace: Pace) -> str:
    """The verdict in words."""
    if pace.delivery == HEAP:
        return f"in a heap ({pace.events} events in {pace.arrivals} arrivals, up to {pace.largest_arrival} at once)"
    if pace.delivery == ONE_BY_ONE:
        return "one by one"
    return "too quick to tell" if pace.events >= ENOUGH else "too few to tell"


def _delivery(arrivals: t.Collection[int], total: float) -> Delivery:
    events = sum(arrivals)
    if events < ENOUGH or total < LONG_ENOUGH:
        return UNKNOWN
    return HEAP if events >= HEAP_AVERAGE * len(arrivals) or 2 * max(arrivals) >= events else ONE_BY_ONE


def _percentile(values: t.Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]
