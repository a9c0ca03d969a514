# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is left when every model has its least: longer contexts and more requests, fairly, then remembered prompts, then vLLM's caches."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_run import changed, climb
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, vllm_cache_bytes

PROMPTS = (8192, 4096, 2048, 1024, 512, 256)  # MiB of remembered prompts per model; the first is llama-server's default


def share_out(book: Book) -> None:
    """Give away what is free. Where something is short nothing grows."""
    _remember(book, 0.5)  # of a machine that computes in main memory, the longer contexts want their half
    _grow(book)
    _remember(book, 1.0)
    _fill(book)


def _grow(book: Book) -> None:
    """Whoever stands lowest on its ladder goes one rung up, as long as it fits."""
    climbing = {number for number, running in book.running.items() if book.fits(number)}
    while climbing:
        number = min(climbing, key=lambda number: (book.running[number].rung, number))
        running = book.running[number]
        if running.rung + 1 < len(running.wish.ladder):
            book.running[number] = climb(book, number, running.wish, running.gpus, running.settings, rung=running.rung + 1)
            if book.fits(number):
                continue
            book.running[number] = running
        climbing.remove(number)


def _remember(book: Book, part: float) -> None:
    """The same amount for every model that leaves it to us, all of them together within ``part`` of main memory's room."""
    ours = {number: running for number, running in book.running.items() if "cache_ram" in running.wish.free}
    _set_prompts(book, list(ours), 0)
    room = book.free(RAM)
    for size in PROMPTS:
        _set_prompts(book, list(ours), size)
        if book.free(RAM) >= max(room * (1 - part), 0):
            return
    _set_prompts(book, list(ours), 0)


def _set_prompts(book: Book, numbers: list[int], size: int) -> None:
    for number in numbers:
        running = book.running[number]
        if isinstance(running.settings, LlamaSettings) and running.settings.cache_ram != size:
            book.running[number] = changed(running, replace(running.settings, cache_ram=size))


def _fill(book: Book) -> None:
    """vLLM's engines share what is left of a GPU: equal parts, and what one cannot use is for the others.

    Without GPUs they share half of what is left of main memory, of which the system remembers files as well.
    """
    kept = max(book.free(RAM), 0) // 2
    waiting = {number for number, running in book.running.items() if "kv_cache_memory" in running.wish.free}
    while waiting:
        offers = {number: _offer(book, number, waiting, kept) for number in waiting}
        number = min(waiting, key=lambda number: (offers[number], number))
        waiting.remove(number)
        running, settings = book.running[number], book.running[number].settings
        if isinstance(settings, VllmSettings) and settings.kv_cache_bytes is not None and offers[number] > 0:
            most = vllm_cache_bytes(running.wish.shape, settings, running.wish.most_parallel)
            size = min((settings.kv_cache_bytes + offers[number]) // MIB * MIB, most)
            if size > settings.kv_cache_bytes:
                book.running[number] = changed(running, replace(settings, kv_cache_bytes=size))


def _offer(book: Book, number: int, waiting: set[int], kept: int) -> int:
    """Bytes on each of its GPUs; the fullest decides. Without GPUs of main memory, less what is ``kept`` of it."""
    if not book.running[number].gpus:
        return (book.free(RAM) - kept) // len(waiting)
    return min(book.free(PLACE.format(index)) // sum(index in book.running[other].gpus for other in waiting) for index in book.running[number].gpus)
