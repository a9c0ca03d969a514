# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""llama.cpp's compute buffers: what lives at once in the widest step, on every device and in main memory.

Sources are files of llama.cpp b11434: src/llama-context.cpp (sched_reserve, graph_reserve: buffers are made for a step of `ubatch` tokens of all
slots with a full cache) and those that the graph and its allocation name.
"""

from __future__ import annotations

import functools
from collections import Counter

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import F32, ModelShape, Same, Tensor
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_alloc import Plan, buffers
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_cache import cells, ubatch
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_graph import Builder
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_ops import (
    CELLS,
    ONE,
    OTHER_SLOTS,
    OUTPUTS,
    PAIRS,
    PICKS,
    SLOTS,
    TOKENS,
    WINDOW_CELLS,
    WINDOW_PAIRS,
    Block,
    Way,
)
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_settings import QUANTISED, LlamaSettings, Placement, padded
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_weights import CUDA_ALIGNMENT, PLAIN_ALIGNMENT, Elsewhere, elsewhere, part_name

_ENOUGH = 3  # equal blocks of a device: a fourth finds the same holes as the third
_OFFLOADED_FROM = 32  # tokens (ggml/src/ggml-cuda/ggml-cuda.cu: op_offload_min_batch_size)

_PICKED = 2048  # cells that an indexer picks for a token, in all published models that have one; a shape does not tell (attention.indexer.top_k)

_Step = tuple[Block, int, Elsewhere, bool]  # its device; whether it is the last one of the model


def compute(shape: ModelShape, settings: LlamaSettings, placement: Placement) -> Counter[int]:
    """Bytes by device; HOST is main memory."""
    units = _units(shape, settings)
    steps = _few(Same(shape), placement.layers, settings.cpu_moe, settings.override_tensor)
    plan = _plan(Same(shape), _way(shape, settings, units[TOKENS]), steps, placement.output, pipeline(settings, placement))
    found = Counter(buffers(plan, units, CUDA_ALIGNMENT if settings.cuda else PLAIN_ALIGNMENT))
    indexed = Counter(device for layer, device in zip(shape.trunk, placement.layers) if layer.index_key_length)
    if indexed:  # each has zeros of its own that are there from the beginning, those that were left out too
        indexed.subtract(device for block, device, _moved, _last in steps if block.layer.index_key_length)
        found += Counter({device: count * F32 * units[PICKS] for device, count in indexed.items()})
    return found


def pipeline(settings: LlamaSettings, placement: Placement) -> bool:
    """Whether several devices work on several steps at once (src/llama-context.cpp); then everything that goes to a device is there four times."""
    overrides = settings.cpu_moe or settings.override_tensor
    return len(settings.split) > 1 and settings.split_mode == "layer" and placement.offloaded and not overrides


def outputs(settings: LlamaSettings) -> int:
    """Tokens of one step whose probabilities are kept (tools/server/server-context.cpp, server_output_limits)."""
    if settings.embeddings:
        return ubatch(settings)
    return min(ubatch(settings), settings.parallel * (1 + settings.drafted))


def _units(shape: ModelShape, settings: LlamaSettings) -> dict[str, int]:
    tokens = padded(ubatch(settings), settings.parallel)
    whole = max((cells(settings, layer) for layer in shape.trunk if layer.attention and not layer.window), default=settings.sequence)
    window = max((cells(settings, layer) for layer in shape.trunk if layer.window), default=0)
    if not shape.cached:
        whole = window = tokens
    return {
        ONE: 1,
        TOKENS: tokens,
        OUTPUTS: outputs(settings),
        SLOTS: settings.parallel,
        OTHER_SLOTS: settings.parallel - 1,
        CELLS: whole * settings.streams,
        WINDOW_CELLS: window * settings.streams,
        PAIRS: whole * tokens,
        WINDOW_PAIRS: window * tokens,
        PICKS: min(whole, _PICKED) * tokens,
    }


def _way(shape: ModelShape, settings: LlamaSettings, tokens: int) -> Way:
    """Rotation needs the same length of heads in all layers, which 64 divides (src/llama-kv-cache.cpp: attn_rot_k, attn_rot_v)."""
    keys, values = ({getattr(layer, part) for layer in shape.trunk if layer.attention} for part in ("key_length", "value_length"))
    return Way(
        flash_attention=settings.flash_attention,
        rotate_keys=settings.cache_k in QUANTISED and len(keys) == 1 and not min(keys) % 64 and not shape.mla,
        rotate_values=settings.cache_v in QUANTISED and len(values) == 1 and not min(values) % 64 and not shape.mla,
        convert=settings.cuda and (settings.cache_k != "f16" or settings.cache_v != "f16"),
        cuda=settings.cuda and bool(settings.split),
        offload=settings.cuda and bool(settings.split) and tokens >= _OFFLOADED_FROM,
    )


@functools.lru_cache(maxsize=256)
def _plan(same: Same, way: Way, steps: tuple[_Step, ...], output: int, pipelined: bool) -> Plan:
    shape = same.shape
    builder = Builder(shape, way)
    for block, place, moved, last in steps:
        builder.run(block, place, moved, last)
    has_output = shape.tied or any(tensor.name == "output.weight" for tensor in shape.tensors)
    builder.finish(output, shape.vocabulary if has_output else 0)
    return builder.graph.plan(pipelined)


@functools.lru_cache(maxsize=1024)
def _few(same: Same, places: tuple[int, ...], cpu_moe: int, overrides: tuple[tuple[str, str], ...]) -> tuple[_Step, ...]:
    """The first of a kind on a device, and those before another device's or the end, where operations can slip from one device to the other."""
    moved = elsewhere(same, cpu_moe, overrides)
    every = [(block, places[number], moved[number]) for number, block in enumerate(_blocks(same))]
    seen = Counter[tuple[Block, int, Elsewhere]]()
    steps = []
    for number, step in enumerate(every):
        seen[step] += 1
        ahead = every[number + 1 : number + 1 + _ENOUGH]
        if seen[step] <= _ENOUGH or len(ahead) < _ENOUGH or any(other[1:] != step[1:] for other in ahead):
            steps.append((*step, number == len(every) - 1))
    return tuple(steps)


@functools.lru_cache(maxsize=64)
def _blocks(same: Same) -> tuple[Block, ...]:
    """Of the trunk. Equal ones are one object, which makes comparing them fast."""
    tensors: list[list[Tensor]] = [[] for _layer in same.shape.layers]
    for tensor in same.shape.tensors:
        if tensor.layer is not None:
            tensors[tensor.layer].append(tensor)
    known: dict[Block, Block] = {}
    blocks = []
    for layer, own in zip(same.shape.trunk, tensors):
        block = Block(layer, tuple((part_name(tensor), tensor.shape, tensor.bytes) for tensor in own))
        blocks.append(known.setdefault(block, block))
    return tuple(blocks)
