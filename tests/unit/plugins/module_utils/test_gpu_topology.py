# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import itertools
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._gpu_topology import topology
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Link, Memory, Snapshot

GIB = 2**30


def gpu(index: int, name: str = "NVIDIA GeForce RTX 3090", gibibytes: int = 24, **more: t.Any) -> Gpu:
    return Gpu(index, f"GPU-{index}", name, memory=Memory(gibibytes * GIB, 0, 0, gibibytes * GIB), **more)


def machine(*gpus: Gpu, p2p: str | None = "ok") -> Snapshot:
    pairs = itertools.combinations([found.index for found in gpus if found.uuid], 2)
    return Snapshot(True, gpus=list(gpus), links=[Link(pair, "host_bridge", p2p, 0) for pair in pairs])


def test_equal_gpus_with_p2p_are_one_set() -> None:
    found = topology(machine(*(gpu(index) for index in range(8))))
    assert found["tensor_parallel"] == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert found["unfit"] == []
    assert len(found["links"]) == 28
    assert found["links"][0] == {"gpus": [0, 1], "ancestor": "host_bridge", "p2p": "ok", "nvlinks": 0}


def test_unequal_vram_is_no_set_and_both_sizes_are_named() -> None:
    found = topology(machine(gpu(0), gpu(1, "NVIDIA GeForce RTX 3060", 12)))
    assert found["tensor_parallel"] == []
    assert found["unfit"] == [{"gpus": [0, 1], "reason": "unequal VRAM: 24.0 GiB and 12.0 GiB; the smaller one would limit both"}]


def test_two_kinds_are_two_sets() -> None:
    found = topology(machine(gpu(0), gpu(1, "NVIDIA RTX A5000"), gpu(2), gpu(3, "NVIDIA RTX A5000"), gpu(4)))
    assert found["tensor_parallel"] == [[0, 2, 4], [1, 3]]
    assert {"gpus": [0, 1], "reason": "different models: NVIDIA GeForce RTX 3090 and NVIDIA RTX A5000; the slower one would limit both"} in found["unfit"]


def test_without_p2p_the_reason_says_what_happens_instead() -> None:
    found = topology(machine(gpu(0), gpu(1), p2p="not_supported"))
    assert found["tensor_parallel"] == []
    assert "through the machine's memory" in found["unfit"][0]["reason"]
    assert "NVML does not say" in topology(machine(gpu(0), gpu(1), p2p=None))["unfit"][0]["reason"]


def test_mig_and_a_lost_gpu_are_in_no_set() -> None:
    lost = Gpu(2, unavailable={"gpu": "GPU is lost"})
    found = topology(machine(gpu(0), gpu(1, mig=True), lost, gpu(3)))
    assert found["tensor_parallel"] == [[0, 3]]
    assert found["unfit"] == [
        {"gpus": [1], "reason": "MIG is on: its slices cannot read each other's memory"},
        {"gpus": [2], "reason": "it does not answer: GPU is lost"},
    ]


def test_one_gpu_and_none() -> None:
    assert topology(machine(gpu(0)))["tensor_parallel"] == []
    assert topology(Snapshot(False, reason="library")) == {"links": [], "tensor_parallel": [], "unfit": []}
