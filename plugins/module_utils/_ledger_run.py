# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One wish on certain GPUs and on a certain rung of its ladder: its settings with every value, and what they take."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book, Running
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_vllm import batched_tokens
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Wish, named
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Settings, balanced, memory, with_context
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, vllm_cache_bytes, vllm_memory


def start(book: Book, number: int, wish: Wish, gpus: tuple[int, ...], rung: int) -> Running:
    with named(book.machine.host, wish.demand.model):
        return climb(book, number, wish, gpus, _on(wish, book, gpus), rung=rung)


def climb(book: Book, number: int, wish: Wish, gpus: tuple[int, ...], settings: Settings, *, rung: int) -> Running:
    """With these settings on that rung; what depends on the rung and on the room beside the others is found anew."""
    if isinstance(settings, VllmSettings):
        return _vllm(book, wish, gpus, t.cast(VllmSettings, at_rung(wish, settings, rung)), rung)
    found = at_rung(wish, settings, rung)
    if len(gpus) > 1 and "tensor_split" in wish.free and isinstance(found, LlamaSettings):
        found = balanced(wish.shape, found, book.rooms(number, wish, gpus))
    return Running(wish, gpus, found, rung, memory(wish.shape, found))


def changed(running: Running, settings: Settings) -> Running:
    """The same with other settings that leave its split as it is."""
    return replace(running, settings=settings, estimate=memory(running.wish.shape, settings))


def at_rung(wish: Wish, settings: Settings, rung: int) -> Settings:
    """With the rung's context and requests. vLLM's share its cache as they come: there a rung says how many of full length are to fit."""
    tokens, parallel = wish.ladder[rung]
    if isinstance(settings, VllmSettings):
        return with_context(settings, tokens)
    if "ubatch" in wish.free:
        settings = replace(settings, ubatch=tokens, batch=max(tokens, settings.batch))
    return with_context(settings, tokens, parallel)


def _on(wish: Wish, book: Book, gpus: tuple[int, ...]) -> Settings:
    settings = wish.settings
    if isinstance(settings, VllmSettings):
        settings = replace(settings, tensor_parallel=max(len(gpus), 1))
        if "max_batched_tokens" in wish.free:
            settings = replace(settings, max_num_batched_tokens=batched_tokens([book.devices[PLACE.format(index)] for index in gpus]))
        return settings
    if "tensor_split" not in wish.free:
        return settings
    split = (1.0,) * len(gpus)
    return replace(settings, split=split, draft=settings.draft and (settings.draft[0], replace(settings.draft[1], split=split)))


def _vllm(book: Book, wish: Wish, gpus: tuple[int, ...], settings: VllmSettings, rung: int) -> Running:
    """The cache holds the rung's requests, or has what the user's own figures leave for it."""
    need = vllm_cache_bytes(wish.shape, settings, wish.ladder[rung][1])
    estimate = vllm_memory(wish.shape, replace(settings, kv_cache_bytes=need))
    have = need
    if wish.utilization is not None:
        smallest = min(book.total(PLACE.format(index)) for index in gpus)
        have = int(smallest * wish.utilization) - max(usage.total - usage.cache for usage in estimate.devices)
    elif isinstance(wish.settings, VllmSettings) and wish.settings.kv_cache_bytes is not None:
        have = wish.settings.kv_cache_bytes
    if have < need:  # vLLM would refuse to start
        have = max(have, 0)
        devices = tuple(replace(usage, cache=have) for usage in estimate.devices)
        host = replace(estimate.host, cache=have) if settings.cpu else estimate.host
        return Running(wish, gpus, replace(settings, kv_cache_bytes=have), rung, replace(estimate, devices=devices, host=host), need - have)
    settings = replace(settings, kv_cache_bytes=have)
    return Running(wish, gpus, settings, rung, vllm_memory(wish.shape, settings))
