# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The machine that a plan is made for: as NVML finds it, or as the inventory says it will be."""

from __future__ import annotations

import difflib
import itertools
import re
import typing as t
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._boards import BOARDS, known_board
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_topology import topology
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import Device, Machine, Process
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import unit_of
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB, parse_size, shown

NVML = "nvml"
GIVEN = "llm_gpus"
BOARDS_TABLE = "boards"
NO_GPU = "ram"

# What drivers keep of a board for themselves is 350 to 600 MiB on boards from 12 to 80 GiB; of a board that is not there, the upper end.
DRIVER_RESERVE = 600 * MIB
# A list in the inventory may round: 24 GiB for a board of 24,564 MiB.
_TOLERANCE = 0.02
_GPU_KEYS = frozenset({"name", "memory", "count", "compute_capability", "display", "p2p"})


class Unknown(Exception):
    """There are GPUs, but nobody can say yet how much memory they have."""


def machine(host: str, found: Snapshot, on_bus: int, given: Sequence[Mapping[str, t.Any]], root: Path = Path("/")) -> Machine:
    """The GPUs that NVML finds; without NVML those that the inventory gives, or well-known boards; without GPUs main memory alone.

    ``on_bus`` is the number of NVIDIA GPUs on the PCI bus, ``given`` the inventory's ``llm_gpus``. Raises Unknown if there are GPUs of which
    nobody says anything, InputError if the list and the host contradict each other.
    """
    ram = _ram(root)
    planned = _given(host, given)
    if found.available and found.gpus:
        if planned:
            _refuse_difference(host, planned, found.gpus)
        sets = topology(found)
        return Machine(
            host=host,
            gpus=tuple(_device(gpu, lambda pid: unit_of(root / "proc", pid).startswith("llm-")) for gpu in found.gpus),
            ram=ram,
            tensor_parallel=tuple(tuple(indices) for indices in sets["tensor_parallel"]),
            unfit=tuple((tuple(pair["gpus"]), pair["reason"]) for pair in sets["unfit"]),
            source=NVML,
        )
    if planned:
        if on_bus and on_bus != len(planned):
            raise InputError(f"llm_gpus of {host} lists {len(planned)} GPUs, but {on_bus} are on its bus: correct the list.")
        return Machine(host=host, gpus=tuple(planned), ram=ram, source=GIVEN, **_peers(planned, given))
    if on_bus:
        named = _named(root)
        if len(named) != on_bus or not all(known_board(entry["name"]) for entry in named):
            raise Unknown(found.message or "NVML does not answer")
        return Machine(host=host, gpus=tuple(_given(host, named)), ram=ram, source=BOARDS_TABLE, **_peers(_given(host, named), named))
    return Machine(host=host, gpus=(), ram=ram, tensor_parallel=(), unfit=(), source=NO_GPU)


def _peers(planned: Sequence[Device], given: Sequence[Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Equal boards can share a model, unless the list says that they do not reach each other."""
    if any(entry.get("p2p") is False for entry in given):
        pairs = itertools.combinations((device.index for device in planned), 2)
        return {"unfit": tuple((pair, "llm_gpus says that they have no P2P") for pair in pairs)}
    boards: dict[tuple[str, int], list[int]] = {}
    for device in planned:
        boards.setdefault((device.name, device.total), []).append(device.index)
    return {"tensor_parallel": tuple(tuple(indices) for indices in boards.values() if len(indices) > 1)}


def _given(host: str, given: Sequence[Mapping[str, t.Any]]) -> list[Device]:
    devices: list[Device] = []
    for entry in given:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InputError(f"llm_gpus of {host} has {entry!r}: write a mapping such as {{name: RTX 4090, count: 2}}.")
        name = entry["name"]
        if unknown := set(entry) - _GPU_KEYS:
            raise InputError(f"llm_gpus of {host}: {name} has {', '.join(sorted(unknown))}; there is: {', '.join(sorted(_GPU_KEYS))}.")
        board = known_board(name)
        if "memory" not in entry and board is None:
            near = difflib.get_close_matches(name, BOARDS, 1, 0)[0]
            raise InputError(f"llm_gpus of {host}: the memory of {name} is not known here (did you mean {near}?): add memory, such as 24GiB.")
        count = entry.get("count", 1)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"llm_gpus of {host}: count of {name} is {count!r}: it must be a whole number of at least 1.")
        total = parse_size(entry["memory"], f"llm_gpus of {host}: memory of {name}") if "memory" in entry else board.memory * MIB if board else 0
        for _number in range(count):
            devices.append(
                Device(
                    index=len(devices),
                    name=name,
                    total=total,
                    driver=DRIVER_RESERVE,
                    display=bool(entry.get("display", False)),
                    compute_capability=str(entry.get("compute_capability") or (board.compute_capability if board else "")),
                    uuid="",
                    others=(),
                )
            )
    return devices


def _named(root: Path) -> list[dict[str, str]]:
    """What a loaded driver calls its boards, in the order of their addresses; it says nothing of their memory."""
    found = []
    for information in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", information.read_text(errors="replace"), re.MULTILINE)
        found.append({"name": match[1].strip() if match else ""})
    return found


def _refuse_difference(host: str, planned: Sequence[Device], found: Sequence[Gpu]) -> None:
    if len(planned) != len(found):
        raise InputError(f"llm_gpus of {host} lists {len(planned)} GPUs, but the host has {len(found)}: correct the list, or remove it.")
    for device, gpu in zip(planned, found):
        if gpu.memory and abs(gpu.memory.total - device.total) > _TOLERANCE * gpu.memory.total:
            raise InputError(
                f"llm_gpus of {host}: GPU {gpu.index} is given as {device.name} with {shown(device.total)}, but the host has"
                f" {gpu.name} with {shown(gpu.memory.total)} there: correct the list, or remove it."
            )


def _device(gpu: Gpu, ours: Callable[[int], bool]) -> Device:
    """What is counted already, because it is ours, is nobody else's."""
    memory = gpu.memory
    # A process that computes and draws is in both of NVML's lists.
    processes = {process.pid: process for process in gpu.processes if process.memory and not ours(process.pid)}
    return Device(
        index=gpu.index,
        name=gpu.name or f"GPU {gpu.index}",
        total=memory.total if memory else 0,  # a GPU that does not answer has no room
        driver=memory.reserved if memory else 0,
        display=bool(gpu.display),
        compute_capability=gpu.compute_capability or "",
        uuid=gpu.uuid or "",
        others=tuple(Process(process.pid, process.name or "", process.memory or 0) for process in processes.values()),
    )


def _ram(root: Path) -> int:
    match = re.search(r"^MemTotal: +(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
