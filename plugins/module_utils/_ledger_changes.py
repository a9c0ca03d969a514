# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What could be changed in a placement that does not fit. These are proposals; whether one helps, planning again says."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_auto import PROMPTS
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book, Running
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import FIRST_CONTEXT
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB, mib
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import (
    Room,
    Settings,
    balanced,
    context_of,
    fewest_cpu_moe,
    largest_context,
    largest_parallel,
    longest_cached,
    most_gpu_layers,
    parallel_of,
)
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings

MODELS_MAX = "llm_models_max"
_FP8 = (8, 9)  # compute capability from which GPUs compute with it
_CONTEXT_STEP = 1024  # what people write

# What is lost, from nothing to much: the order in which changes are offered.
MOVE, PROMPT_CACHE, LET_US, Q8, SPREAD, FEWER, SHORTER, SPREAD_SHORTER, ONE_LESS, EXPERTS, LAYERS, Q4 = range(12)


@dataclass(frozen=True)
class Proposal:
    """New options for one demand, or with ``number`` None new variables of the host for the router ``service``."""

    number: int | None
    values: Mapping[str, t.Any]
    loss: int
    remark: str = ""
    service: str = ""


def proposals(book: Book, place: str) -> Iterator[Proposal]:
    """Single changes to the models there, the largest model first."""
    there = (number for number, running in book.running.items() if running.at(place).total)
    for number in sorted(there, key=lambda number: -book.running[number].at(place).total):
        if book.free_without(place, number) < 0:
            continue  # not even without the model there would be enough
        running = book.running[number]
        room = book.rooms(number, running.wish, running.gpus)
        yield from _elsewhere(book, number, place)
        if isinstance(running.settings, LlamaSettings):
            yield from _llama(number, running, running.settings, room, place)
        else:
            yield from _vllm(book, number, running, running.settings)
        yield from _smaller(number, running, room)
    yield from _fewer_models(book, place)


def steps(book: Book, place: str) -> Iterator[Proposal]:
    """Changes to be made one on top of the other: of each kind to all models there, before the next kind."""
    there = [number for number, running in sorted(book.running.items()) if running.at(place).total]
    singles = {number: list(_least(number, book.running[number])) for number in there}
    for loss in range(Q4 + 1):
        yield from (step for number in there for step in singles[number] if step.loss == loss)


def _least(number: int, running: Running) -> Iterator[Proposal]:
    settings = running.settings
    if isinstance(settings, LlamaSettings):
        if _plain(settings) and "kv_cache" not in running.wish.free:
            yield Proposal(number, _cache(running, "q8_0"), Q8)
        if running.gpus and settings.cpu_moe == 0 and running.wish.shape.experts and "n_cpu_moe" not in running.wish.free:
            yield Proposal(number, {"n_cpu_moe": "auto"}, EXPERTS)
        if running.gpus and "gpu_layers" not in running.wish.free:
            yield Proposal(number, {"gpu_layers": "auto"}, LAYERS)
    if "parallel" not in running.wish.free and parallel_of(settings) > 1:
        yield Proposal(number, {"parallel": 1}, FEWER)
    if "context" not in running.wish.free and context_of(settings) > FIRST_CONTEXT:
        yield Proposal(number, {"context": FIRST_CONTEXT}, SHORTER)


def _elsewhere(book: Book, number: int, place: str) -> Iterator[Proposal]:
    """On the GPU with the most room instead, or besides. What we placed ourselves has been tried everywhere."""
    running = book.running[number]
    others = [device.index for device in book.machine.gpus if device.index not in running.gpus]
    if running.wish.gpus is None or not others:
        return
    service = running.wish.demand.service
    rooms = {index: book.room(PLACE.format(index), number, service) for index in others}
    best = max(others, key=lambda index: (rooms[index], -index))
    split = {"tensor_split": "auto"} if running.wish.demand.options.get("tensor_split") else {}
    if len(running.gpus) == 1 or place == RAM:
        yield Proposal(number, {"gpus": [best], **split}, MOVE, f", which has {_gib(rooms[best])} of room")
    if running.gpus:
        more = tuple(sorted([*running.gpus, best]))
        yield Proposal(number, {"gpus": list(more), **split}, SPREAD)
        yield from _spread_and_shorter(book, number, more, split)


def _spread_and_shorter(book: Book, number: int, gpus: tuple[int, ...], split: Mapping[str, str]) -> Iterator[Proposal]:
    """Over more GPUs, with as much context as fits there."""
    running = book.running[number]
    settings = running.settings
    if not isinstance(settings, LlamaSettings) or "context" in running.wish.free:
        return
    room = book.rooms(number, running.wish, gpus)
    tokens = settings.context // settings.parallel
    spread = balanced(running.wish.shape, replace(settings, split=(1.0,) * len(gpus)), room)
    shorter = largest_context(running.wish.shape, spread, room, tokens - 1) or 0
    if shorter >= FIRST_CONTEXT:
        values = {"gpus": list(gpus), "context": shorter // _CONTEXT_STEP * _CONTEXT_STEP, **split}
        yield Proposal(number, values, SPREAD_SHORTER, f" instead of {tokens}")


def _llama(number: int, running: Running, settings: LlamaSettings, room: Room, place: str) -> Iterator[Proposal]:
    wish, shape = running.wish, running.wish.shape
    if place == RAM and "cache_ram" not in wish.free and settings.cache_ram:
        most = (room.host or 0) // MIB - mib(running.estimate.host.total) + settings.cache_ram
        yield from (Proposal(number, {"cache_ram": size}, PROMPT_CACHE) for size in [size for size in (*PROMPTS, 0) if size <= most][:1])
    if "kv_cache" not in wish.free and _plain(settings):
        yield Proposal(number, _cache(running, "q8_0"), Q8)
    if settings.cache_v != "q4_0":
        yield Proposal(number, _cache(running, "q4_0"), Q4, ", which costs quality with long contexts")
    devices = Room(room.devices)
    if running.gpus and shape.experts and not settings.override_tensor and "n_cpu_moe" not in wish.free:
        found = fewest_cpu_moe(shape, settings, devices)
        if found is not None and found != settings.cpu_moe:
            yield Proposal(number, {"n_cpu_moe": found, **({"cpu_moe": False} if wish.demand.options.get("cpu_moe") else {})}, EXPERTS)
    if running.gpus and "gpu_layers" not in wish.free and not (shape.experts and "n_cpu_moe" in wish.free and settings.cpu_moe == 0):
        layers = most_gpu_layers(shape, settings, devices)
        if layers and layers <= len(shape.layers):
            yield Proposal(number, {"gpu_layers": layers}, LAYERS, f" of {len(shape.layers)}, the rest is computed in main memory, slowly")


def _vllm(book: Book, number: int, running: Running, settings: VllmSettings) -> Iterator[Proposal]:
    wish = running.wish
    fixed = next((word for word in ("kv_cache_memory", "gpu_memory_utilization") if wish.demand.options.get(word) not in (None, "auto")), "")
    if fixed:
        yield Proposal(number, {fixed: "auto"}, LET_US)
    if wish.tensor_parallel and wish.gpus is None:
        yield Proposal(number, {"tensor_parallel": "auto"}, LET_US)
    elif wish.tensor_parallel and wish.gpus is not None and len(wish.gpus) > wish.tensor_parallel:
        yield Proposal(number, {"tensor_parallel": len(wish.gpus)}, SPREAD)
    capabilities = [book.devices[PLACE.format(index)].compute_capability for index in running.gpus]
    if running.gpus and settings.kv_cache_dtype in ("auto", "bfloat16", "float16") and all(_capability(text) >= _FP8 for text in capabilities):
        yield Proposal(number, {"kv_cache": "fp8"}, Q8)


def _smaller(number: int, running: Running, room: Room) -> Iterator[Proposal]:
    """Fewer requests or a shorter context, where the user wrote them: the most that fits."""
    wish = running.wish
    settings = _unfilled(running.settings)
    if "parallel" not in wish.free and isinstance(settings, LlamaSettings) and "context" not in wish.free and settings.parallel > 1:
        fewer = largest_parallel(wish.shape, settings, room, settings.parallel - 1)
        if fewer:
            yield Proposal(number, {"parallel": fewer}, FEWER, f" instead of {settings.parallel}")
    tokens = context_of(settings)
    if "context" not in wish.free and tokens > FIRST_CONTEXT:
        shorter = largest_context(wish.shape, settings, room, tokens - 1) or 0
        if isinstance(running.settings, VllmSettings) and running.lacking:
            shorter = longest_cached(wish.shape, running.settings, running.settings.kv_cache_bytes or 0, tokens - 1) or 0
        if shorter >= FIRST_CONTEXT:
            yield Proposal(number, {"context": shorter // _CONTEXT_STEP * _CONTEXT_STEP}, SHORTER, f" instead of {tokens}")


def _fewer_models(book: Book, place: str) -> Iterator[Proposal]:
    """A router that holds fewer models at once."""
    services: dict[str, int] = {}
    for running in book.running.values():
        if isinstance(running.settings, LlamaSettings) and running.at(place).total:
            services[running.wish.demand.service] = services.get(running.wish.demand.service, 0) + 1
    for service, there in services.items():
        if re.search(r"-\d+$", service):
            continue  # with a port of its own it is not the one that the variable limits
        limit = min(book.models_max.get(service) or there, there)
        for fewer in range(limit - 1, 0, -1):
            tried = Book(book.machine, {**book.models_max, service: fewer}, book.budgets, book.policy, book.running)
            if tried.free(place) >= 0:
                remark = f" of the router {service}: a request for another model waits until one is unloaded"
                yield Proposal(None, {MODELS_MAX: fewer}, ONE_LESS, remark, service)
                break


def _unfilled(settings: Settings) -> Settings:
    return replace(settings, kv_cache_bytes=None) if isinstance(settings, VllmSettings) else settings


def _plain(settings: LlamaSettings) -> bool:
    return settings.cache_k in ("f32", "f16", "bf16") and settings.cache_v in ("f32", "f16", "bf16")


def _cache(running: Running, name: str) -> dict[str, str]:
    """Under the word that the user wrote, so that the change takes effect."""
    options = running.wish.demand.options
    halves = [word for word in ("kv_cache_k", "kv_cache_v") if options.get(word)]
    return {"kv_cache_k": name, "kv_cache_v": name} if halves else {"kv_cache": name}


def _capability(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (0,)


def _gib(size: int) -> str:
    return f"{max(size, 0) / 2**30:.1f} GiB"
