# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the memory of llama.cpp is measured with: models of published shapes, and settings drawn the same way every time."""

from __future__ import annotations

import random
import typing as t
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
from ansible_collections.baremetal.llm.plugins.module_utils._gguf_shape import read_gguf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.more import MORE
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.published import FAMILIES, Published, write

CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
CACHE_TYPES = (("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))
SLOTS = ((1, False), (4, False), (4, True))  # how many, and whether they share one cache
UBATCHES = (256, 512, 2048)
PER_LAYOUT = 18  # settings that are drawn for each model and layout
SEED = "vram"

Kind = gguf.GGMLQuantizationType
# What most matrices are, and what the embedding and the output are.
FILE_TYPES = {
    **{"F16": (Kind.F16, Kind.F16), "BF16": (Kind.BF16, Kind.BF16), "Q8_0": (Kind.Q8_0, Kind.Q8_0), "Q6_K": (Kind.Q6_K, Kind.Q6_K)},
    **{"Q5_K_M": (Kind.Q5_K, Kind.Q6_K), "Q4_K_M": (Kind.Q4_K, Kind.Q6_K), "Q4_0": (Kind.Q4_0, Kind.Q6_K)},
    **{"IQ4_XS": (Kind.IQ4_XS, Kind.Q6_K), "Q2_K": (Kind.Q2_K, Kind.Q6_K), "MXFP4": (Kind.Q8_0, Kind.Q8_0)},
}
_OTHER_TYPES = {
    **{"llama32_1b": ("F16", "Q8_0"), "llama3_8b": ("Q4_K_M", "F16", "Q8_0", "Q4_0", "IQ4_XS", "Q2_K"), "qwen3_06b": ("BF16",)},
    **{"qwen25_05b": ("Q4_K_M",), "qwen25_7b": ("Q8_0",), "gemma3_1b": ("Q8_0",), "gemma2_9b": ("Q5_K_M",), "phi3_mini": ("Q6_K",)},
    **{"gpt_oss_20b": ("MXFP4",), "gpt_oss_120b": ("MXFP4",), "nomic_embed": ("F16",), "bge_large": ("Q8_0",), "embedding_gemma": ("Q8_0",)},
    **{"llama3_70b": ("Q4_K_M", "Q5_K_M"), "qwen3_30b": ("Q4_K_M", "Q8_0"), "lfm2_1b": ("Q8_0",)},
}
ENCODERS = ("nomic_embed", "bge_large", "embedding_gemma")


@dataclass(frozen=True)
class Case:
    """One question: a model by its name in MODELS, and settings by their names in LlamaSettings where they are not the default."""

    model: str
    layout: str  # in a word: where the model lies
    devices: int
    settings: dict[str, t.Any] = field(hash=False)

    def question(self, directory: Path) -> dict[str, t.Any]:
        """As the oracle wants it."""
        settings = dict(self.settings)
        split = list(settings.pop("split", (1.0,) * self.devices))  # untold, it would follow free memory
        overrides = [[pattern, place.removeprefix("CUDA")] for pattern, place in settings.pop("override_tensor", ())]
        where = {"devices": self.devices, "tensor_split": split, "override_tensor": overrides}
        return {"model": str(path_of(self.model, directory)), **where, **settings}

    def llama(self) -> LlamaSettings:
        """As the estimator wants it."""
        settings = dict(self.settings)
        split = tuple(settings.pop("split", (1.0,) * self.devices))
        overrides = tuple((pattern, place) for pattern, place in settings.pop("override_tensor", ()))
        return LlamaSettings(**settings, split=split, override_tensor=overrides, load_mode="none", cuda=False)


def file_types(family: str) -> tuple[str, ...]:
    return _OTHER_TYPES.get(family, ("Q4_K_M",))


def published(name: str) -> Published:
    """The model ``llama3_8b-Q4_K_M``."""
    family, _dash, file_type = name.partition("-")
    model = {**FAMILIES, **MORE}[family]()
    matrices, ends = FILE_TYPES[file_type]
    return replace(model, matrices=matrices, ends=ends, types={**model.types, **(_more_bits(model) if file_type.endswith("_M") else {})})


def _more_bits(model: Published) -> dict[str, gguf.GGMLQuantizationType]:
    """The _M mixes have half of these matrices in Q6_K (use_more_bits in llama.cpp's src/llama-quant.cpp), if its blocks divide them."""
    layers = model.keys["block_count"]
    chosen = [n for n in range(layers) if n < layers // 8 or n >= 7 * layers // 8 or (n - layers // 8) % 3 == 2]
    names = [f"blk.{number}.{part}.weight" for number in chosen for part in ("attn_v", "ffn_down", "ffn_down_exps")]
    return {name: Kind.Q6_K for name in names if name in model.tensors and model.tensors[name][-1] % 256 == 0}


MODELS = tuple(f"{family}-{file_type}" for family in (*FAMILIES, *MORE) for file_type in file_types(family))


def path_of(name: str, directory: Path) -> Path:
    return directory / f"{name}.gguf"


def shape_of(name: str, directory: Path) -> ModelShape:
    """The shape of a model as its header tells it. The header is written first if it is not there."""
    path = path_of(name, directory)
    if not path.exists():
        write(published(name), path)
    return read_gguf(LocalFiles(directory), path.name)


def matrix(shapes: t.Mapping[str, ModelShape]) -> list[Case]:
    """Every model on every layout, each with PER_LAYOUT of the possible settings, the same ones in every run."""
    drawn = random.Random(SEED)
    cases = []
    for name, shape in shapes.items():
        for layout, devices, where in _layouts(name, shape):
            settings = _settings(name, shape)
            cases += [Case(name, layout, devices, {**chosen, **where}) for chosen in drawn.sample(settings, min(PER_LAYOUT, len(settings)))]
    return cases


def _layouts(name: str, shape: ModelShape) -> t.Iterator[tuple[str, int, dict[str, t.Any]]]:
    half = len(shape.trunk) // 2
    yield from (("cpu", 0, {}), ("1 gpu", 1, {}), ("2 gpus", 2, {}), ("4 gpus", 4, {}))
    yield ("2 gpus, 3:1", 2, {"split": [3.0, 1.0]})
    yield ("1 gpu, half the layers", 1, {"gpu_layers": half})
    yield ("2 gpus, half the layers", 2, {"gpu_layers": half})
    yield ("1 of 2 gpus", 2, {"split_mode": "none", "main_gpu": 1})
    if shape.experts:
        yield ("1 gpu, half the experts", 1, {"cpu_moe": half})
        yield ("2 gpus, half the experts", 2, {"cpu_moe": half})
        yield ("1 gpu, no experts", 1, {"cpu_moe": len(shape.layers)})
    if name.partition("-")[0] not in ENCODERS:
        yield ("1 gpu, ffn_down elsewhere", 1, {"override_tensor": [["blk\\.[0-3]\\.ffn_down", "CPU"]]})
        yield ("2 gpus, ffn_up on the second", 2, {"override_tensor": [["blk\\.[0-3]\\.ffn_up", "CUDA1"]]})


def _settings(name: str, shape: ModelShape) -> list[dict[str, t.Any]]:
    """All combinations, and some rarer ones: no flash attention, whole caches for windows, other types for keys than for values."""
    longest = shape.context_length or max(CONTEXTS)
    contexts = [context for context in CONTEXTS if context <= longest] or [longest]
    if name.partition("-")[0] in ENCODERS:  # they work on what fits one batch
        return [{"context": context, "ubatch": ubatch, "embeddings": True} for context in contexts for ubatch in UBATCHES if ubatch <= context]
    combinations = []
    for context in contexts:
        for parallel, unified in SLOTS:
            for ubatch in UBATCHES:
                common = {"context": context, "parallel": parallel, "unified": unified, "ubatch": ubatch}
                combinations += [{**common, "cache_k": key, "cache_v": value} for key, value in CACHE_TYPES if _holds(shape, key, value)]
                if ubatch == 512 and context <= 32768:
                    combinations.append({**common, "flash_attention": False})
                    combinations += [{**common, "swa_full": True}] if shape.attention in ("mixed", "sliding") else []
                    combinations += [{**common, "cache_k": "q8_0", "cache_v": "f16"}] if not shape.mla and _holds(shape, "q8_0", "f16") else []
                    combinations += [{**common, "cache_k": "q8_0", "cache_v": "q5_1"}] if not shape.mla and _holds(shape, "q8_0", "q5_1") else []
    return combinations


def _holds(shape: ModelShape, key: str, value: str) -> bool:
    """Blocks of 32 must divide the heads."""
    return all(
        (key == "f16" or layer.key_length % 32 == 0) and (value == "f16" or layer.value_length % 32 == 0) for layer in shape.trunk if layer.attention
    )
