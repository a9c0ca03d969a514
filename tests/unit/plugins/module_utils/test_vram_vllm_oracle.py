# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The estimate for vLLM against what vLLM 0.32 said, recorded by tests/bench/vram/vllm.py: its own code, running engines, published logs."""

from __future__ import annotations

import functools
import json
import typing as t

import pytest
from ansible_collections.baremetal.llm.tests.bench.vram import vllm as bench

Row = dict[str, t.Any]


@functools.cache
def recorded() -> dict[str, list[Row]]:
    return t.cast("dict[str, list[Row]]", json.loads(bench.FIXTURE.read_text()))


@functools.cache
def compared() -> list[Row]:
    return bench.compare_code(recorded()["models"])


def test_every_published_shape_was_asked() -> None:
    assert {model["name"] for model in recorded()["models"]} == set(bench.cases.models())
    assert [row["error"] for row in compared() if "error" in row] == []


@pytest.mark.parametrize("name", bench.cases.models())
def test_the_cache_is_exact(name: str) -> None:
    rows = [row for row in compared() if row["model"] == name]
    assert len(rows) == 3
    for row in rows:
        assert {key: row["predicted"][key] for key in bench.CACHE} == {key: row["real"][key] for key in bench.CACHE}, row["case"]


@pytest.mark.parametrize("name", bench.cases.models())
def test_weights_hold_within_a_thousandth(name: str) -> None:
    for row in (row for row in compared() if row["model"] == name):
        real = row["real"]["parameters"]
        assert -0.0001 * real <= row["predicted"]["parameters"] - real <= 0.001 * real, row["case"]
        assert -4 * 2**20 <= row["predicted"]["rope"] - row["real"]["rope"] <= 32 * 2**20, row["case"]


def test_running_engines_print_the_tokens_that_were_predicted() -> None:
    rows = bench.compare_engines(recorded()["engines"])
    assert {row["model"] for row in rows} == set(bench.cases.small())
    assert [row["predicted"] for row in rows] == [row["tokens"] for row in rows]


def test_published_logs_hold_within_two_thousandths() -> None:
    rows = bench.compare_logs(recorded()["models"])
    assert len(rows) == len(bench.cases.PUBLISHED)
    for row in rows:
        assert row["predicted"] == pytest.approx(row["real"], rel=0.002), row
