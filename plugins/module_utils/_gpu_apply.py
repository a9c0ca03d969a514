# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings all GPUs of a machine to their targets through NVML.

NVML tells the power limit, the persistence mode and the compute mode that are in force, but not the clocks that are locked. Those, and
what else was set here, stand in a record below /run: it is forgotten when the boards forget, at a reboot.
"""

from __future__ import annotations

import json
import os
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_settings import Board, Entry, Target, describe, targets
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import COMPUTE_MODES, Gpu, read_gpu, session

RECORD = Path("/run/llm/gpu-settings.json")
# In this order: a GPU without persistence forgets its settings as soon as nobody looks at it.
SETTINGS = ("persistence", "compute_mode", "power_limit", "sm_clocks", "memory_clocks")
CLOCKS = {"sm_clocks": "GpuLockedClocks", "memory_clocks": "MemoryLockedClocks"}

Values = dict[str, t.Any]


@dataclass(frozen=True)
class Outcome:
    """``gpus``: for every GPU its index, uuid, name, ``before``, ``after`` and what is ``unchangeable``, with the reason."""

    changed: bool
    diff: dict[str, str]
    gpus: list[dict[str, t.Any]]
    warnings: list[str]


def apply(entries: Sequence[Entry], reset: bool = False, check: bool = False, record: Path | None = None) -> Outcome:
    """Set what differs. ``reset`` puts every GPU back to what its board has by itself, whoever changed it.

    Raises ``NvmlUnavailable``, ``InputError`` before anything is set, and ``LLMError`` when a board refuses for want of rights.
    """
    record = record or RECORD
    with session() as nvml:
        boards = [_board(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        wanted = {board.gpu.index: Target() for board in boards} if reset else targets(entries, boards)
        remembered = _remembered(record)
        difference, answers = Difference(), []
        for board in boards:
            gpu = board.gpu
            if gpu.uuid is None:
                answers.append(_answer(gpu, {}, {}, {"gpu": f"it does not answer: {gpu.unavailable['gpu']}"}))
                continue
            setter = _Setter(nvml, gpu, remembered.setdefault(gpu.uuid, {}), reset, check)
            answers.append(setter.bring_to(wanted[gpu.index], difference))
            if not check:
                _remember(record, remembered)
    warnings = [f"GPU {answer['index']}: {setting}: {reason}" for answer in answers for setting, reason in answer["unchangeable"].items()]
    return Outcome(difference.changed, difference.as_dict(), answers, warnings)


class _Setter:
    """One GPU. ``memory`` is its part of the record: what was set here, and what was there before."""

    def __init__(self, nvml: t.Any, gpu: Gpu, memory: Values, reset: bool, check: bool) -> None:
        self._nvml, self._gpu, self._memory, self._reset, self._check = nvml, gpu, memory, reset, check
        self._handle = nvml.nvmlDeviceGetHandleByIndex(gpu.index)

    def bring_to(self, target: Target, difference: Difference) -> dict[str, t.Any]:
        before = {setting: self._now(setting) for setting in SETTINGS}
        after, unchangeable = dict(before), {}
        for setting in SETTINGS:
            goal = self._goal(setting, target, before[setting])
            if goal == before[setting] and not self._forced(setting):
                continue
            if reason := self._known_refusal(setting) or self._set(setting, goal, back=getattr(target, setting) is None):
                unchangeable[setting] = reason
                if setting == "power_limit" and target.fallback_sm_clocks:
                    target = replace(target, sm_clocks=target.fallback_sm_clocks)
                    unchangeable[setting] += "; fallback_sm_clocks take its place"
            else:
                after[setting] = goal
        for setting in SETTINGS:
            difference.add(f"{describe(self._gpu)} {setting}", _shown(setting, before[setting]), _shown(setting, after[setting]))
        return _answer(self._gpu, before, after, unchangeable)

    def _now(self, setting: str) -> t.Any:
        if setting == "power_limit":
            return self._gpu.power.limit if self._gpu.power else None
        if setting in CLOCKS:
            return self._memory.get(setting)
        return getattr(self._gpu, setting)

    def _goal(self, setting: str, target: Target, now: t.Any) -> t.Any:
        """What is asked for; else what the board has by itself, if it was changed here or everything is to be put back."""
        asked = getattr(target, setting)
        if asked is not None:
            return list(asked) if setting in CLOCKS else asked
        if setting in CLOCKS:
            return None
        changed_here = f"{setting}_before" in self._memory
        if setting == "persistence":  # who else turned it on, such as nvidia-persistenced, keeps it on
            return self._memory["persistence_before"] if changed_here else now
        if now is None or not (changed_here or self._reset):
            return now
        return self._gpu.power.default if setting == "power_limit" and self._gpu.power else "default"

    def _forced(self, setting: str) -> bool:
        """Locked clocks cannot be read: where all is put back they are released in any case."""
        return self._reset and setting in CLOCKS

    def _known_refusal(self, setting: str) -> str:
        """Why the board takes no power limit, as far as it is known without trying."""
        if setting != "power_limit":
            return ""
        power, unavailable = self._gpu.power, self._gpu.unavailable
        if reason := unavailable.get("power.limit") or unavailable.get("power.constraints") or unavailable.get("power.default"):
            return f"the board takes none: {reason}"
        if power and power.minimum == power.maximum:
            return f"the board's limit is fixed at {power.maximum:g} W"
        return str(self._memory.get("power_limit_refused", ""))

    def _set(self, setting: str, value: t.Any, back: bool) -> str:
        """Set it, or put it ``back``. Returns why the board does not take it; empty if it does."""
        if self._check:
            return ""
        function, arguments = _call(setting, value)
        try:
            getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError as exc:
            if exc.value == self._nvml.NVML_ERROR_NO_PERMISSION:
                raise LLMError(f"{describe(self._gpu)}: only root may set {setting}: run this with become: true.") from exc
            reason = f"the board refuses it: {exc}"
            if setting == "power_limit":
                self._memory["power_limit_refused"] = reason
            return "" if self._forced(setting) else reason
        self._keep(setting, value, back)
        return ""

    def _keep(self, setting: str, value: t.Any, back: bool) -> None:
        if setting in CLOCKS:
            self._memory[setting] = value
        elif back:
            self._memory.pop(f"{setting}_before", None)
        else:
            self._memory.setdefault(f"{setting}_before", self._now(setting))


def _call(setting: str, value: t.Any) -> tuple[str, list[t.Any]]:
    """The function of NVML that sets it, and its arguments after the GPU."""
    if setting == "power_limit":
        return "nvmlDeviceSetPowerManagementLimit", [round(value * 1000)]
    if setting == "persistence":
        return "nvmlDeviceSetPersistenceMode", [int(value)]
    if setting == "compute_mode":
        return "nvmlDeviceSetComputeMode", [number for number, name in COMPUTE_MODES.items() if name == value]
    return f"nvmlDevice{'Set' if value else 'Reset'}{CLOCKS[setting]}", value or []


def _board(nvml: t.Any, index: int) -> Board:
    gpu, _links = read_gpu(nvml, index)
    if gpu.uuid is None:
        return Board(gpu)
    memory = tuple(_listed(nvml, "nvmlDeviceGetSupportedMemoryClocks", index))
    sm = {clock for clock_of_memory in memory for clock in _listed(nvml, "nvmlDeviceGetSupportedGraphicsClocks", index, clock_of_memory)}
    return Board(gpu, tuple(sorted(sm, reverse=True)), memory)


def _listed(nvml: t.Any, function: str, index: int, *arguments: int) -> Iterator[int]:
    try:
        yield from getattr(nvml, function)(nvml.nvmlDeviceGetHandleByIndex(index), *arguments)
    except nvml.NVMLError:
        return  # a board that lists none; it is asked when it is set


def _answer(gpu: Gpu, before: Values, after: Values, unchangeable: dict[str, str]) -> dict[str, t.Any]:
    return {"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name, "before": before, "after": after, "unchangeable": unchangeable}


def _shown(setting: str, value: t.Any) -> str:
    if value is None:
        return "not locked" if setting in CLOCKS else "unknown"
    if setting in CLOCKS:
        return f"{value[0]} to {value[1]} MHz"
    return f"{value:g} W" if setting == "power_limit" else str(value).lower()


def _remembered(record: Path) -> dict[str, Values]:
    try:
        found: dict[str, Values] = json.loads(record.read_text())
        return found
    except FileNotFoundError:
        return {}


def _remember(record: Path, remembered: dict[str, Values]) -> None:
    record.parent.mkdir(mode=0o755, exist_ok=True)
    staged = record.with_suffix(".new")
    staged.write_text(json.dumps({uuid: values for uuid, values in remembered.items() if values}, indent=1))
    os.replace(staged, record)
