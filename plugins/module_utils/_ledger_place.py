# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where each model goes, and what has to give way so that all of them fit with the least that they are of use with."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book, Running
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_run import at_rung, climb, start
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM, VLLM
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Room, fewest_cpu_moe, most_gpu_layers
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings, tensor_parallel_reason

# Experts that are ours to move make room for conversations of this length, two at once: the speed that a few more on a GPU would give is small.
COMFORTABLE = (16384, 2)  # tokens, requests

Gpus = tuple[int, ...]


def settle(book: Book, wishes: Sequence[Wish]) -> None:
    """Give every wish its GPUs and its lowest rung: first those whose GPUs the user named, a single one before several, then in their order.

    Where that ends short, another order may not: the largest first, and then as far spread as can be. The first that fits counts.
    """
    outcomes = []
    for order, spread in _orders(book, wishes):
        book.running = {}
        for number in order:
            _place(book, number, wishes[number], spread)
        _relieve(book, sorted(book.running))
        outcomes.append((_short(book), book.running))
        if not book.short():
            break
    book.running = min(outcomes, key=lambda outcome: outcome[0])[1]
    if not book.short():
        _restore(book)


def _restore(book: Book) -> None:
    """The full quality back to a cache that gave way before something else made enough room."""
    for number, running in sorted(book.running.items()):
        if "kv_cache" in running.wish.free and isinstance(running.settings, LlamaSettings) and running.settings.cache_k != "f16":
            plain = replace(running.settings, cache_k="f16", cache_v="f16")
            book.running[number] = climb(book, number, running.wish, running.gpus, plain, rung=running.rung)
            if not book.fits(number):
                book.running[number] = running


def _orders(book: Book, wishes: Sequence[Wish]) -> Iterator[tuple[list[int], bool]]:
    numbers = range(len(wishes))
    named = sorted((number for number in numbers if wishes[number].gpus is not None), key=lambda number: len(wishes[number].gpus or ()))
    ours = [number for number in numbers if wishes[number].gpus is None]
    yield [*named, *ours], False
    if ours and len(book.machine.gpus) > 1:
        largest_first = sorted(ours, key=lambda number: -wishes[number].shape.bytes)
        yield [*named, *largest_first], False
        yield [*named, *largest_first], True


def _short(book: Book) -> int:
    return sum(max(-book.free(place), 0) for place in book.places)


def fit_for_tensor_parallel(book: Book, gpus: Gpus) -> bool:
    return len(gpus) < 2 or any(set(gpus) <= set(able) for able in book.machine.tensor_parallel)


def _place(book: Book, number: int, wish: Wish, spread: bool) -> None:
    """The first candidate on which it fits; failing that the one on which least has to give way, or is least short."""
    before = dict(book.running)
    tried = []
    candidates = list(_candidates(book, number, wish))
    for gpus in candidates[-1:] if spread else candidates:
        book.running[number] = start(book, number, wish, gpus, _lowest(wish))
        if book.fits(number) or (_quantise(book, number) and book.fits(number)):
            return
        tried.append(book.running[number])
    outcomes = []
    for running in tried:
        book.running = {**before, number: running}
        _relieve(book, [number])
        _relieve(book, sorted(before))
        outcomes.append(book.running)
    book.running = min(outcomes, key=lambda outcome: _loss(book, outcome, number))


def _loss(book: Book, outcome: dict[int, Running], number: int) -> tuple[int, int, int, int]:
    """What is short, then layers of experts that moved, then whole layers, then GPUs in use."""
    book.running = outcome
    experts = layers = 0
    for running in outcome.values():
        if isinstance(running.settings, LlamaSettings):
            experts += running.settings.cpu_moe
            layers += 0 if running.settings.gpu_layers is None else len(running.wish.shape.layers) + 1 - running.settings.gpu_layers
    return _short(book), experts, layers, len(outcome[number].gpus)


def _candidates(book: Book, number: int, wish: Wish) -> Iterator[Gpus]:
    """Sets of GPUs, smallest first; of one size the one with the most room."""
    if wish.demand.engine == VLLM and book.machine.gpus:
        yield from _tensor_parallel(book, number, wish)
    elif wish.gpus is not None:
        yield wish.gpus
    else:
        known = tuple(device.index for device in book.machine.gpus)
        yield from (_roomiest(book, number, wish, known, size) for size in range(1, len(known) + 1))


def _tensor_parallel(book: Book, number: int, wish: Wish) -> Iterator[Gpus]:
    """Over GPUs that can, with degrees that divide the model. What the user wrote is tried even so; the plan then says what is wrong with it."""
    allowed = wish.gpus or tuple(device.index for device in book.machine.gpus)
    wanted = wish.tensor_parallel
    where = f"{book.machine.host}: the model {wish.demand.model} has tensor_parallel: {wanted}"
    if wanted and wanted > len(allowed):
        raise InputError(f"{where}, but only {len(allowed)} GPUs to run on ({', '.join(map(str, allowed))}): lower it, or name more GPUs.")
    if wanted and (reason := tensor_parallel_reason(wish.shape, _degree(wish, wanted))):
        raise InputError(f"{where}, but {reason}.")
    if wanted in (None, 1):
        yield _roomiest(book, number, wish, allowed, 1)
    for degree in [wanted] if wanted else range(2, len(allowed) + 1):
        if degree == 1 or tensor_parallel_reason(wish.shape, _degree(wish, degree)):
            continue
        sets = [tuple(index for index in able if index in allowed) for able in book.machine.tensor_parallel]
        found = [_roomiest(book, number, wish, able, degree) for able in sets if len(able) >= degree]
        if not found and wanted:
            found = [_roomiest(book, number, wish, allowed, degree)]
        yield from sorted(found, key=lambda gpus: -min(_rooms(book, number, wish, gpus)))


def _degree(wish: Wish, gpus: int) -> int:
    """Parts of each layer with so many GPUs on this host."""
    return replace(t.cast(VllmSettings, wish.settings), tensor_parallel=gpus).degree


def _roomiest(book: Book, number: int, wish: Wish, gpus: Gpus, size: int) -> Gpus:
    rooms = dict(zip(gpus, _rooms(book, number, wish, gpus)))
    return tuple(sorted(sorted(gpus, key=lambda index: (-rooms[index], index))[:size]))


def _rooms(book: Book, number: int, wish: Wish, gpus: Gpus) -> list[int]:
    return [book.room(PLACE.format(index), number, wish.demand.service) for index in gpus]


def _relieve(book: Book, numbers: Sequence[int]) -> None:
    """What was left to us gives way where something is short: the quality of the cache a little, then speed."""
    for give_way in (_quantise, _move_experts, _move_layers):
        for number in numbers:
            if any(book.free(place) < 0 for place in book.running[number].places):
                give_way(book, number)


def _quantise(book: Book, number: int) -> bool:
    running = book.running[number]
    settings = running.settings
    if not isinstance(settings, LlamaSettings) or "kv_cache" not in running.wish.free or settings.cache_k != "f16":
        return False
    try:
        book.running[number] = climb(book, number, running.wish, running.gpus, replace(settings, cache_k="q8_0", cache_v="q8_0"), rung=running.rung)
    except InputError:  # heads that its blocks do not divide, or no flash attention
        return False
    return True


def _move_experts(book: Book, number: int) -> bool:
    """As few as make it fit on the rung where it wants to be, else on the lowest; where none is enough, all."""
    running = book.running[number]
    if "n_cpu_moe" not in running.wish.free:
        return False
    for rung in dict.fromkeys((_lowest(running.wish), 0)):
        found = fewest_cpu_moe(running.wish.shape, *_asked(book, number, rung))
        if found is not None:
            return _give(book, number, rung, cpu_moe=found)
    return _give(book, number, 0, cpu_moe=len(running.wish.shape.layers))


def _lowest(wish: Wish) -> int:
    """The rung to begin on."""
    if "n_cpu_moe" not in wish.free:
        return 0
    tokens, requests = COMFORTABLE
    return max((rung for rung, wanted in enumerate(wish.ladder) if wanted[0] <= tokens and wanted[1] <= requests), default=0)


def _move_layers(book: Book, number: int) -> bool:
    running = book.running[number]
    if "gpu_layers" not in running.wish.free:
        return False
    found = most_gpu_layers(running.wish.shape, *_asked(book, number, running.rung))
    return _give(book, number, running.rung, gpu_layers=None if found and found > len(running.wish.shape.layers) else found or 0)


def _asked(book: Book, number: int, rung: int) -> tuple[LlamaSettings, Room]:
    """Its settings on that rung, and the room that it has on its GPUs."""
    running = book.running[number]
    room = book.rooms(number, running.wish, running.gpus)
    return t.cast(LlamaSettings, at_rung(running.wish, running.settings, rung)), Room(room.devices)


def _give(book: Book, number: int, rung: int, **moved: int | None) -> bool:
    """Move that much to main memory, unless that is then too small."""
    running, before = book.running[number], book.free(RAM)
    settings = replace(t.cast(LlamaSettings, running.settings), **moved)  # type: ignore[arg-type]
    book.running[number] = climb(book, number, running.wish, running.gpus, settings, rung=rung)
    if book.free(RAM) >= min(before, 0):
        return True
    book.running[number] = running
    return False
