# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The estimates turned round: from the room that there is to the settings that fit into it.

Every answer is found by asking the estimate itself. Where more of a setting always takes more memory it is found by halving, elsewhere by trying
the few values that there are. ``None`` says that nothing fits.
"""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MemoryEstimate
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings, llama_memory
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, tensor_parallel_reason, vllm_cache_bytes, vllm_memory

Settings = t.Union[LlamaSettings, VllmSettings]

CACHE_TYPES = ("f16", "q8_0", "q4_0")  # of llama.cpp, from the best to the cheapest that is of use
CONTEXT_STEP = 256  # tokens; llama.cpp rounds its cache up to that
_SPLIT_ROUNDS = 6


@dataclass(frozen=True)
class Room:
    """Bytes that one model may take: on each of its GPUs in its order, and in main memory (None: as much as it likes)."""

    devices: tuple[int, ...]
    host: int | None = None


def memory(shape: ModelShape, settings: Settings) -> MemoryEstimate:
    return llama_memory(shape, settings) if isinstance(settings, LlamaSettings) else vllm_memory(shape, settings)


def slack(estimate: MemoryEstimate, room: Room) -> int:
    """What is left in the tightest place; negative: what is short there."""
    left = [have - usage.total for usage, have in zip(estimate.devices, room.devices)]
    if room.host is not None:
        left.append(room.host - estimate.host.total)
    return min(left, default=0)


def fits(shape: ModelShape, settings: Settings, room: Room) -> bool:
    """Settings that the engine refuses do not fit anywhere."""
    try:
        return slack(memory(shape, settings), room) >= 0
    except InputError:
        return False


def with_context(settings: Settings, tokens: int, parallel: int | None = None) -> Settings:
    """The settings for ``tokens`` in each request, and ``parallel`` requests if that is to change too."""
    if isinstance(settings, VllmSettings):
        return replace(settings, max_model_len=tokens, max_num_seqs=parallel or settings.max_num_seqs)
    slots = parallel or settings.parallel
    draft = settings.draft and (settings.draft[0], replace(settings.draft[1], context=tokens * slots, parallel=slots))
    return replace(settings, context=tokens * slots, parallel=slots, draft=draft)


def context_of(settings: Settings) -> int:
    """Tokens of each request."""
    return settings.max_model_len if isinstance(settings, VllmSettings) else settings.context // settings.parallel


def parallel_of(settings: Settings) -> int:
    return settings.max_num_seqs if isinstance(settings, VllmSettings) else settings.parallel


def largest_context(shape: ModelShape, settings: Settings, room: Room, most: int) -> int | None:
    """Tokens for each request, in steps of 256, or ``most`` itself."""
    if fits(shape, with_context(settings, most), room):
        return most
    steps = largest(1, most // CONTEXT_STEP, lambda step: fits(shape, with_context(settings, step * CONTEXT_STEP), room))
    return steps and steps * CONTEXT_STEP


def longest_cached(shape: ModelShape, settings: VllmSettings, size: int, most: int) -> int | None:
    """Tokens of the longest request that a cache of ``size`` bytes on each GPU holds, in steps of 256."""
    steps = largest(1, most // CONTEXT_STEP, lambda step: vllm_cache_bytes(shape, replace(settings, max_model_len=step * CONTEXT_STEP)) <= size)
    return steps and steps * CONTEXT_STEP


def largest_parallel(shape: ModelShape, settings: Settings, room: Room, most: int) -> int | None:
    """Requests at once, with as many tokens for each as the settings say."""
    tokens = context_of(settings)
    return largest(1, most, lambda parallel: fits(shape, with_context(settings, tokens, parallel), room))


def best_cache_type(shape: ModelShape, settings: LlamaSettings, room: Room, types: Sequence[str] = CACHE_TYPES) -> str | None:
    """The first of ``types`` that fits, for keys and values alike."""
    return next((name for name in types if fits(shape, replace(settings, cache_k=name, cache_v=name), room)), None)


def fewest_cpu_moe(shape: ModelShape, settings: LlamaSettings, room: Room) -> int | None:
    """How many layers' experts have to stay in main memory; counted from the first layer as ``--n-cpu-moe`` does."""
    last = max((number for number, layer in enumerate(shape.layers) if layer.experts), default=-1)
    return fewest(0, last + 1, lambda count: fits(shape, balanced(shape, replace(settings, cpu_moe=count), room), room))


def most_gpu_layers(shape: ModelShape, settings: LlamaSettings, room: Room) -> int | None:
    """How many layers the GPUs can hold, for ``--n-gpu-layers``; one more than the model has is all with the output."""
    most = len(shape.layers) + 1
    kept = fewest(0, most, lambda kept: fits(shape, balanced(shape, replace(settings, gpu_layers=most - kept), room), room))
    return None if kept is None else most - kept


def smallest_tensor_parallel(shape: ModelShape, settings: VllmSettings, room: int, degrees: Iterable[int]) -> int | None:
    """The smallest of ``degrees`` with which each GPU's part fits into ``room`` bytes."""
    possible = (degree for degree in sorted(degrees) if not tensor_parallel_reason(shape, degree))
    return next((degree for degree in possible if fits(shape, replace(settings, tensor_parallel=degree), Room((room,) * degree))), None)


def balanced(shape: ModelShape, settings: LlamaSettings, room: Room) -> LlamaSettings:
    """The split over several devices that leaves most in the tightest one.

    It begins in proportion to the room and moves what is over to where something is left. Layers are whole and the last device has the output
    besides, so the proportion alone is not the answer.
    """
    if len(room.devices) < 2 or settings.split_mode == "none":
        return settings
    parts = [float(max(size, 1)) for size in room.devices]
    best, best_slack = settings, None
    for _round in range(_SPLIT_ROUNDS):
        tried = _split(settings, parts)
        if best_slack is not None and tried.split == best.split:
            break
        estimate = memory(shape, tried)
        left = [have - usage.total for usage, have in zip(estimate.devices, room.devices)]
        if best_slack is None or min(left) > best_slack:
            best, best_slack = tried, min(left)
        mean = sum(left) / len(left)
        used = max(sum(usage.total for usage in estimate.devices), 1)
        share = [part / sum(parts) for part in parts]
        parts = [max(part + (gap - mean) / used, 0.001) for part, gap in zip(share, left)]
    return best


def _split(settings: LlamaSettings, parts: Sequence[float]) -> LlamaSettings:
    """Thousandths: what a preset can show, and equal input gives equal text."""
    whole = sum(parts)
    shares = tuple(round(1000 * part / whole) / 1000 for part in parts)
    shares = tuple(share / shares[0] for share in shares) if len(set(shares)) == 1 else shares
    draft = settings.draft and (settings.draft[0], replace(settings.draft[1], split=shares))
    return replace(settings, split=shares, draft=draft)


def largest(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """The largest number from ``low`` to ``high`` that is good, where all below a good one are good too."""
    if high < low or not good(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def fewest(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """The smallest number from ``low`` to ``high`` that is good, where all above a good one are good too."""
    found = largest(-high, -low, lambda number: good(-number))
    return None if found is None else -found
