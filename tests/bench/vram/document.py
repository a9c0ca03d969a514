# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""docs/vram-accuracy.md: a section per engine, written from what was measured."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.baremetal.llm.tests.bench.vram import document_vllm, report

PATH = Path(__file__).resolve().parents[3] / "docs/vram-accuracy.md"

_TEXT = """\
# How well memory is foretold

Written by `tests/bench/vram/run.py`; do not edit.

## llama.cpp

Real is what llama.cpp {version} itself says that it would take, to the byte: its own code is asked for {cases} combinations of
{models} models (headers of published shapes, no weights), contexts from 4k to 128k, cache types, slots, batch sizes and layouts over
none, one, two and four devices. RPC devices stand for GPUs. What CUDA adds to each process is not in these figures, for it
cannot be measured without a GPU.

### The whole model, and what rules of thumb say

Bytes on all GPUs together (in main memory where there are none), in all cases in which the model is not divided between
GPUs and host. The rules know neither the context nor the cache's type.

{methods}

### Term by term

Each device and the host counts on its own here, because that is where it must fit.

{terms}

The cache and the recurrent state are counted together, as llama.cpp does.

### By layout

Totals of each place.

{layouts}

### By model

All layouts together; `short` are places where more than 64 MiB too little was predicted.

{model_rows}

### Encoders of images

What llama.cpp reserves for an encoder in F16, weights included, when it starts. Where images have no fixed size, one that is larger than
what it starts with makes that grow while it runs.

{encoders}

### What llama.cpp refuses

{refusals}
"""


def written(measured: report.Measured) -> str:
    text = _TEXT.format(
        version=measured.version,
        cases=f"{measured.cases:,}",
        models=len(measured.shapes),
        methods=report.methods(measured),
        terms=report.terms(measured),
        layouts=report.layouts(measured),
        model_rows=report.models(measured),
        encoders=report.encoders(measured),
        refusals=report.refusals(measured) if measured.refused else "Nothing of what was asked.",
    )
    return text + document_vllm.section()
