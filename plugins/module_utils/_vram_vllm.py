# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model needs in vLLM 0.32: one Usage per GPU of its tensor-parallel group, or main memory alone; and what fits into a cache of a size."""

from __future__ import annotations

import math

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import GGUF, Layer, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MemoryEstimate, Usage, shown
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_cache import Pool, pool
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_settings import VllmSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_weights import weights
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_work import compute_bytes, encoder_bytes, host_bytes, overhead_bytes

__all__ = ["VllmSettings", "tensor_parallel_reason", "vllm_cache_bytes", "vllm_cache_tokens", "vllm_memory"]

_PACKED = frozenset({"awq", "gptq", "compressed-tensors"})
_VOCABULARY_STEP = 64
_NCCL_NOTE = "NCCL is counted with 320 MiB per GPU; over NVLink on H100 and later it can take 1 GiB more"
_CPU_NOTE = "scratch is derived from the model's widths, and the processes are counted with 3 GiB"
_WORK_NOTE = "scratch is derived from the model's widths, CUDA graphs and context from published logs: vLLM's own profile at start has the last word"


def vllm_memory(shape: ModelShape, settings: VllmSettings) -> MemoryEstimate:
    """The bytes on each GPU, all alike, and in main memory, or there alone. Recurrent states are in the cache: they come out of the same pool.

    Raises InputError where vLLM would refuse to start.
    """
    _refuse(shape, settings)
    loaded = weights(shape, settings)
    blocks = pool(shape, settings)
    cache = blocks.bytes_for(1) if settings.kv_cache_bytes is None else _whole_blocks(blocks, settings)
    own = loaded.model + loaded.rope
    projector = loaded.projector + (encoder_bytes(shape.projector, settings) if shape.projector else 0)
    if settings.cpu:
        host = Usage(weights=own, cache=cache, compute=compute_bytes(shape, settings), projector=projector, overhead=host_bytes(settings))
        return MemoryEstimate((), host, _notes(shape, settings))
    offloaded = min(settings.cpu_offload_bytes, own)
    device = Usage(
        weights=own - offloaded,
        cache=cache,
        compute=compute_bytes(shape, settings),
        projector=projector,
        overhead=overhead_bytes(shape, settings, blocks.groups),
    )
    host = Usage(weights=offloaded * settings.tensor_parallel, overhead=host_bytes(settings))
    return MemoryEstimate((device,) * settings.tensor_parallel, host, _notes(shape, settings))


def vllm_cache_bytes(shape: ModelShape, settings: VllmSettings, sequences: int = 1) -> int:
    """Per GPU, what so many sequences of max_model_len tokens need, in whole blocks; what ``--kv-cache-memory-bytes`` can be told."""
    _refuse(shape, settings)
    return pool(shape, settings).bytes_for(sequences)


def vllm_cache_tokens(shape: ModelShape, settings: VllmSettings, size: int) -> int:
    """What vLLM prints as ``GPU KV cache size: N tokens`` for so many bytes per GPU; 0 if the model caches nothing."""
    _refuse(shape, settings)
    return pool(shape, settings).tokens_in(size, settings.max_model_len)


def tensor_parallel_reason(shape: ModelShape, degree: int) -> str:
    """Why the model cannot be divided over so many GPUs, as a part of a sentence; empty if it can.

    ModelConfig.verify_with_parallel_config, linear.py (divide), vocab_parallel_embedding.py, mamba_mixer2.py,
    quantization/utils/fp8_utils.py (validate_fp8_block_shape).
    """
    if degree == 1:
        return ""
    for layer in dict.fromkeys(shape.trunk):
        reason = _attention_reason(layer, shape, degree) or _feed_forward_reason(layer, shape, degree)
        if reason:
            return reason
    rows = math.ceil(shape.vocabulary / _VOCABULARY_STEP) * _VOCABULARY_STEP
    if rows % degree:
        return f"a vocabulary of {rows} rows cannot be divided by {degree}"
    return _state_reason(shape, degree)


def _attention_reason(layer: Layer, shape: ModelShape, degree: int) -> str:
    if layer.heads % degree:
        return f"{layer.heads} attention heads cannot be divided by {degree}"
    if layer.attention and not shape.mla and layer.kv_heads % degree and degree % layer.kv_heads:
        return f"{layer.kv_heads} key and value heads can neither be divided by {degree} nor repeated evenly"
    return ""


def _feed_forward_reason(layer: Layer, shape: ModelShape, degree: int) -> str:
    """MXFP4 is padded; other quantized weights must be divided between groups of weights that share a scale."""
    quantization = shape.quantization
    group = quantization.group if quantization.method in _PACKED or quantization.type == "fp8-block" else 0
    for width, what in ((layer.feed_forward, "a feed-forward network"), (layer.expert_feed_forward if layer.experts else 0, "experts")):
        if width % degree and quantization.method != "mxfp4":
            return f"{what} of width {width} cannot be divided by {degree}"
        if group and width // degree % group:
            return f"{what} of width {width} divided by {degree} does not come out in whole groups of {group} quantized weights"
    return ""


def _state_reason(shape: ModelShape, degree: int) -> str:
    state = shape.state
    if not state:
        return ""
    heads = state.inner if state.kind in ("mamba", "shortconv") else state.heads
    if heads % degree:
        return f"{heads} channels or heads of the recurrent layers cannot be divided by {degree}"
    if state.groups > 1 and state.groups % degree:
        return f"{state.groups} groups of the recurrent layers cannot be divided by {degree}"
    return ""


def _refuse(shape: ModelShape, settings: VllmSettings) -> None:
    name = shape.name or "the model"
    if shape.format == GGUF:
        raise InputError(f"vLLM: {name} is a GGUF file, which vLLM 0.32 reads only with a plugin. Use the safetensors of the model, or llama.cpp.")
    reason = tensor_parallel_reason(shape, settings.degree)
    if reason:
        raise InputError(f"vLLM: tensor_parallel is {settings.degree}, but {reason} ({name}). Choose another number of GPUs.")


def _whole_blocks(blocks: Pool, settings: VllmSettings) -> int:
    """Of kv_cache_bytes, what vLLM really allocates."""
    told, needed = settings.kv_cache_bytes or 0, blocks.bytes_for(1)
    if told < needed:
        text = f"one sequence of {settings.max_model_len} tokens needs {shown(needed)}. Lower max_model_len, or give it more"
        raise InputError(f"vLLM: kv_cache_bytes is {told} ({shown(told)}), but {text}.")
    return told // blocks.block_bytes * blocks.block_bytes if blocks.block_bytes else 0


def _notes(shape: ModelShape, settings: VllmSettings) -> tuple[str, ...]:
    notes = [_CPU_NOTE if settings.cpu else _WORK_NOTE]
    if settings.tensor_parallel * settings.hosts > 1 and not settings.cpu:
        notes.append(_NCCL_NOTE)
    if shape.projector:
        notes.append("the scratch of the encoder of images is an upper bound")
    notes += [f"not counted: {sentence}" for sentence in shape.undescribed]
    return tuple(notes)
