# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How large llama.cpp's compute buffers become for a graph of operations.

Two steps of llama.cpp b11434, on results and their lifetimes only: ggml/src/ggml-backend.cpp (ggml_backend_sched_split_graph: what one
device makes and another reads is copied when the other's part of the graph begins) and ggml/src/ggml-alloc.c (ggml_gallocr_alloc_graph_impl:
a result takes the tightest hole that is free, or its source's place, and its own is free after the last reader).

The order of allocations depends on the graph only, the sizes on the settings too. So the order is found once, and played for every setting.
"""

from __future__ import annotations

import typing as t
from bisect import bisect_left
from dataclasses import dataclass, field

HOST = -1
COPIES = 4  # GGML_SCHED_MAX_COPIES of ggml/src/ggml-backend.cpp: steps in flight when devices work as a pipeline

Size = tuple[tuple[float, str], ...]  # a sum: bytes for each of a unit, and the unit's name
_ENDLESS = 2**62


@dataclass
class _Result:
    """What an operation makes, an input of the graph, or a copy of one of them."""

    size: Size
    place: int | None  # None: wherever its neighbours run
    sources: list[int] = field(default_factory=list)
    reusable: bool = False  # may take the place of its first source that nobody else reads
    kept: bool = False  # to the end
    leaf: bool = False  # no operation makes it
    stored: bool = False  # lies in another buffer, as weights and caches do: only copies of it are made here
    readers: int = 0

    def copy(self) -> _Result:
        return _Result(self.size, self.place, list(self.sources), self.reusable, self.kept, self.leaf, self.stored)


@dataclass(frozen=True)
class Plan:
    """Allocations by device, in order: the number of a size, or the complement of the number of the allocation that is freed.

    Equal programs are one object.
    """

    steps: dict[int, tuple[int, ...]]
    sizes: tuple[Size, ...]


class Graph:
    """Operations and what they make. Like ggml's graphs it is lazy: they are in the order in which ``run`` needs them, sources from left to right.

    Views are not operations: who reads a view reads what it is of, but a copy of it is of its size.
    """

    def __init__(self) -> None:
        self.results: list[_Result] = []
        self.inputs: list[int] = []
        self.order: list[int] = []
        self.viewed: dict[int, int] = {}
        self._seen: set[int] = set()

    def input(self, size: Size, place: int = HOST) -> int:
        """Inputs are filled in main memory, but for constants."""
        return self._add(_Result(size, place, leaf=True))

    def stored(self, size: Size, place: int) -> int:
        return self._add(_Result(size, place, leaf=True, stored=True))

    def view(self, source: int, size: Size) -> int:
        self.viewed[self._add(_Result(size, None, [source]))] = source
        return len(self.results) - 1

    def make(self, size: Size, *sources: int, place: int | None = None, reusable: bool = False, kept: bool = False) -> int:
        return self._add(_Result(size, place, list(sources), reusable, kept))

    def write(self, *sources: int, place: int | None = None) -> None:
        """Run an operation that writes into what is stored."""
        self.run(self._add(_Result((), place, list(sources), stored=True)))

    def run(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._seen:
                continue
            self._seen.add(number)
            result = self.results[number]
            self.run(*result.sources)
            if not result.leaf and number not in self.viewed:
                self.order.append(number)
            elif result.leaf and not result.stored:
                self.inputs.append(number)

    def _add(self, result: _Result) -> int:
        self.results.append(result)
        return len(self.results) - 1

    def plan(self, pipeline: bool) -> Plan:
        return _Planner(self, pipeline).plan()


class _Planner:
    def __init__(self, graph: Graph, pipeline: bool) -> None:
        self.graph = graph
        self.pipeline = pipeline
        self.results = [one.copy() for one in graph.results]
        self.copies: dict[tuple[int, int], int] = {}
        self.slot: dict[int, int] = {}  # the allocation that a result lies in
        self.steps: dict[int, list[int]] = {}

    def plan(self) -> Plan:
        self._assign()
        parts = self._parts()
        for part, copied in parts:
            for number in (*part, *copied):
                for source in self.results[number].sources:
                    self.results[source].readers += 1
        self._inputs()
        for part, copied in parts:
            for number in copied:
                self._run(number)
            for number in part:
                self._run(number)
        return self._numbered()

    def _numbered(self) -> Plan:
        """Devices that do the same have the same steps, whatever blocks they do it with."""
        sizes: dict[Size, int] = {}
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        found = {}
        for place, steps in self.steps.items():
            order: dict[int, int] = {}
            program: list[int] = []
            made = 0
            for step in steps:
                if step >= 0:
                    order[step] = made
                    made += 1
                    program.append(sizes.setdefault(self.results[step].size, len(sizes)))
                else:
                    program.append(~order[~step])
            found[place] = known.setdefault(tuple(program), tuple(program))
        return Plan(found, tuple(sizes))

    def _assign(self) -> None:
        """Operations without weights run where those before them do, or else those behind; devices go before main memory (the scheduler's pass 2)."""
        order = [self.results[number] for number in self.graph.order]
        for devices_only in (True, False):
            for direction in (order, order[::-1]):
                place: int | None = None
                for result in direction:
                    if result.place is not None:
                        place = None if devices_only and result.place == HOST else result.place
                    else:
                        result.place = place

    def _parts(self) -> list[tuple[list[int], list[int]]]:
        """The graph cut where the device changes, each part with the copies that are made when it begins. A copy lasts until its last reader.

        A part that already has copies ends before a result that needs weights from elsewhere, so that one set of weights is there at a time.
        """
        parts: list[tuple[list[int], list[int]]] = []
        place = HOST
        for number in self.graph.order:
            result = self.results[number]
            moved = any(self.results[source].stored and self.results[source].place != result.place for source in result.sources)
            if not parts or result.place != place or (moved and parts[-1][1]):
                parts.append(([], []))
                place = t.cast(int, result.place)
            part, copied = parts[-1]
            for index, source in enumerate(result.sources):
                whole = self.graph.viewed.get(source, source)
                if self.results[whole].place == place:
                    result.sources[index] = whole
                    continue
                if (source, place) not in self.copies:
                    self.results.append(_Result(self.results[source].size, place, [whole], kept=self.pipeline))
                    self.copies[(source, place)] = len(self.results) - 1
                    copied.append(len(self.results) - 1)
                result.sources[index] = self.copies[(source, place)]
            part.append(number)
        return parts

    def _inputs(self) -> None:
        """With a pipeline all inputs and all copies are there once for every step in flight, from the beginning to the end."""
        for number in (*self.graph.inputs, *(self.copies.values() if self.pipeline else ())):
            result = self.results[number]
            result.kept |= self.pipeline
            for _copy in range(COPIES if self.pipeline else 1):
                self._allocate(number)

    def _run(self, number: int) -> None:
        result = self.results[number]
        if number not in self.slot and not result.stored:
            heir = next((source for source in result.sources if self._can_inherit(result, source)), None)
            if heir is None:
                self._allocate(number)
            else:
                self.slot[number] = self.slot.pop(heir)
        for source in result.sources:
            self.results[source].readers -= 1
            self._release(source)

    def _can_inherit(self, result: _Result, source: int) -> bool:
        origin = self.results[source]
        alone = source in self.slot and origin.readers == 1 and not origin.kept
        return result.reusable and alone and origin.place == result.place and origin.size == result.size

    def _allocate(self, number: int) -> None:
        self.slot[number] = number
        self.steps.setdefault(t.cast(int, self.results[number].place), []).append(number)

    def _release(self, number: int) -> None:
        result = self.results[number]
        if result.readers == 0 and not result.kept and number in self.slot:
            self.steps[t.cast(int, result.place)].append(~self.slot.pop(number))


def buffers(plan: Plan, units: t.Mapping[str, int], alignment: int) -> dict[int, int]:
    """Bytes of the compute buffer of every device (ggml_dyn_tallocr_alloc and ggml_dyn_tallocr_free_bytes of ggml/src/ggml-alloc.c)."""
    sizes = [-(-int(sum(factor * units[unit] for factor, unit in size)) // alignment) * alignment for size in plan.sizes]
    known: dict[int, int] = {}
    for steps in plan.steps.values():
        if id(steps) not in known:
            known[id(steps)] = _highest(steps, sizes)
    return {place: known[id(steps)] for place, steps in plan.steps.items()}


def _highest(steps: tuple[int, ...], sizes: list[int]) -> int:
    starts, lengths = [0], [_ENDLESS]  # of what is free, by address; the last one is the end of the buffer
    made: list[tuple[int, int]] = []
    highest = 0
    for step in steps:
        if step >= 0:
            size = sizes[step]
            best, best_length = len(starts) - 1, _ENDLESS
            for index in range(len(starts) - 1):
                if size <= lengths[index] <= best_length:
                    best, best_length = index, lengths[index]
            start = starts[best]
            made.append((start, size))
            highest = max(highest, start + size)
            if lengths[best] == size:
                del starts[best], lengths[best]
            else:
                starts[best] += size
                lengths[best] -= size
        elif made[~step][1]:
            _free(starts, lengths, *made[~step])
    return highest


def _free(starts: list[int], lengths: list[int], start: int, size: int) -> None:
    index = bisect_left(starts, start)
    joins_next = start + size == starts[index]
    if index and starts[index - 1] + lengths[index - 1] == start:
        lengths[index - 1] += size
        if joins_next:
            lengths[index - 1] += lengths[index]
            del starts[index], lengths[index]
    elif joins_next:
        starts[index] = start
        lengths[index] += size
    else:
        starts.insert(index, start)
        lengths.insert(index, size)
