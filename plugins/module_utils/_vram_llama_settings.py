# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama-server is told, and what of it llama.cpp refuses or rounds.

Sources are files of llama.cpp b11434.
"""

from __future__ import annotations

import struct
import typing as t
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape

HOST = -1  # in place of a device's number: main memory

# Elements and bytes of a block (ggml/src/ggml-common.h). These are the types that --cache-type-k takes (common/arg.cpp, kv_cache_types).
CACHE_TYPES = {
    **{"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2)},
    **{"q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22), "q4_1": (32, 20), "q4_0": (32, 18), "iq4_nl": (32, 18)},
}
QUANTISED = frozenset(name for name, (block, size) in CACHE_TYPES.items() if block > 1)
SPLIT_MODES = ("none", "layer", "row", "tensor")

DRAFT_TOKENS = 3  # --spec-draft-n-max (common/common.h)
_SEQUENCES = 256  # LLAMA_MAX_SEQ of src/llama-cparams.h
_PHI_LAYERS = 20  # whose operations a graph has room for at least (1024, llama_context::graph_max_nodes), when caches are rotated
_CONTEXT_STEP = 256  # cells that a sequence's share of the cache is rounded up to (src/llama-context.cpp)


@dataclass(frozen=True)
class LlamaSettings:
    """What llama-server is told, every number explicit. Comments name its options where they differ."""

    context: int  # --ctx-size: tokens of the whole cache, all slots together
    parallel: int = 1  # slots
    unified: bool = False  # --kv-unified: one cache for all slots
    batch: int = 2048
    ubatch: int = 512
    cache_k: str = "f16"  # --cache-type-k
    cache_v: str = "f16"  # --cache-type-v
    flash_attention: bool = True  # --flash-attn on; auto is on where the devices have it
    split: tuple[float, ...] = ()  # --tensor-split, a part per device; () is CPU only, (1.0,) one device
    split_mode: str = "layer"
    main_gpu: int = 0
    gpu_layers: int | None = None  # --n-gpu-layers; None is all of them, the output too
    cpu_moe: int = 0  # --n-cpu-moe: the experts of the first layers stay in main memory
    override_tensor: tuple[tuple[str, str], ...] = ()  # regular expression and buffer: CPU or, for the second device, CUDA1
    load_mode: str = "auto"
    swa_full: bool = False  # sliding windows are cached as if they were full
    embeddings: bool = False
    cache_ram: int = 8192  # MiB of prompts that the process remembers in main memory
    mmproj_offload: bool = True
    draft: tuple[ModelShape, LlamaSettings] | None = None  # --spec-draft-model
    cuda: bool = True  # devices are NVIDIA GPUs; False: without what CUDA adds, as the RPC devices that llama-fit-params is asked about

    @property
    def sequence(self) -> int:
        """Tokens of cache that one slot has, or all together if it is unified (src/llama-context.cpp: n_ctx_seq)."""
        whole = padded(self.context, _CONTEXT_STEP)
        return whole if self.unified else padded(whole // self.parallel, _CONTEXT_STEP)

    @property
    def drafted(self) -> int:
        """Tokens that a draft model proposes at a time."""
        return DRAFT_TOKENS if self.draft else 0

    @property
    def streams(self) -> int:
        return 1 if self.unified else self.parallel

    def check(self, shape: ModelShape) -> None:
        """Refuse what llama.cpp would refuse when it starts."""
        for name in ("context", "parallel", "batch", "ubatch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1.")
        if self.parallel > _SEQUENCES:
            raise InputError(f"parallel is {self.parallel}: llama.cpp has at most {_SEQUENCES} slots.")
        if not self.unified and self.context < self.parallel:
            raise InputError(f"context is {self.context} for {self.parallel} slots: give at least {_CONTEXT_STEP * self.parallel}.")
        if self.split_mode not in SPLIT_MODES:
            raise InputError(f"split_mode is {self.split_mode!r}: use one of {', '.join(SPLIT_MODES)}.")
        if self.split and (min(self.split) < 0 or not any(self.split)):
            raise InputError(f"split is {list(self.split)}: give every device a part of 0 or more, and one of them more than 0.")
        if self.split and not 0 <= self.main_gpu < len(self.split):
            raise InputError(f"main_gpu is {self.main_gpu}: there are {len(self.split)} devices, counted from 0.")
        self._check_cache(shape)

    def _check_cache(self, shape: ModelShape) -> None:
        for name in ("cache_k", "cache_v"):
            if getattr(self, name) not in CACHE_TYPES:
                raise InputError(f"{name} is {getattr(self, name)!r}: use one of {', '.join(CACHE_TYPES)}.")
        if not shape.cached:
            return
        if self.cache_v in QUANTISED and not self.flash_attention:
            raise InputError(f"cache_v is {self.cache_v!r}, and quantised values need flash attention: use f16 or turn it on.")
        if shape.mla and self.cache_k != self.cache_v:
            raise InputError(f"cache_k is {self.cache_k!r} and cache_v {self.cache_v!r}: a model with latent attention needs the same type for both.")
        rotated = {self.cache_k, self.cache_v} <= QUANTISED and all(layer.key_length % 64 == 0 for layer in shape.trunk)
        if shape.architecture == "phi3" and len(shape.trunk) > _PHI_LAYERS and rotated and self.streams > 1:
            raise InputError(
                f"cache_k is {self.cache_k!r} with {self.parallel} slots that have a cache each: llama.cpp b11434 aborts on this with a Phi model"
                " (its graph has more nodes than there is room for). Use unified or f16."
            )
        for name, part in (("cache_k", "key_length"), ("cache_v", "value_length")):
            block = CACHE_TYPES[getattr(self, name)][0]
            for layer in shape.trunk:
                length = getattr(layer, part)
                if layer.attention and length % block:
                    kind = getattr(self, name)
                    raise InputError(f"{name} is {kind!r}, whose blocks of {block} do not divide the model's heads of {length}: use f16.")


@dataclass(frozen=True)
class Placement:
    """The device of every block and of the output; HOST is main memory."""

    layers: tuple[int, ...]
    output: int

    @property
    def offloaded(self) -> bool:
        return HOST not in self.layers and self.output != HOST


def place(shape: ModelShape, settings: LlamaSettings) -> Placement:
    """The last blocks go to the devices, by the parts' running sum (src/llama-model.cpp, get_layer_buft_list of load_tensors).

    It reckons in single precision, and so must this: 3 devices with equal parts are split elsewhere in double precision.
    """
    count = len(shape.layers)
    if not settings.split:
        return Placement((HOST,) * count, HOST)
    alone = tuple(float(number == settings.main_gpu) for number in range(len(settings.split)))
    parts = alone if settings.split_mode == "none" else settings.split
    wanted = count + 1 if settings.gpu_layers is None else settings.gpu_layers
    sums = list(accumulate((_single(part) for part in parts), lambda one, other: _single(one + other)))
    bounds = [_single(one / sums[-1]) for one in sums]
    start, active = max(count + 1 - wanted, 0), min(wanted, count + 1)
    devices = tuple(HOST if number < start else bisect_right(bounds, _single((number - start) / active)) for number in range(count + 1))
    return Placement(devices[:-1], devices[-1])


def padded(number: int, step: int) -> int:
    return -(-number // step) * step


def row_bytes(elements: int, cache_type: str) -> int:
    """ggml_row_size of ggml/src/ggml.c."""
    block, size = CACHE_TYPES[cache_type]
    return elements // block * size


def _single(number: float) -> float:
    return t.cast(float, struct.unpack("f", struct.pack("f", number))[0])
