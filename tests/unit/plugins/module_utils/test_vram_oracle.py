# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The estimate of llama.cpp's memory against what llama.cpp itself answered (tests/bench/vram/run.py --record wrote it down)."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import llama_memory
from ansible_collections.baremetal.llm.tests.bench.vram import cases, comparing, encoding, recorded

VERSION = "b11434"
WEIGHTS = 0.001


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[comparing.Sample]:
    directory = tmp_path_factory.mktemp("models")
    kept = recorded.read(VERSION)
    shapes = {name: cases.shape_of(name, directory) for name in sorted({case.model for case, _answer in kept})}
    return [
        sample for case, answer in kept for sample in comparing.samples(case, llama_memory(shapes[case.model], case.llama()), answer)
    ]


def test_the_subset_has_every_model_and_every_place(samples: list[comparing.Sample]) -> None:
    assert {sample.case.model for sample in samples} == set(cases.MODELS)
    assert {sample.case.devices for sample in samples} == {0, 1, 2, 4}
    assert {sample.case.settings.get("cache_k") for sample in samples} >= {"f16", "q8_0", "q4_0"}
    assert {sample.case.settings.get("parallel") for sample in samples} >= {1, 4}


def test_cache_and_recurrent_state_are_exact(samples: list[comparing.Sample]) -> None:
    assert _shown(sample for sample in samples if sample.term == "cache" and sample.error) == ""


def test_weights_are_within_a_thousandth(samples: list[comparing.Sample]) -> None:
    assert _shown(sample for sample in samples if sample.term == "weights" and sample.share > WEIGHTS) == ""


def test_totals_of_every_place_are_within_two_percent_or_the_margin(samples: list[comparing.Sample]) -> None:
    totals = [sample for sample in samples if sample.term == "total"]
    outside = [sample for sample in totals if not sample.within]
    assert len(outside) <= 0.05 * len(totals), _shown(outside)


def test_nothing_is_estimated_too_small_by_more_than_the_margin(samples: list[comparing.Sample]) -> None:
    assert _shown(sample for sample in samples if sample.term == "total" and sample.short) == ""


def _shown(wrong: t.Iterable[comparing.Sample]) -> str:
    return "\n".join(
        f"{sample.case.model}, {sample.case.layout}, {sample.place}, {sample.term}: {sample.error / MIB:+.1f} MiB of {sample.real / MIB:.1f}"
        f" ({sample.case.settings})"
        for sample in wrong
    )


@pytest.mark.parametrize("real", encoding.read(VERSION), ids=lambda real: f"{real.model} on {real.devices}")
def test_encoders_are_not_estimated_too_small(real: encoding.Encoder, tmp_path: Path) -> None:
    gpu, host = encoding.foretold(encoding.shape_of(real.model, tmp_path), real.devices)
    assert gpu >= real.gpu - comparing.MARGIN
    assert host >= real.host - comparing.MARGIN
    if real.model == "gemma3_12b":  # all its images have one size
        assert abs(gpu + host - real.gpu - real.host) <= comparing.MARGIN
