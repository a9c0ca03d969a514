# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A deployment as the plan tells it: its options in the catalogue's words, and a sentence for each value that was left to us."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book, Running
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_llama import llama_options
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_run import climb
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_vllm import vllm_options
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM, Deployment
from ansible_collections.baremetal.llm.plugins.module_utils._vram import mib, shown
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Settings, memory
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, tensor_parallel_reason, vllm_cache_tokens


def deployment(book: Book, number: int) -> Deployment:
    running = book.running[number]
    demand = running.wish.demand
    options = options_of(book, running)
    written = {word for word, value in demand.options.items() if value not in (None, "auto")}
    if "kv_cache" in written:
        written |= {"kv_cache_k", "kv_cache_v"}
    if tuple(demand.options.get("gpus") or ()) != running.gpus:
        written -= {"gpus"}  # tensor parallelism may need fewer than it was given
    decided = {word: value for word, value in options.items() if word not in written}
    if isinstance(running.settings, LlamaSettings):
        why = tuple(_llama(book, number, running, running.settings, decided))
    else:
        why = tuple(_vllm(book, number, running, running.settings, decided))
    return Deployment(demand.model, demand.engine, demand.service, running.gpus, decided, options, why, running.estimate)


def options_of(book: Book, running: Running) -> dict[str, t.Any]:
    if isinstance(running.settings, LlamaSettings):
        return llama_options(running.settings, running.gpus, running.wish)
    if not running.gpus:
        return vllm_options(running.settings, (), running.wish, 0, 1)
    pairs = [(usage.total, book.total(PLACE.format(index))) for index, usage in zip(running.gpus, running.estimate.devices)]
    share, total = min(pairs, key=lambda pair: pair[0] / pair[1])
    return vllm_options(running.settings, running.gpus, running.wish, share, total)


def title(place: str) -> str:
    """As sentences call it."""
    return "main memory" if place == RAM else f"GPU {place[3:]}"


def counted(number: int) -> str:
    return f"{number:,}"


def _llama(book: Book, number: int, running: Running, settings: LlamaSettings, decided: t.Mapping[str, t.Any]) -> Iterator[str]:
    gpus, free = running.gpus, running.wish.free
    yield from _where(book, running, decided)
    if len(gpus) > 1 and "tensor_split" in decided:
        yield f"tensor_split: {', '.join(f'{part:g}' for part in settings.split)}, so that the fullest of them has the most left"
    yield from _requests(book, number, running, decided)
    if "kv_cache" in free:
        plain = _missing(book, number, running, replace(settings, cache_k="f16", cache_v="f16"))
        yield "kv_cache: f16, the full quality, fits" if settings.cache_k == "f16" else f"kv_cache: q8_0{_needs(', because f16', plain)}"
    if "n_cpu_moe" in free:
        with_experts = sum(layer.experts > 0 for layer in running.wish.shape.layers)
        if settings.cpu_moe:
            one_less = _missing(book, number, running, replace(settings, cpu_moe=settings.cpu_moe - 1))
            yield f"n_cpu_moe: {settings.cpu_moe}, the experts of that many layers stay in main memory{_needs('; one layer less', one_less)}"
        else:
            yield f"n_cpu_moe: 0, the experts of all {with_experts} layers fit on {_named(gpus)}"
    if "gpu_layers" in free:
        if settings.gpu_layers is None:
            yield f"gpu_layers: all of them fit on {_named(gpus)}"
        else:
            one_more = _missing(book, number, running, replace(settings, gpu_layers=settings.gpu_layers + 1))
            layers = len(running.wish.shape.layers)
            yield f"gpu_layers: {settings.gpu_layers} of {layers}, the rest is computed in main memory{_needs('; one more', one_more)}"
    if "ubatch" in free:
        yield f"ubatch: {settings.ubatch}, because this model reads a request in one step"
    if "cache_ram" in free:
        yield f"cache_ram: {settings.cache_ram} MiB of prompts remembered in main memory{'' if settings.cache_ram else ', which has no room for any'}"


def _vllm(book: Book, number: int, running: Running, settings: VllmSettings, decided: t.Mapping[str, t.Any]) -> Iterator[str]:
    yield from _where(book, running, decided)
    if "tensor_parallel" in decided:
        yield _degree(book, running)
    yield from _requests(book, number, running, decided)
    if "max_batched_tokens" in decided:
        yield f"max_batched_tokens: {settings.max_num_batched_tokens}, vLLM's default {'for this board' if running.gpus else 'without a GPU'}"
    if "kv_cache_memory" in decided and settings.kv_cache_bytes is not None:
        tokens = vllm_cache_tokens(running.wish.shape, settings, settings.kv_cache_bytes)
        others = [other.wish.demand.model for key, other in sorted(book.running.items()) if key != number and _shares(running, other)]
        shared = f", shared evenly with {' and '.join(others)}" if others else ""
        told = f"kv_cache_memory: {shown(settings.kv_cache_bytes)}"
        held = f"{counted(tokens)} tokens of all requests together"
        if not running.gpus:
            yield f"{told} for {held}: at most half of what is left of main memory{shared}"
            return
        yield f"{told} on each GPU for {held}: what is left of {_named(running.gpus)}{shared}"
        yield f"gpu_memory_utilization: {decided['gpu_memory_utilization']}, the share that all of it has of the GPU"


def _where(book: Book, running: Running, decided: t.Mapping[str, t.Any]) -> Iterator[str]:
    if "gpus" not in decided:
        return
    if not running.gpus:
        reason = "the host has no GPU" if not book.machine.gpus else "gpu_layers: 0 leaves nothing for a GPU"
        yield f"gpus: none, {reason}: it runs in main memory"
    elif len(running.gpus) == 1:
        yield f"gpus: {_named(running.gpus)}{', which has the most room' if len(book.machine.gpus) > 1 else ''}"
    else:
        yield f"gpus: {_named(running.gpus)}, because fewer do not hold it"


def _degree(book: Book, running: Running) -> str:
    degree = len(running.gpus)
    if all(book.free(place) >= 0 for place in running.places):
        return f"tensor_parallel: {degree}, {'the smallest degree that fits' if degree > 1 else f'it fits on {_named(running.gpus)}'}"
    if degree > 1:
        return f"tensor_parallel: {degree}, with which it is the least short"
    others = running.wish.gpus or [device.index for device in book.machine.gpus]
    return f"tensor_parallel: 1, {no_tensor_parallel(book, running, others)}"


def no_tensor_parallel(book: Book, running: Running, gpus: t.Sequence[int]) -> str:
    """Why a model is not divided over these GPUs."""
    if len(gpus) < 2:
        return "it may use no second GPU"
    reason = tensor_parallel_reason(running.wish.shape, 2)
    if reason:
        return f"it cannot be divided by 2: {reason}"
    unfit = next((text for named, text in book.machine.unfit if set(named) <= set(gpus)), "")
    return f"the GPUs cannot share a model: {unfit}" if unfit else "more GPUs do not make it fit"


def _requests(book: Book, number: int, running: Running, decided: t.Mapping[str, t.Any]) -> Iterator[str]:
    """Context and parallel, and what the next rung of the ladder would need."""
    ladder, rung = running.wish.ladder, running.rung
    words = [word for word in ("context", "parallel") if word in running.wish.free and word in decided]
    if not words:
        return
    tokens, requests = ladder[rung]
    held = f"each of {requests} requests" if requests > 1 else "one request"
    name = "context" if "context" in words else "parallel"
    if isinstance(running.settings, VllmSettings) and name == "parallel":
        yield f"parallel: {running.settings.max_num_seqs}, vLLM's default; they share the cache as they come"
        return
    if rung + 1 == len(ladder):
        trained = running.wish.shape.context_length
        end = "that is all it was trained for" if name == "context" and tokens == trained else "more is not given by itself"
    else:
        more = climb(book, number, running.wish, running.gpus, running.settings, rung=rung + 1)
        longer = ladder[rung + 1][0] != tokens
        end = _needs(f"{ladder[rung + 1][0 if longer else 1]}{'' if longer else ' requests'}", _short(book, number, more))
    yield f"{name}: {tokens} tokens for {held}{end and '; '}{end}"


def _missing(book: Book, number: int, running: Running, settings: Settings) -> tuple[int, str]:
    try:
        return _short(book, number, replace(running, settings=settings, estimate=memory(running.wish.shape, settings)))
    except InputError:
        return 0, ""


def _short(book: Book, number: int, running: Running) -> tuple[int, str]:
    """The largest shortfall if it ran so, and where."""
    room = book.rooms(number, running.wish, running.gpus)
    gaps = [(usage.total - have, PLACE.format(index)) for index, usage, have in zip(running.gpus, running.estimate.devices, room.devices)]
    gaps.append((running.estimate.host.total - (room.host or 0), RAM))
    return max(gaps, key=lambda gap: gap[0])


def _needs(what: str, gap: tuple[int, str]) -> str:
    """Nothing if it were not short of anything: then the others were not yet settled when it was decided."""
    size, place = gap
    return f"{what} would need {counted(mib(size))} MiB more {'in' if place == RAM else 'on'} {title(place)}" if size > 0 else ""


def _named(gpus: t.Sequence[int]) -> str:
    return f"GPU {gpus[0]}" if len(gpus) == 1 else f"GPUs {', '.join(map(str, gpus[:-1]))} and {gpus[-1]}"


def _shares(one: Running, other: Running) -> bool:
    return "kv_cache_memory" in other.wish.free and (bool(set(one.gpus) & set(other.gpus)) or one.gpus == other.gpus)
