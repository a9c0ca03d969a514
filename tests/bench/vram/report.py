# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was measured, as Markdown: the tables of docs/vram-accuracy.md."""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.tests.bench.vram.cases import Case
from ansible_collections.baremetal.llm.tests.bench.vram.comparing import RULES, TERMS, Sample, Summary, rules_of_thumb, summary
from ansible_collections.baremetal.llm.tests.bench.vram.encoding import Encoder

OURS = "this collection"
_RULED = ("cpu", "1 gpu", "2 gpus", "4 gpus", "2 gpus, 3:1", "1 of 2 gpus")  # where the whole model is what a rule of thumb speaks of


@dataclass(frozen=True)
class Measured:
    """A run: what was asked, what came out of it, and what llama.cpp would not do."""

    version: str
    shapes: t.Mapping[str, ModelShape]
    samples: t.Sequence[Sample]
    refused: t.Sequence[tuple[Case, str, str]]  # the case, and what llama.cpp and the estimator say against it; empty: nothing
    encoders: t.Sequence[tuple[Encoder, tuple[int, int]]]  # real, and foretold on the GPU and on the host

    @property
    def cases(self) -> int:
        return len({id(sample.case) for sample in self.samples})

    def where(self, **wanted: str) -> list[Sample]:
        return [sample for sample in self.samples if all(getattr(sample, key) == value for key, value in wanted.items())]


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[str]]) -> str:
    """Markdown; everything but the first column is a figure."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods(measured: Measured) -> str:
    """Bytes of the whole model on all GPUs (on the host where there are none), by this collection and by the rules of thumb."""
    rows = [(name, summary(found)) for name, found in _by_method(measured).items()]
    head = ("", "cases", "median error", "95th percentile", "worst", "too much by up to", "too little by up to", "too little by over 64 MiB")
    return table(head, [_method_row(name, found) for name, found in rows])


def _by_method(measured: Measured) -> dict[str, list[Sample]]:
    whole: dict[int, list[Sample]] = defaultdict(list)
    for sample in measured.where(term="total"):
        if sample.case.layout in _RULED and (sample.place != "host" or not sample.case.devices):
            whole[id(sample.case)].append(sample)
    found: dict[str, list[Sample]] = defaultdict(list)
    for parts in whole.values():
        case, real = parts[0].case, sum(part.real for part in parts)
        guesses = {OURS: sum(part.predicted for part in parts)}
        guesses |= rules_of_thumb(measured.shapes[case.model], case.model.partition("-")[2])
        for name in (OURS, *RULES):
            found[name].append(Sample(case, "all", "total", guesses[name], real))
    return found


def _method_row(name: str, found: Summary) -> tuple[str, ...]:
    shares = (percent(found.median_share), percent(found.p95_share), percent(found.worst_share))
    return (name, f"{found.count:,}", *shares, _mib(max(0, found.most)), _mib(max(0, -found.least)), f"{found.short:,}")


def terms(measured: Measured) -> str:
    """Each term in each place."""
    head = ("term", "samples", "exact", "median error", "95th percentile", "too much by up to", "too little by up to", "within 2 % or 64 MiB")
    rows = []
    for term in TERMS:
        for name, places in (("GPUs", "gpu"), ("host", "host")):
            found = [sample for sample in measured.where(term=term) if sample.place.startswith(places)]
            rows.append((f"{_named(term)}, {name}", *_term_row(summary(found))))
    return table(head, rows)


def _term_row(found: Summary) -> tuple[str, ...]:
    errors = (_mib(found.median), _mib(found.p95), _mib(max(0, found.most)), _mib(max(0, -found.least)))
    return (f"{found.count:,}", percent(found.exact), *errors, percent(found.within))


def models(measured: Measured) -> str:
    """Each model, all its places together."""
    head = ("model", "attention", "size", "cases", "weights", "cache and state", "compute, worst", "total, worst", "within 2 % or 64 MiB", "short")
    by_model = defaultdict(list)
    for sample in measured.samples:
        by_model[sample.case.model].append(sample)
    return table(head, [_model_row(name, measured.shapes[name], found) for name, found in by_model.items()])


def _model_row(name: str, shape: ModelShape, found: t.Sequence[Sample]) -> tuple[str, ...]:
    by_term = {term: [sample for sample in found if sample.term == term] for term in TERMS}
    total = summary(by_term["total"])
    return (
        name.replace("-", " "),
        shape.attention,
        f"{shape.bytes / 2**30:.1f} GiB",
        f"{len({id(sample.case) for sample in found}):,}",
        *(_exactness(by_term[term]) for term in ("weights", "cache")),
        *(_signed(max(by_term[term], key=lambda sample: abs(sample.error)).error) for term in ("compute", "total")),
        percent(total.within),
        f"{total.short:,}",
    )


def _exactness(found: t.Sequence[Sample]) -> str:
    of = summary(found)
    return "exact" if of.exact == 1 else f"{percent(of.exact)} exact, worst {percent(of.worst_share)}"


def layouts(measured: Measured) -> str:
    """Each layout: what the total of a place was wrong by."""
    found = defaultdict(list)
    for sample in measured.where(term="total"):
        found[sample.case.layout].append(sample)
    head = ("layout", "samples", "exact", "median error", "95th percentile", "too much by up to", "too little by up to", "within 2 % or 64 MiB")
    return table(head, [(name, *_term_row(summary(of))) for name, of in found.items()])


def refusals(measured: Measured) -> str:
    counted = Counter(
        (case.model.replace("-", " "), says or "runs it", "refuses it" if ours else "has an estimate") for case, says, ours in measured.refused
    )
    return table(("model", "llama.cpp", "this collection", "cases"), [(*key, f"{count:,}") for key, count in counted.items()])


def encoders(measured: Measured) -> str:
    head = ("encoder of", "place", "real", "estimated", "error")
    rows = []
    for real, (gpu, host) in measured.encoders:
        places = [("host", real.host, host)] if not real.devices else [("GPU", real.gpu, gpu), ("host beside a GPU", real.host, host)]
        rows += [(real.model, place, _mib(is_real), _mib(said), _signed(said - is_real)) for place, is_real, said in places]
    return table(head, rows)


def worst(measured: Measured, count: int = 20) -> str:
    """The largest errors of totals, for whoever works on the formulas."""
    found = sorted(measured.where(term="total"), key=lambda sample: sample.error)
    lines = []
    for sample in (*found[:count], *found[-count:]):
        parts = {other.term: other.error for other in measured.samples if other.case is sample.case and other.place == sample.place}
        errors = ", ".join(f"{term} {_signed(error)}" for term, error in parts.items() if error)
        lines.append(f"{sample.case.model} | {sample.case.layout} | {sample.place} | {errors} | {sample.case.settings}")
    return "\n".join(lines)


def _named(term: str) -> str:
    return "cache and state" if term == "cache" else term


def percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.2f} %" if value < 1 or 99 < value < 100 else f"{value:.1f} %"


def _mib(size: float) -> str:
    if size < MIB / 10:
        return f"{size / 1024:.1f} KiB" if size else "0"
    return f"{size / MIB:,.1f} MiB" if size < 10 * MIB else f"{size / MIB:,.0f} MiB"


def _signed(size: int) -> str:
    return "exact" if not size else f"{'+' if size > 0 else '-'}{_mib(abs(size))}"
