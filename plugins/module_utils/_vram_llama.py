# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama-server b11434 takes for one model, device by device, before anything is loaded.

Weights, cache, state and compute buffers are reckoned as llama.cpp does it (see the modules of that name); the oracle in tests/bench/vram holds
them to it. What stands here is the rest: the process around them, an encoder of images or sound, a draft model. Those are estimates, and say so.
"""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import F16, F32, ModelShape, Projector
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB, MemoryEstimate, Usage
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_cache import cache, state, ubatch
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_compute import compute, outputs
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_settings import HOST, LlamaSettings, Placement, place
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_weights import weights

__all__ = ["ASLEEP", "LlamaSettings", "llama_memory"]

CONTEXT = 450 * MIB  # of CUDA's driver on each device: seen in nvidia-smi for an empty process
LIBRARIES = 150 * MIB  # on the first device: kernels and cuBLAS, once they were used
ASLEEP = CONTEXT + LIBRARIES  # what a sleeping llama-server keeps
_HOST_CUDA = 256 * MIB  # of main memory: the driver's part and pinned buffers
_TOKEN = 400  # bytes of main memory for one token of the vocabulary: its text, its place in two tables and the merges (src/llama-vocab.cpp)

# Patches that llama.cpp makes room for when an encoder starts that takes images of any size (tools/mtmd/clip.cpp: set_warmup_n_tokens).
_PATCHES = {"pixtral": 4 * 16 * 16, "qwen2vl_merger": 4 * 46 * 46, "qwen2.5vl_merger": 4 * 46 * 46, "qwen3vl_merger": 4 * 46 * 46}
_OTHER_PATCHES = 4 * 46 * 46
# Models whose blocks are like no others: their compute buffers are larger than estimated.
_OWN_WAYS = frozenset(("cogvlm", "deepseek4", "glm5-next", "kimi-k3", "qwen4exp"))
_WINDOWED = ("qwen2.5vl_merger",)  # encoders with a mask of every patch against every other


def llama_memory(shape: ModelShape, settings: LlamaSettings) -> MemoryEstimate:
    """Bytes in every device of ``settings.split``, used or not, and in main memory.

    Weights in main memory are counted in full, though a mapped file gives its pages back under pressure. Raises InputError for what llama.cpp
    refuses. What CUDA adds to the compute buffers (copies of a quantised cache, of weights in main memory, of what it fuses) is derived from its
    source; the oracle, which has no GPU, cannot show it.
    """
    if shape.architecture == "grok":
        settings = replace(settings, flash_attention=False)  # llama_init_from_model of src/llama-context.cpp
    settings.check(shape)
    placement = place(shape, settings)
    places = (HOST, *range(len(settings.split)))
    terms = {
        "weights": weights(shape, settings, placement),
        "cache": cache(shape, settings, placement),
        "state": state(shape, settings, placement),
        "compute": compute(shape, settings, placement),
        "projector": _projector(shape, settings),
        "draft": _draft(settings),
        "overhead": _overhead(shape, settings, placement),
        "prompts": {HOST: max(0, settings.cache_ram) * MIB},
    }
    found = [Usage(**{name: sizes.get(number, 0) for name, sizes in terms.items()}) for number in places]
    return MemoryEstimate(tuple(found[1:]), found[0], _notes(shape, settings))


def _overhead(shape: ModelShape, settings: LlamaSettings, placement: Placement) -> dict[int, int]:
    """Of the process: what the driver and the libraries take, in main memory the vocabulary and the rows of results (llama_context::output_reserve).

    CUDA's kernels also convert what they multiply: a row of inputs and one of outputs per token in F16, of the widest product (ggml/src/ggml-cuda,
    ggml_cuda_pool_vmm).
    """
    embedded = shape.embedding_length if settings.embeddings else 0
    found = {HOST: F32 * outputs(settings) * (shape.vocabulary + embedded) + _TOKEN * shape.vocabulary}
    if settings.cuda and settings.split:
        used = {*placement.layers, placement.output} - {HOST}
        if settings.split_mode == "layer":
            used |= set(range(len(settings.split)))  # the others have a context, too
        pool = F16 * ubatch(settings) * max(_widest(shape), default=0)
        found[HOST] += _HOST_CUDA
        for device in used or {settings.main_gpu}:
            found[device] = CONTEXT + pool
        first = min(used, default=settings.main_gpu)
        found[first] += LIBRARIES
    return found


def _widest(shape: ModelShape) -> t.Iterator[int]:
    for layer in set(shape.trunk):
        yield shape.embedding_length + max(layer.feed_forward, layer.heads * layer.key_length)
        yield layer.experts_used * (shape.embedding_length + layer.expert_feed_forward)


def _projector(shape: ModelShape, settings: LlamaSettings) -> dict[int, int]:
    """The encoder's weights, its scratch memory for the image that llama.cpp starts with, and that image in main memory.

    Scratch is fitted, rows of F32 per patch: the feed-forward network's and three of the width; three and four where it is gated; and one of the
    width for every layer that is passed on (deepstack). The residual against what mtmd_get_memory_usage says is -1 to +16 % of it (4 encoders).
    """
    encoder = shape.projector
    if not encoder:
        return {}
    names = [tensor.name for tensor in encoder.tensors]
    if any("ffn_gate" in name for name in names):
        rows = 3 * encoder.feed_forward + 4 * encoder.embedding_length
    else:
        deep = len({name.split(".")[2] for name in names if "deepstack" in name})
        rows = encoder.feed_forward + (3 + deep + (deep > 0)) * encoder.embedding_length
    patches = _patches(encoder)
    mask = F32 * patches * patches if encoder.type in _WINDOWED else 0
    size = encoder.bytes + F32 * patches * rows + mask
    if not (settings.split and settings.mmproj_offload):
        return {HOST: size}
    return {settings.main_gpu: size, HOST: F32 * 3 * patches * encoder.patch_size**2 + mask}


def _patches(encoder: Projector) -> int:
    if encoder.type in _PATCHES:
        return _PATCHES[encoder.type]
    if not encoder.image_size or not encoder.patch_size:
        return _OTHER_PATCHES
    return (encoder.image_size // encoder.patch_size) ** 2


def _draft(settings: LlamaSettings) -> dict[int, int]:
    """All that a draft model takes beside the model, in the same process: without another CUDA context or another memory of prompts."""
    if not settings.draft:
        return {}
    shape, own = settings.draft
    estimate = llama_memory(shape, replace(own, cache_ram=0))
    sizes = {number: usage.total - usage.overhead for number, usage in enumerate(estimate.devices)}
    return {HOST: estimate.host.total, **sizes}


def _notes(shape: ModelShape, settings: LlamaSettings) -> tuple[str, ...]:
    notes = list(shape.undescribed)
    if settings.split_mode in ("row", "tensor") and len(settings.split) > 1:
        notes.append(f"split_mode {settings.split_mode} divides every matrix over the devices; it is counted as if whole layers were divided.")
    if shape.architecture in _OWN_WAYS:
        notes.append(f"The compute buffers of {shape.architecture} are larger than estimated: its blocks are described only in part.")
    elif any(layer.index_key_length for layer in shape.trunk):
        notes.append("The compute buffers of the indexer are estimated, for 2048 cells that it picks.")
    if shape.projector:
        notes.append("The encoder's scratch memory is that of the image it starts with; a larger one takes more.")
    return tuple(notes)
