# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How well the estimate for vLLM holds: against vLLM's own code for published shapes, running engines on a CPU, and published logs.

    python -m ansible_collections.baremetal.llm.tests.bench.vram.vllm --python ENVIRONMENT/bin/python

Without --python it holds the estimate to the answers that were recorded. The environment has vLLM for CPUs: `uv venv --python 3.11 ENVIRONMENT`,
then `uv pip install --no-deps -r vllm-requirements.txt` in it (5 minutes, 8 GB). All together takes 15 minutes on two cores. Writes
results-vllm.json beside this file, and the answers to fixtures/vram for the unit tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._hf import read_hf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, vllm_cache_tokens
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_cache import pool
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_weights import weights
from ansible_collections.baremetal.llm.tests.bench.vram import vllm_cases as cases
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import safetensors as st

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results-vllm.json"
FIXTURE = HERE.parents[1] / "unit/fixtures/vram/vllm-answers.json"
ENGINE_LENGTH, ENGINE_SPACES = 4096, (1, 2)  # tokens, GiB
CACHE = ("block_bytes", "sequence_blocks", "tokens")
Row = dict[str, t.Any]


def shape_of(config: cases.Config, tensors: cases.Tensors, name: str) -> ModelShape:
    with tempfile.TemporaryDirectory() as directory:
        return read_hf(LocalFiles(st.write(Path(directory), config, cases.files(config, tensors))), name)


def _alone(python: str) -> list[str]:
    """-P: without the directory of the script, whose vllm.py is not what it wants to import."""
    return [python, "-P"]


def ask_code(python: str) -> list[Row]:
    """What vLLM's own code says of every published shape."""
    asked = json.dumps(cases.questions(cases.models()))
    done = subprocess.run([*_alone(python), str(HERE / "vllm_oracle.py")], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vllm_oracle.py failed:\n{done.stderr[-4000:]}")
    return t.cast("list[Row]", json.loads(done.stdout))


def compare_code(asked: list[Row]) -> list[Row]:
    rows = []
    for model in asked:
        shape = shape_of(st.config(model["name"]), model["tensors"], model["name"])
        rows += [_compared(shape, answer) for answer in model["answers"]]
    return rows


def _compared(shape: ModelShape, answer: Row) -> Row:
    """Weights without what is made of them after loading: vLLM's code was not asked for that."""
    case = answer["case"]
    row: Row = {"model": shape.name, "case": case}
    if "error" in answer:
        return {**row, "error": answer["error"]}
    settings = VllmSettings(**{key: value for key, value in case.items() if key != "bytes"})
    loaded, blocks = weights(shape, settings), pool(shape, settings)
    predicted = {
        "parameters": loaded.model + loaded.projector - loaded.copies,
        "rope": loaded.rope,
        "block_bytes": blocks.block_bytes,
        "sequence_blocks": blocks.sequence_blocks,
        "tokens": [blocks.tokens_in(size, settings.max_model_len) for size in case["bytes"]] if blocks.block_bytes else [],
    }
    real = {key: answer[key] for key in ("parameters", "block_bytes", "sequence_blocks", "tokens")} | {"rope": answer["buffers"]}
    return {**row, "predicted": predicted, "real": real}


def ask_engines(python: str) -> list[Row]:
    """Engines that really run, and the tokens that they print for the space they are given."""
    rows = []
    for name, config in cases.small().items():
        for space in ENGINE_SPACES:
            rows.append({"model": name, "config": config, "bytes": space * GIB, **_engine(python, config, space)})
            print(f"{name}, {space} GiB: {rows[-1].get('tokens', rows[-1].get('error'))} tokens", flush=True)
    return rows


def compare_engines(asked: list[Row]) -> list[Row]:
    rows = []
    for row in asked:
        shape = shape_of(row["config"], [("model.embed_tokens.weight", (8, 8), ())], row["model"])
        predicted = vllm_cache_tokens(shape, engine_settings(row["model"], row), row["bytes"]) if "tokens" in row else None
        rows.append({**{key: row.get(key) for key in ("model", "bytes", "tokens", "error")}, "predicted": predicted})
    return rows


def engine_settings(name: str, told: Row) -> VllmSettings:
    """What the CPU build decides: other blocks, one batch at a time, and recurrent states in the type it tells."""
    block = 16 if name == "MLA" else 128
    return VllmSettings(max_model_len=ENGINE_LENGTH, max_num_seqs=8, block_size=block, async_scheduling=False, mamba_ssm_cache_dtype=told["state"])


def _engine(python: str, config: cases.Config, space: int) -> Row:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(config))
        command = [*_alone(python), str(HERE / "vllm_engine.py"), directory, str(ENGINE_LENGTH)]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": str(space)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    told = re.search(r"^ANSWER (.*)$", done.stdout, re.MULTILINE)
    return t.cast("Row", json.loads(told[1])) if told else {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}


def compare_logs(asked: list[Row]) -> list[Row]:
    tensors = {model["name"]: model["tensors"] for model in asked}
    rows = []
    for log in cases.PUBLISHED:
        config = st.config(log.model)
        if log.context:
            config["max_position_embeddings"] = log.context
            config.pop("rope_scaling", None)
        loaded = weights(shape_of(config, tensors[log.model], log.model), VllmSettings(max_model_len=4096, tensor_parallel=log.gpus))
        rows.append({"model": log.model, "gpus": log.gpus, "real": log.gib, "predicted": sum(loaded[:3]) / GIB, "source": log.source})
    return rows


def table(code: list[Row], engines: list[Row], logs: list[Row]) -> str:
    lines = ["| model | GPUs | weights, MiB | error | bytes of a block | blocks of a sequence | tokens | cache |", "|---|--:|--:|--:|--:|--:|--:|---|"]
    lines += [_line(row) for row in code]
    lines += ["", "| running engine | bytes | tokens, real | predicted |", "|---|--:|--:|--:|"]
    lines += [f"| {row['model']} | {row['bytes']:,} | {row['tokens'] or row['error']} | {row['predicted']} |" for row in engines]
    lines += ["", "| published log | GPUs | GiB, real | predicted | source |", "|---|--:|--:|--:|---|"]
    lines += [f"| {row['model']} | {row['gpus']} | {row['real']} | {row['predicted']:.4f} | {row['source']} |" for row in logs]
    return "\n".join(lines)


def _line(row: Row) -> str:
    gpus = row["case"].get("tensor_parallel", 1)
    if "error" in row:
        return f"| {row['model']} | {gpus} | | | | | | not to be asked: {row['error'].splitlines()[0][:80]} |"
    predicted, real = row["predicted"], row["real"]
    same = "exact" if all(predicted[key] == real[key] for key in CACHE) else f"differs, really {[real[key] for key in CACHE]}"
    weight = f"{predicted['parameters'] / 2**20:,.0f} | {_error(row):+.4f} %"
    blocks = f"{predicted['block_bytes']:,} | {predicted['sequence_blocks']:,} | {max(predicted['tokens'], default=0):,}"
    return f"| {row['model']} | {gpus} | {weight} | {blocks} | {same} |"


def _error(row: Row) -> float:
    return 100 * (row["predicted"]["parameters"] / row["real"]["parameters"] - 1)


def summary(code: list[Row], engines: list[Row]) -> Row:
    answered = [row for row in code if "error" not in row]
    ran = [row for row in engines if row["tokens"]]
    return {
        "cases": len(answered),
        "cache_exact": sum(all(row["predicted"][key] == row["real"][key] for key in CACHE) for row in answered),
        "weights_exact": sum(row["predicted"]["parameters"] == row["real"]["parameters"] for row in answered),
        "weights_worst_percent": round(max((abs(_error(row)) for row in answered), default=0.0), 4),
        "engines": len(ran),
        "engines_exact": sum(row["tokens"] == row["predicted"] for row in ran),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", metavar="PATH", help="of an environment with vLLM for CPUs")
    python = parser.parse_args().python
    if python:
        FIXTURE.parent.mkdir(parents=True, exist_ok=True)
        answers = {"models": ask_code(python), "engines": ask_engines(python)}
        FIXTURE.write_text(json.dumps(answers, separators=(",", ":")) + "\n")
    asked = json.loads(FIXTURE.read_text())
    code, engines, logs = compare_code(asked["models"]), compare_engines(asked["engines"]), compare_logs(asked["models"])
    result = {"summary": summary(code, engines), "code": code, "engines": engines, "logs": logs}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(code, engines, logs))
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    main()
