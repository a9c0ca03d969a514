# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the running models really take, held against the plan: NVML's figures per process, or the kernel's where no GPU is used."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import LLAMA
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import unit_of
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu
from ansible_collections.baremetal.llm.plugins.module_utils._vram import mib


class Usage(t.NamedTuple):
    """One running model in one place. ``planned`` and ``actual`` are bytes."""

    model: str
    service: str
    place: str  # gpu0, ram
    planned: int
    actual: int


def usages(plan: Mapping[str, t.Any], gpus: Sequence[Gpu], proc: Path = Path("/proc")) -> list[Usage]:
    """Every deployment of the plan that runs now. A model that its router has not loaded is left out."""
    found = []
    processes = list(_processes(proc))
    for deployment in plan["deployments"]:
        pids = [process.pid for process in processes if _runs(deployment, process)]
        if not pids:
            continue
        name, service = deployment["model"], deployment["service"]
        planned = deployment["estimate"]["devices"]
        for index, terms in zip(deployment["gpus"], planned):
            found.append(Usage(name, service, f"gpu{index}", sum(terms.values()), _on_gpu(gpus, index, pids)))
        if not deployment["gpus"]:
            # Prompts are remembered as they come, up to what was planned.
            terms = {**deployment["estimate"]["host"], "prompts": 0}
            found.append(Usage(name, service, "ram", sum(terms.values()), sum(_resident(proc, pid) for pid in pids)))
    return found


def drifts(found: Iterable[Usage], margin: int) -> list[str]:
    """A sentence for everything that takes more than was planned, by more than the margin, and on GPUs for what takes less, too.

    In main memory a process takes pages as it touches them, so less says nothing; a sleeping model takes less on purpose.
    """
    sentences = []
    for usage in found:
        difference = usage.actual - usage.planned
        if difference > margin:
            advice = f"add it to llm_vram_reserved or lower the context of {usage.model}, and report the model and its options"
        elif difference < -margin and usage.place != "ram":
            advice = "memory lies idle, or the model sleeps; report the model and its options if it does not"
        else:
            continue
        sentences.append(
            f"{usage.model} ({usage.service}) takes {mib(usage.actual)} MiB of {usage.place}, {mib(usage.planned)} MiB were planned: {advice}."
        )
    return sentences


class _Process(t.NamedTuple):
    pid: int
    unit: str
    arguments: list[str]


def _processes(proc: Path) -> Iterable[_Process]:
    for directory in proc.iterdir():
        if directory.name.isdigit():
            try:
                arguments = (directory / "cmdline").read_text(errors="replace").split("\0")
            except OSError:
                continue
            unit = unit_of(proc, int(directory.name))
            if not unit.startswith("llm-"):
                unit = _user(directory)  # in a container it has no unit, but its user is called the same
            if unit.startswith("llm-"):
                yield _Process(int(directory.name), unit, arguments)


def _user(directory: Path) -> str:
    try:
        return directory.owner()
    except (KeyError, OSError):
        return ""


def _runs(deployment: Mapping[str, t.Any], process: _Process) -> bool:
    """llama.cpp's router starts a process for each model and tells it its name; all processes of a vLLM service are one model's."""
    if process.unit != f"llm-{deployment['service']}":
        return False
    if deployment["engine"] != LLAMA:
        return True
    return ("--alias", deployment["model"]) in zip(process.arguments, process.arguments[1:])


def _on_gpu(gpus: Sequence[Gpu], index: int, pids: Sequence[int]) -> int:
    # A process that computes and draws is in both of NVML's lists, with one figure.
    used = {process.pid: process.memory or 0 for gpu in gpus if gpu.index == index for process in gpu.processes if process.pid in pids}
    return sum(used.values())


def _resident(proc: Path, pid: int) -> int:
    try:
        match = re.search(r"^VmRSS:\s+(\d+) kB", (proc / str(pid) / "status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0
