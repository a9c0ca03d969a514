# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tensor llama.cpp loads where, and what it takes there.

Sources are files of llama.cpp b11434: src/llama-arch.cpp (LLM_TENSOR_INFOS: input, output or repeating), src/llama-model-loader.cpp
(create_tensor: overrides, tensors that are loaded twice), ggml/src/ggml-alloc.c (tensors of a buffer one after the other, aligned).
"""

from __future__ import annotations

import functools
import math
import re
import typing as t
from collections import Counter
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape, Same, Tensor
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_settings import HOST, LlamaSettings, Placement, padded

# The start of the names of tensors that are there once. What is in none of these lists is loaded with the first block.
_INPUT = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.", "masked_embd")
_OUTPUT = (
    *("output", "cls", "dense_2.", "dense_3.", "altup_", "enc.output_norm", "dec.output_norm", "nextn.post_projection", "decision."),
    *("fc.", "d2t", "markov_", "conf_proj", "selector_"),  # of draft models
)
_EVERYWHERE = ("rope_freqs.", "rope_factors_")  # once on every device that has blocks
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")  # common/common.h: LLM_FFN_EXPS_REGEX
_UNUSED = re.compile(r"cross_attn_rel_b|masked_embd")  # GGML_OP_NONE in LLM_TENSOR_INFOS: llama.cpp passes them over
_WHOLE = frozenset(("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"))

CUDA_ALIGNMENT = 128  # ggml_backend_cuda_buffer_type_get_alignment of ggml/src/ggml-cuda/ggml-cuda.cu
_CUDA_ROW = 512  # MATRIX_ROW_PADDING of ggml/src/ggml-cuda/common.cuh, elements
PLAIN_ALIGNMENT = 32  # TENSOR_ALIGNMENT of ggml/src/ggml-impl.h


@dataclass(frozen=True)
class _Sums:
    """Bytes of a model's tensors, by where llama.cpp would load them if it had no override."""

    input: int
    output: int
    output_tied: int  # the embedding once more
    everywhere: int
    blocks: tuple[int, ...]
    experts: tuple[int, ...]  # of them, what --n-cpu-moe moves


def weights(shape: ModelShape, settings: LlamaSettings, placement: Placement) -> Counter[int]:
    """Bytes by device; HOST is main memory. Drafting blocks (MTP) are not loaded, as nothing here asks for them."""
    if settings.override_tensor:
        return _overridden(Same(shape), placement, settings.override_tensor, settings.cpu_moe, settings.cuda)
    found: Counter[int] = Counter()
    for device in {HOST, placement.output, *placement.layers}:
        sums = _sums(Same(shape), settings.cuda and device != HOST)
        found[device] += sums.input * (device == HOST) + sums.output * (device == placement.output)
        found[device] += sums.output_tied * (device == placement.output != HOST)
        found[device] += sums.everywhere * (device in placement.layers)
    kinds = {device: _sums(Same(shape), settings.cuda and device != HOST) for device in found}
    for number, device in enumerate(placement.layers):
        kept = number < settings.cpu_moe
        found[device] += kinds[device].blocks[number] - kept * kinds[device].experts[number]
        found[HOST] += kept * kinds[HOST].experts[number]
    return found


@functools.lru_cache(maxsize=64)
def _sums(same: Same, cuda: bool) -> _Sums:
    shape = same.shape
    once: Counter[str] = Counter()
    blocks, experts = [0] * len(shape.layers), [0] * len(shape.layers)
    for tensor in _loaded(shape):
        size = tensor_bytes(tensor, cuda)
        where = _where(shape, tensor)
        if isinstance(where, str):
            once[where] += size
        else:
            blocks[where] += size
            experts[where] += size * bool(_EXPERTS.search(tensor.name))
    tied = sum(tensor_bytes(tensor, cuda) for tensor in _tied(shape))
    return _Sums(once["input"], once["output"], tied, once["everywhere"], tuple(blocks), tuple(experts))


@functools.lru_cache(maxsize=256)
def _overridden(same: Same, placement: Placement, overrides: tuple[tuple[str, str], ...], cpu_moe: int, cuda: bool) -> Counter[int]:
    patterns = [(re.compile(pattern), target(buffer)) for pattern, buffer in overrides]
    used = set(placement.layers)
    found: Counter[int] = Counter()

    def add(tensor: Tensor, *devices: int) -> None:
        if tensor.layer is not None and tensor.layer < cpu_moe and _EXPERTS.search(tensor.name):
            devices = (HOST,)
        else:
            devices = next(((place,) for pattern, place in patterns if pattern.search(tensor.name)), devices)
        for device in devices:
            found[device] += tensor_bytes(tensor, cuda and device != HOST)

    for tensor in _loaded(same.shape):
        where = _where(same.shape, tensor)
        if where == "input":
            add(tensor, HOST)
        elif where == "output":
            add(tensor, placement.output)
        elif where == "everywhere":
            add(tensor, *used)
        else:
            add(tensor, placement.layers[t.cast(int, where)])
    for tensor in _tied(same.shape):
        if placement.output != HOST:
            add(tensor, placement.output)
    return found


Elsewhere = frozenset[tuple[str, int]]  # tensors of a block, by their names in it, and the devices that options send them to


@functools.lru_cache(maxsize=256)
def elsewhere(same: Same, cpu_moe: int, overrides: tuple[tuple[str, str], ...]) -> tuple[Elsewhere, ...]:
    """Of every block. The first option that fits a tensor decides."""
    found = [dict.fromkeys(names if number < cpu_moe else (), HOST) for number, names in enumerate(_experts(same))]
    patterns = [(re.compile(pattern), target(buffer)) for pattern, buffer in overrides]
    for tensor in same.shape.tensors if patterns else ():
        device = next((place for pattern, place in patterns if pattern.search(tensor.name)), None)
        if tensor.layer is not None and device is not None:
            found[tensor.layer].setdefault(part_name(tensor), device)
    return tuple(frozenset(devices.items()) for devices in found)


@functools.lru_cache(maxsize=64)
def _experts(same: Same) -> tuple[frozenset[str], ...]:
    """Of each block."""
    found: list[set[str]] = [set() for _layer in same.shape.layers]
    for tensor in same.shape.tensors:
        if tensor.layer is not None and _EXPERTS.search(tensor.name):
            found[tensor.layer].add(part_name(tensor))
    return tuple(frozenset(names) for names in found)


def part_name(tensor: Tensor) -> str:
    """``blk.7.attn_q.weight`` is ``attn_q.weight`` of its block."""
    return tensor.name.split(".", 2)[-1]


def target(buffer: str) -> int:
    """The device that an override names: the number at the end of CUDA1, or main memory."""
    number = re.fullmatch(r"[A-Za-z]*(\d+)", buffer)
    if not number and not buffer.startswith("CPU"):
        raise InputError(f"override_tensor sends tensors to {buffer!r}: write CPU or a device such as CUDA0.")
    return int(number[1]) if number else HOST


def tensor_bytes(tensor: Tensor, cuda: bool) -> int:
    """In a buffer. CUDA has room for whole rows of 512 behind a quantised tensor (ggml_backend_cuda_buffer_type_get_alloc_size)."""
    if not cuda:
        return padded(tensor.bytes, PLAIN_ALIGNMENT)
    missing = -tensor.shape[-1] % _CUDA_ROW if tensor.shape and tensor.type not in _WHOLE else 0
    return padded(tensor.bytes + missing * tensor.bytes // math.prod(tensor.shape), CUDA_ALIGNMENT)


def _loaded(shape: ModelShape) -> t.Iterator[Tensor]:
    drafts = {number for number, layer in enumerate(shape.layers) if layer.draft}
    return (tensor for tensor in shape.tensors if tensor.layer not in drafts and not _UNUSED.search(tensor.name))


def _tied(shape: ModelShape) -> t.Iterator[Tensor]:
    """The embedding, where it is loaded once more as the output. gemma-embedding does that though it has no use for an output."""
    twice = shape.tied or shape.architecture == "gemma-embedding"
    return (tensor for tensor in shape.tensors if twice and tensor.name == "token_embd.weight")


def _where(shape: ModelShape, tensor: Tensor) -> str | int:
    if tensor.layer is not None:
        return tensor.layer
    if tensor.name.startswith("token_embd_norm.") and shape.architecture.startswith("lfm2"):
        return "output"  # LLM_TENSOR_OUTPUT_NORM_LFM2: the name means another norm there
    for place, names in (("input", _INPUT), ("output", _OUTPUT), ("everywhere", _EVERYWHERE)):
        if tensor.name.startswith(names):
            return place
    return 0
