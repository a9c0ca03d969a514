# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The adding up: what every taker has of every GPU and of main memory in the worst case, and what room that leaves for one of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM, Account, Budget, Device, Entry, Machine, Policy
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MemoryEstimate, Usage
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Room, Settings

PLACE = "gpu{}"


@dataclass(frozen=True)
class Running:
    """A wish with values for everything. ``rung`` is where on its ladder it stands."""

    wish: Wish
    gpus: tuple[int, ...]  # in the order of the estimate's devices
    settings: Settings
    rung: int
    estimate: MemoryEstimate
    lacking: int = 0  # bytes of cache that the user's own figures leave it short of, on each GPU

    @property
    def places(self) -> tuple[str, ...]:
        return (*(PLACE.format(index) for index in self.gpus), RAM)

    def at(self, place: str) -> Usage:
        """What it takes there."""
        if place == RAM:
            return self.estimate.host
        return next((usage for index, usage in zip(self.gpus, self.estimate.devices) if PLACE.format(index) == place), Usage())


@dataclass
class Book:
    """The accounts of one machine. ``models_max`` of a router is how many of its models may be loaded together; a missing one means all."""

    machine: Machine
    models_max: Mapping[str, int]
    budgets: Sequence[Budget]
    policy: Policy
    running: dict[int, Running] = field(default_factory=dict)  # by the number of its demand

    def __post_init__(self) -> None:
        self.devices = {PLACE.format(device.index): device for device in self.machine.gpus}
        self.places = (*self.devices, RAM)
        unknown = next((budget for budget in self.budgets if budget.gpu is not None and PLACE.format(budget.gpu) not in self.devices), None)
        if unknown:
            there = ", ".join(str(device.index) for device in self.machine.gpus) or "none"
            raise InputError(f"{self.machine.host}: the budget of {unknown.name} is on GPU {unknown.gpu}; the host's GPUs: {there}.")
        self._fixed = {place: self._entries(place) for place in self.places}
        self._left = {place: self.total(place) - sum(entry.size for entry in entries) for place, entries in self._fixed.items()}

    def total(self, place: str) -> int:
        return self.devices[place].total if place in self.devices else self.machine.ram

    def free(self, place: str) -> int:
        """What is left in the worst case; negative: what is short."""
        return self._left[place] - sum(self._worst(service, sizes) for service, sizes in self._taken(place).items())

    def free_without(self, place: str, number: int) -> int:
        running = self.running.pop(number)
        free = self.free(place)
        self.running[number] = running
        return free

    def short(self) -> list[str]:
        return [place for place in self.places if self.free(place) < 0]

    def fits(self, number: int) -> bool:
        """Whether there is enough everywhere that this one takes something."""
        running = self.running[number]
        return not running.lacking and all(self.free(place) >= 0 for place in running.places)

    def room(self, place: str, number: int, service: str) -> int:
        """What one model may take there, with everything else as it is.

        In a router with a limit that is the limit's last place: it then stands beside the costliest others, not beside all.
        """
        taken = self._taken(place, without=number)
        mine = sorted(taken.pop(service, []), reverse=True)
        others = sum(self._worst(name, sizes) for name, sizes in taken.items())
        limit = self._limit(service)
        return self._left[place] - others - sum(mine if limit is None else mine[: max(limit - 1, 0)])

    def rooms(self, number: int, wish: Wish, gpus: Sequence[int]) -> Room:
        devices = tuple(self.room(PLACE.format(index), number, wish.demand.service) for index in gpus)
        return Room(devices, self.room(RAM, number, wish.demand.service))

    def accounts(self) -> tuple[Account, ...]:
        found = []
        for place in self.places:
            device = self.devices.get(place)
            title, name = (f"GPU {device.index}", device.name) if device else ("RAM", "main memory")
            found.append(Account(place, title, name, self.total(place), (*self._models(place), *self._fixed[place])))
        return tuple(found)

    def _limit(self, service: str) -> int | None:
        return self.models_max.get(service) or None  # llama-server reads 0 as no limit

    def _worst(self, service: str, sizes: Sequence[int]) -> int:
        limit = self._limit(service)
        return sum(sizes if limit is None else heapq.nlargest(limit, sizes))

    def _taken(self, place: str, without: int | None = None) -> dict[str, list[int]]:
        taken: dict[str, list[int]] = {}
        for number, running in self.running.items():
            size = _most(running, place)
            if size and number != without:
                taken.setdefault(running.wish.demand.service, []).append(size)
        return taken

    def _models(self, place: str) -> list[Entry]:
        """In the order of the demands; those of a router beyond its limit, the smallest, are not resident."""
        there = {number: running for number, running in sorted(self.running.items()) if _most(running, place)}
        resident: set[int] = set()
        for service in {running.wish.demand.service for running in there.values()}:
            mine = [number for number, running in there.items() if running.wish.demand.service == service]
            resident |= set(sorted(mine, key=lambda number: (-_most(there[number], place), number))[: self._limit(service)])
        return [
            Entry(
                running.wish.demand.model,
                "model",
                _most(running, place),
                running.wish.demand.service,
                _asleep(running, place),
                number in resident,
                running.at(place),
            )
            for number, running in there.items()
        ]

    def _entries(self, place: str) -> tuple[Entry, ...]:
        """What is taken before any model of ours. More than is there cannot be kept back: a GPU that others fill is full, not short."""
        policy, device = self.policy, self.devices.get(place)
        there = [budget for budget in self.budgets if place == (RAM if budget.gpu is None else PLACE.format(budget.gpu))]
        budgets = [Entry(budget.name, "budget", budget.size) for budget in there]
        if device is None:
            kept = [Entry("reserved", "reserved", policy.ram_reserved), Entry("margin", "margin", policy.ram_margin)]
        else:
            display = policy.display if device.display else 0
            reserved = policy.reserved.get(device.index, 0)
            kept = [
                Entry("driver", "driver", device.driver),
                Entry("display", "display", display),
                Entry("others", "others", max(others(device) - display - reserved, 0)),
                Entry("reserved", "reserved", reserved),
                Entry("margin", "margin", policy.margin),
            ]
        left = self.total(place) - sum(entry.size for entry in budgets)
        entries = list(budgets)
        for entry in kept:
            entries.append(replace(entry, size=max(min(entry.size, left), 0)))
            left -= entry.size
        return tuple(entry for entry in entries if entry.size)


def others(device: Device) -> int:
    """Bytes of processes that are not ours."""
    return sum(process.memory for process in device.others)


def _asleep(running: Running, place: str) -> int:
    return running.wish.asleep if place in running.places and place != RAM else 0


def _most(running: Running, place: str) -> int:
    return max(running.at(place).total, _asleep(running, place))
