# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Errors of estimates: predicted against real, term by term, and the rules of thumb of others beside them."""

from __future__ import annotations

import math
import statistics
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB, MemoryEstimate, Usage
from ansible_collections.baremetal.llm.tests.bench.vram.asking import Answer, Place
from ansible_collections.baremetal.llm.tests.bench.vram.cases import Case

MARGIN = 64 * MIB
TOLERANCE = 0.02
TERMS = ("weights", "cache", "compute", "total")
GB = 10**9
# What people call the bits of a weight of such a file.
NOMINAL_BITS = {"F16": 16, "BF16": 16, "Q8_0": 8, "Q6_K": 6, "Q5_K_M": 5, "Q4_K_M": 4, "Q4_0": 4, "IQ4_XS": 4, "Q2_K": 2, "MXFP4": 4}
RULES = ("parameters x bytes x 1.2", "file size x 1.15 + 1 GB")


@dataclass(frozen=True)
class Sample:
    """One term of one case in one place."""

    case: Case
    place: str  # gpu 0, ..., host
    term: str  # one of TERMS; the cache with the recurrent state, as llama.cpp counts them together
    predicted: int
    real: int

    @property
    def error(self) -> int:
        """Bytes; negative where too little was predicted."""
        return self.predicted - self.real

    @property
    def share(self) -> float:
        return abs(self.error) / self.real if self.real else float(self.error != 0)

    @property
    def within(self) -> bool:
        return abs(self.error) <= max(MARGIN, TOLERANCE * self.real)

    @property
    def short(self) -> bool:
        """Too little was predicted, by more than the margin takes."""
        return self.error < -MARGIN


def samples(case: Case, estimate: MemoryEstimate, answer: Answer) -> list[Sample]:
    """All terms of all places. A device too many or too few is no error of bytes but of the estimator."""
    if len(estimate.devices) != len(answer.devices):
        raise AssertionError(f"{case}: {len(estimate.devices)} devices predicted, {len(answer.devices)} real")
    pairs = [(f"gpu {number}", *pair) for number, pair in enumerate(zip(estimate.devices, answer.devices, strict=True))]
    return [
        Sample(case, name, term, predicted, real)
        for name, usage, place in (*pairs, ("host", estimate.host, answer.host))
        for term, predicted, real in zip(TERMS, _predicted(usage), _real(place), strict=True)
    ]


def _predicted(usage: Usage) -> tuple[int, int, int, int]:
    terms = (usage.weights, usage.cache + usage.state, usage.compute)
    return (*terms, sum(terms))


def _real(place: Place) -> tuple[int, int, int, int]:
    return (*place, place.total)


def rules_of_thumb(shape: ModelShape, file_type: str) -> dict[str, int]:
    """Bytes for the whole model. Neither rule knows the context."""
    return dict(zip(RULES, (int(shape.parameters * NOMINAL_BITS[file_type] / 8 * 1.2), int(shape.bytes * 1.15 + GB)), strict=True))


@dataclass(frozen=True)
class Summary:
    """``median`` and ``p95`` are of the absolute errors, ``most`` and ``least`` of the signed ones."""

    count: int
    exact: float
    median: float
    p95: float
    median_share: float
    p95_share: float
    worst_share: float
    most: int
    least: int
    within: float
    short: int


def summary(of: t.Sequence[Sample]) -> Summary:
    errors, shares = [abs(sample.error) for sample in of], [sample.share for sample in of]
    return Summary(
        count=len(of),
        exact=sum(error == 0 for error in errors) / len(of),
        median=statistics.median(errors),
        p95=percentile(errors, 0.95),
        median_share=statistics.median(shares),
        p95_share=percentile(shares, 0.95),
        worst_share=max(shares),
        most=max(sample.error for sample in of),
        least=min(sample.error for sample in of),
        within=sum(sample.within for sample in of) / len(of),
        short=sum(sample.short for sample in of),
    )


def percentile(values: t.Sequence[float], part: float) -> float:
    """The smallest value that ``part`` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
