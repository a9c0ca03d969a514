# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._pace import (
    HEAP,
    ONE_BY_ONE,
    UNKNOWN,
    Pace,
    Stamp,
    explain,
    measure,
    milliseconds,
    table,
)


def arriving(*sizes: int, gap: float = 0.05, first: float = 1.0) -> list[Stamp]:
    """Reads that brought so many events each, evenly spaced."""
    return [Stamp(first + read * gap, read) for read, size in enumerate(sizes) for _event in range(size)]


def pace(stamps: list[Stamp], tokens: int | None = None, started: float = 0.0) -> Pace:
    return measure(started, max((stamp.time for stamp in stamps), default=1.0) + 0.01, stamps, tokens)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 49, ONE_BY_ONE),
        ([49], HEAP),
        ([1, 48], HEAP),  # the first token alone, the rest flushed at the end
        ([16, 16, 17], HEAP),  # a proxy that flushes a full buffer
        ([1] * 24 + [25], HEAP),  # half of them at once
        ([4] * 12, HEAP),
        ([3] * 16, ONE_BY_ONE),  # a reader that waits for a processor now and then
        ([1] * 25 + [24], ONE_BY_ONE),
        ([8], HEAP),
        ([7], UNKNOWN),  # nobody can tell
        ([], UNKNOWN),
    ],
)
def test_delivery_follows_from_what_arrived_together(sizes: list[int], expected: str) -> None:
    assert pace(arriving(*sizes)).delivery == expected


def test_tiny_gaps_alone_are_no_heap() -> None:
    assert pace(arriving(*[1] * 200, gap=0.0001)).delivery == ONE_BY_ONE


def test_an_answer_within_a_moment_says_nothing_about_delivery() -> None:
    stamps = arriving(49, first=0.02)
    assert measure(0.0, 0.03, stamps).delivery == UNKNOWN


def test_figures() -> None:
    stamps = [Stamp(at, read) for read, at in enumerate([10.5, 10.6, 10.7, 10.8, 11.5])]
    result = measure(10.0, 12.0, stamps, tokens=9)
    assert result.first_token == pytest.approx(0.5)
    assert result.gap_median == pytest.approx(0.1)
    assert result.gap_p95 == pytest.approx(0.7)
    assert result.gap_max == pytest.approx(0.7)
    assert result.tokens_per_second == pytest.approx(8.0)  # eight tokens after the first, in one second
    assert result.total == pytest.approx(2.0)
    assert (result.tokens, result.events, result.arrivals, result.largest_arrival) == (9, 5, 5, 1)


def test_p95_leaves_a_single_outlier_out() -> None:
    times = [float(number) for number in range(41)]
    stamps = [Stamp(at, read) for read, at in enumerate([*times, 100.0])]
    result = pace(stamps)
    assert (result.gap_p95, result.gap_max) == (1.0, 60.0)


def test_a_heap_has_no_speed() -> None:
    assert pace(arriving(40)).tokens_per_second is None
    assert pace(arriving(20, 20)).tokens_per_second is None


def test_an_empty_answer_has_no_figures() -> None:
    result = pace([])
    assert (result.tokens, result.first_token, result.gap_median, result.tokens_per_second) == (0, None, None, None)


def test_table_lines_up() -> None:
    head, first, second, failed = table(
        [("chat", pace(arriving(*[1] * 20))), ("coder-30b", pace(arriving(20))), ("gone", "the sentence that says why")]
    )
    assert first.index("one by one") == second.index("in a heap") == head.index("delivery")
    assert "in a heap (20 events in 1 arrivals, up to 20 at once)" in second
    assert head.index("tokens/s") + len("tokens/s") == first.index("20.0") + len("20.0")
    assert failed == "gone       the sentence that says why"


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.00123, "1.2 ms"), (0.0994, "99.4 ms"), (1.5, "1500 ms")])
def test_milliseconds(seconds: float | None, text: str) -> None:
    assert milliseconds(seconds) == text


def test_explain_says_why_it_cannot_tell() -> None:
    assert explain(pace(arriving(*[1] * 3))) == "too few to tell"
    assert explain(measure(0.0, 0.02, arriving(20, first=0.01))) == "too quick to tell"
