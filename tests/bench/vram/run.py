# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How well the memory of llama.cpp is foretold: the collection's estimate against llama.cpp's own answer, in thousands of cases.

    tests/bench/vram/run.py            measures, prints the tables and writes docs/vram-accuracy.md
    tests/bench/vram/run.py --record   writes the cases that the unit tests keep, with llama.cpp's answers
    tests/bench/vram/run.py --worst    prints the cases with the largest errors

It needs no GPU and no weights: the oracle is llama.cpp itself, built the first time (cmake, ninja, a C++ compiler), asked
about generated headers of published models.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import llama_memory  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.vram import cases, document, encoding, recorded, report  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.vram.asking import Answer, Oracle, Refused  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.vram.build import build  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.vram.comparing import Sample, samples  # noqa: E402


def measure(shapes: dict[str, ModelShape], directory: Path, asked: t.Sequence[cases.Case]) -> report.Measured:
    program = build()
    found: list[Sample] = []
    refused: list[tuple[cases.Case, str, str]] = []
    with Oracle(program.path) as oracle:
        for case in asked:
            try:
                estimate, ours = llama_memory(shapes[case.model], case.llama()), ""
            except InputError as error:
                ours = str(error)
            try:
                answer = _ask(oracle, case, directory)
            except Refused as error:
                refused.append((case, str(error), ours))
                continue
            if ours:
                refused.append((case, "", ours))
            else:
                found += samples(case, estimate, answer)
        real = encoding.measure(oracle, directory)
    encoders = [(one, encoding.foretold(encoding.shape_of(one.model, directory), one.devices)) for one in real]
    return report.Measured(program.version, shapes, found, refused, encoders)


def record(shapes: dict[str, ModelShape], directory: Path) -> None:
    program = build()
    kept = []
    with Oracle(program.path) as oracle:
        for case in recorded.choose(cases.matrix(shapes)):
            try:
                kept.append((case, _ask(oracle, case, directory)))
            except Refused:
                continue
        encoding.record(program.version, encoding.measure(oracle, directory))
    recorded.write(program.version, kept)


def _ask(oracle: Oracle, case: cases.Case, directory: Path) -> Answer:
    return oracle.ask(case.question(directory)).over(case.devices, case.settings.get("main_gpu", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the fixture of the unit tests instead")
    parser.add_argument("--worst", action="store_true", help="print the largest errors instead")
    parser.add_argument("--models", default="", help="only models whose name contains this; writes no document")
    parser.add_argument("--json", action="store_true", help="print every sample as JSON; writes no document")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vram-") as place:
        directory = Path(place)
        shapes = {name: cases.shape_of(name, directory) for name in cases.MODELS if options.models in name}
        if options.record:
            return record(shapes, directory)
        measured = measure(shapes, directory, cases.matrix(shapes))
    if options.json:
        for one in measured.samples:
            where = {"model": one.case.model, "layout": one.case.layout, "settings": one.case.settings, "place": one.place}
            print(json.dumps({**where, "term": one.term, "predicted": one.predicted, "real": one.real}))
        return None
    if options.worst:
        return print(report.worst(measured))
    text = document.written(measured)
    print(text)
    print(f"{measured.cases:,} cases in {time.monotonic() - started:.0f} seconds", file=sys.stderr)
    if not options.models:
        document.PATH.parent.mkdir(exist_ok=True)
        document.PATH.write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
