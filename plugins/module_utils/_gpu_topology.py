# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which GPUs of a machine can share one model by tensor parallelism, and why others cannot.

Every step of every layer ends in an exchange between all GPUs of the set: the smallest memory and the slowest path decide for all. So a
set is GPUs of one model with equal VRAM that read each other's memory directly (P2P).
"""

from __future__ import annotations

import itertools
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Link, Snapshot

_P2P_REASONS = {
    None: "NVML does not say whether they have P2P",
    "chipset_not_supported": "no P2P: the machine's chipset does not support it",
    "gpu_not_supported": "no P2P: the GPUs do not support it, they would exchange through the machine's memory",
    "topology_not_supported": "no P2P: too far apart on the bus, they would exchange through the machine's memory",
    "disabled_by_registry": "no P2P: the driver's settings disable it",
    "not_supported": "no P2P: the driver does not support it for these GPUs, they would exchange through the machine's memory",
    "unknown": "NVML does not know whether they have P2P",
}


def topology(machine: Snapshot) -> dict[str, t.Any]:
    """Sets fit for tensor parallelism, largest first, and the reason for every pair that is in none.

    Returns ``links`` (as NVML has them), ``tensor_parallel`` (lists of GPU indices, at least two each) and ``unfit``
    (``gpus`` and ``reason``; one GPU alone, if it can be in no set at all).
    """
    links = {link.gpus: link for link in machine.links}
    alone = {gpu.index: reason for gpu in machine.gpus if (reason := _alone(gpu))}
    able = [gpu for gpu in machine.gpus if gpu.index not in alone]
    pairs = {(one.index, other.index): _apart(one, other, links.get((one.index, other.index))) for one, other in itertools.combinations(able, 2)}
    sets = _sets([gpu.index for gpu in able], pairs)
    return {
        "links": [{"gpus": list(link.gpus), "ancestor": link.ancestor, "p2p": link.p2p, "nvlinks": link.nvlinks} for link in machine.links],
        "tensor_parallel": sorted((found for found in sets if len(found) > 1), key=lambda found: (-len(found), found)),
        "unfit": [
            *({"gpus": [index], "reason": reason} for index, reason in alone.items()),
            *({"gpus": list(pair), "reason": reason} for pair, reason in pairs.items() if reason),
        ],
    }


def _alone(gpu: Gpu) -> str:
    if "gpu" in gpu.unavailable:
        return f"it does not answer: {gpu.unavailable['gpu']}"
    if gpu.mig:
        return "MIG is on: its slices cannot read each other's memory"
    return ""


def _apart(one: Gpu, other: Gpu, link: Link | None) -> str:
    """Why two GPUs are not fit for each other; empty if they are."""
    if one.memory and other.memory and one.memory.total != other.memory.total:
        return f"unequal VRAM: {_gibibytes(one)} and {_gibibytes(other)}; the smaller one would limit both"
    if one.name != other.name:
        return f"different models: {one.name} and {other.name}; the slower one would limit both"
    p2p = link.p2p if link else None
    return "" if p2p == "ok" else _P2P_REASONS[p2p]


def _sets(indices: t.Iterable[int], pairs: t.Mapping[tuple[int, int], str]) -> list[list[int]]:
    """Each GPU joins the first set all of whose members it is fit for."""
    sets: list[list[int]] = []
    for index in indices:
        for found in sets:
            if not any(pairs[(member, index)] for member in found):
                found.append(index)
                break
        else:
            sets.append([index])
    return sets


def _gibibytes(gpu: Gpu) -> str:
    return f"{gpu.memory.total / 2**30:.1f} GiB" if gpu.memory else "unknown"
