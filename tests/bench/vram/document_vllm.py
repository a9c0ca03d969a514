# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The section of vLLM in docs/vram-accuracy.md, from what tests/bench/vram/vllm.py left."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.tests.bench.vram.report import percent, table

RESULTS = Path(__file__).resolve().parent / "results-vllm.json"
Row = dict[str, t.Any]

_TEXT = """
## vLLM

From `tests/bench/vram/vllm.py`, which says what it needs.

### Against vLLM's own code

vLLM 0.32 divides weights and cache of published shapes itself, on PyTorch's meta device: {cases} cases over {models} models, with
tensor parallelism, cache types and lengths. The cache is exact if the bytes of a block, the blocks of a sequence and the tokens that fit all
are. Weights are those of one GPU, without tables of rotary positions.

{code}

### Against running engines

`GPU KV cache size` as vLLM prints it, for every kind of attention that its CPU build loads.

{engines}

### Against published logs

What vLLM printed elsewhere as the weights of a model on one GPU.

{logs}
"""


def section() -> str:
    """Empty if nothing was measured yet."""
    if not RESULTS.exists():
        return ""
    results: dict[str, list[Row]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    code = [row for row in results["code"] if "error" not in row]
    return _TEXT.format(
        cases=len(code),
        models=len({row["model"] for row in code}),
        code=_code(code),
        engines=_engines(results["engines"]),
        logs=_logs(results["logs"]),
    )


def _code(rows: list[Row]) -> str:
    by_model: dict[str, list[Row]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row)
    return table(("model", "cases", "cache exact", "weights exact", "weights, worst error"), [_model(name, of) for name, of in by_model.items()])


def _model(name: str, rows: list[Row]) -> tuple[str, ...]:
    cache = sum(all(row["predicted"][key] == row["real"][key] for key in ("block_bytes", "sequence_blocks", "tokens")) for row in rows)
    pairs = [(row["predicted"]["parameters"], row["real"]["parameters"]) for row in rows]
    worst = max(abs(predicted - real) / real for predicted, real in pairs)
    return (name, str(len(rows)), str(cache), str(sum(predicted == real for predicted, real in pairs)), f"{100 * worst:.4f} %" if worst else "0")


def _engines(rows: list[Row]) -> str:
    lines = [(row["model"], f"{row['bytes'] / 2**30:g} GiB", _number(row["tokens"]), _number(row["predicted"])) for row in rows]
    return table(("attention", "cache", "real tokens", "estimated tokens"), lines)


def _number(value: int | None) -> str:
    return f"{value:,}" if value else "-"


def _logs(rows: list[Row]) -> str:
    head = ("model", "GPUs", "real", "estimated", "error", "source")
    return table(
        head,
        [
            (
                *(row["model"], str(row["gpus"]), f"{row['real']:.2f} GiB", f"{row['predicted']:.2f} GiB"),
                *(percent(abs(row["predicted"] - row["real"]) / row["real"]), row["source"]),
            )
            for row in rows
        ],
    )
