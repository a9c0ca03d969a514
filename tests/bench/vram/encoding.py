# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encoders of images: what llama.cpp reserves for one when it starts, against the estimate."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._gguf_shape import read_gguf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings, llama_memory
from ansible_collections.baremetal.llm.tests.bench.vram.asking import Oracle
from ansible_collections.baremetal.llm.tests.bench.vram.cases import published
from ansible_collections.baremetal.llm.tests.bench.vram.recorded import FIXTURES
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.encoders import ENCODERS
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.published import write

FILE = "oracle-encoders-{}.json"


class Encoder(t.NamedTuple):
    """Bytes of an encoder with its scratch, on the GPU (0 without one) and on the host."""

    model: str
    devices: int  # 0 or 1
    gpu: int
    host: int


def shape_of(name: str, directory: Path) -> ModelShape:
    """The model of that name with its encoder."""
    model, projector = directory / f"with-{name}.gguf", directory / f"mmproj-{name}.gguf"
    write(published(f"{name}-Q4_K_M"), model)
    write(ENCODERS[name](), projector)
    return read_gguf(LocalFiles(directory), model.name, projector.name)


def foretold(shape: ModelShape, devices: int) -> tuple[int, int]:
    estimate = llama_memory(shape, LlamaSettings(context=4096, split=(1.0,) * devices, cuda=False))
    return sum(usage.projector for usage in estimate.devices), estimate.host.projector


def measure(oracle: Oracle, directory: Path) -> list[Encoder]:
    found = []
    for name in ENCODERS:
        shape_of(name, directory)
        for devices in (0, 1):
            answer = oracle.put({"projector": str(directory / f"mmproj-{name}.gguf"), "devices": devices})
            found.append(Encoder(name, devices, sum(answer["devices"]), answer["host"]))
    return found


def record(version: str, found: t.Sequence[Encoder]) -> None:
    lines = [json.dumps(one._asdict()) for one in found]
    (FIXTURES / FILE.format(version)).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read(version: str) -> list[Encoder]:
    return [Encoder(**one) for one in json.loads((FIXTURES / FILE.format(version)).read_text(encoding="utf-8"))]
