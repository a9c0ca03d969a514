# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each GPU is to be set to: entries with selectors against the boards that are there. Nothing is set here."""

from __future__ import annotations

import fnmatch
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import COMPUTE_MODES, Gpu

Entry = Mapping[str, t.Any]
Range = tuple[int, int]


@dataclass(frozen=True)
class Board:
    """A GPU with the clocks in MHz that it lists, highest first; empty where it lists none."""

    gpu: Gpu
    sm_listed: tuple[int, ...] = ()
    memory_listed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """What one GPU is to have: watts, MHz from and to. ``None`` is what the board has by itself."""

    persistence: bool | None = None
    compute_mode: str | None = None
    power_limit: float | None = None
    sm_clocks: Range | None = None
    memory_clocks: Range | None = None
    fallback_sm_clocks: Range | None = None


def targets(entries: Sequence[Entry], boards: Sequence[Board]) -> dict[int, Target]:
    """The target of every board by its index; a later entry overrides an earlier one, setting by setting.

    Raises ``InputError`` that lists everything that is wrong.
    """
    errors: list[str] = []
    merged: dict[int, dict[str, t.Any]] = {board.gpu.index: {} for board in boards}
    for number, entry in enumerate(entries):
        selector = str(entry.get("gpu", "all"))
        chosen = [board for board in boards if selects(selector, board.gpu)]
        if not chosen:
            errors.append(f"gpus[{number}].gpu is {selector!r}: {_nothing(selector, boards)}")
        for board in chosen:
            found = dict(_settings(f"gpus[{number}]", entry, board, errors))
            merged[board.gpu.index].update(found)
    if errors:
        raise InputError("\n".join(dict.fromkeys(errors)))
    return {index: Target(**settings) for index, settings in merged.items()}


def selects(selector: str, gpu: Gpu) -> bool:
    """A selector is ``all``, an index, a UUID, a PCI address or a pattern of the model's name such as ``*RTX 3090*``."""
    if selector == "all" or selector in (str(gpu.index), gpu.uuid):
        return True
    if gpu.pci_address and gpu.pci_address == selector.lower()[-12:]:
        return True
    return bool(gpu.name) and fnmatch.fnmatchcase(str(gpu.name).lower(), selector.lower())


def describe(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name}, {gpu.uuid})" if gpu.uuid else f"GPU {gpu.index}"


def _nothing(selector: str, boards: Sequence[Board]) -> str:
    if selector.startswith("MIG-"):
        return "that is a slice of a GPU (MIG); power, clocks and modes belong to the whole GPU: name its GPU-... UUID."
    there = "; ".join(describe(board.gpu) for board in boards) or "no GPU at all"
    return f"no GPU is called so. There is: {there}. Name an index, a UUID, a PCI address, a pattern of the model's name, or all."


def _settings(where: str, entry: Entry, board: Board, errors: list[str]) -> Iterator[tuple[str, t.Any]]:
    """What an entry says for one board, in the board's units. Adds to the errors what the board cannot take."""
    if entry.get("persistence") is not None:
        yield "persistence", entry["persistence"]
    if (mode := entry.get("compute_mode")) is not None:
        if mode not in COMPUTE_MODES.values():
            errors.append(f"{where}.compute_mode is {mode!r}: it must be one of {', '.join(COMPUTE_MODES.values())}.")
        yield "compute_mode", mode
    if entry.get("power_limit") is not None:
        yield "power_limit", _watts(where, str(entry["power_limit"]), board, errors)
    for key, listed in (
        ("sm_clocks", board.sm_listed),
        ("memory_clocks", board.memory_listed),
        ("fallback_sm_clocks", board.sm_listed),
    ):
        if entry.get(key):
            yield key, _range(f"{where}.{key}", entry[key], board, listed, errors)


def _watts(where: str, value: str, board: Board, errors: list[str]) -> float:
    """Whole watts. A board that says nothing of its limits is asked when it is set."""
    power = board.gpu.power
    asked = f"{where}.power_limit is {value!r}"
    try:
        number = float(value.rstrip("%"))
    except ValueError:
        errors.append(f"{asked}: it must be watts, such as 250, or a part of the board's default, such as 70%.")
        return 0.0
    if value.endswith("%"):
        if not power or power.default is None:
            # Its default is not known, so neither is the part; setting it is refused for the reason that the board gave.
            return number
        number = round(power.default * number / 100)
        asked += f", that is {number:g} W of {power.default:g} W"
    # A board whose limit is fixed refuses every other one when it is set, and fallback_sm_clocks take its place.
    fixed = power and power.minimum == power.maximum
    if power and not fixed and power.minimum is not None and power.maximum is not None and not power.minimum <= number <= power.maximum:
        errors.append(f"{asked}: {describe(board.gpu)} takes {power.minimum:g} to {power.maximum:g} W.")
    return number


def _range(asked: str, values: t.Sequence[int], board: Board, listed: Sequence[int], errors: list[str]) -> Range:
    """``[1410]`` locks to one clock, ``[210, 1410]`` lets the board choose in between; the lowest may be 0, which is the board's lowest."""
    low, high = values[0] or min(listed, default=0), values[-1]
    if len(values) > 2 or low > high:
        errors.append(f"{asked} is {list(values)}: it must be one clock in MHz, or the lowest and the highest.")
    for value in dict.fromkeys((low, high)):
        if listed and value not in listed:
            near = sorted(sorted(set(listed), key=lambda clock: abs(clock - value))[:3])
            errors.append(
                f"{asked} has {value} MHz, which {describe(board.gpu)} does not list: nearest are {', '.join(map(str, near))}"
                f" (from {min(listed)} to {max(listed)})."
            )
    return low, high
