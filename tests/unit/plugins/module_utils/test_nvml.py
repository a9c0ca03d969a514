# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The real nvidia-ml-py over the stand-in for its library, with boards of several kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _nvml
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_topology import topology
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot

MIB = 2**20


def test_one_gpu(board: t.Any) -> None:
    board("rtx4090")
    found = snapshot()
    assert (found.available, found.reason) == (True, None)
    assert found.driver and found.nvml and found.cuda == "13.0"
    (gpu,) = found.gpus
    assert (gpu.index, gpu.name, gpu.generation, gpu.compute_capability) == (0, "NVIDIA GeForce RTX 4090", "ada", "8.9")
    assert gpu.uuid and gpu.uuid.startswith("GPU-")
    assert gpu.pci_address == "0000:01:00.0"
    assert gpu.memory and gpu.memory.total == 24564 * MIB
    assert gpu.memory.free + gpu.memory.used + gpu.memory.reserved == gpu.memory.total
    assert gpu.power and (gpu.power.limit, gpu.power.default, gpu.power.minimum, gpu.power.maximum) == (450, 450, 150, 600)
    assert gpu.power.draw and gpu.power.draw < 450
    assert gpu.clocks and gpu.clocks.sm_maximum and gpu.clocks.sm_maximum > 2000
    assert (gpu.persistence, gpu.compute_mode, gpu.mig) == (False, "default", None)
    assert gpu.unavailable["mig"] == "Not Supported"
    json.dumps(found.as_dict())


def test_equal_cards_with_unequal_free_memory(board: t.Any) -> None:
    board("rtx3090-pair")
    one, other = snapshot().gpus
    assert one.memory and other.memory
    assert one.memory.total == other.memory.total
    assert one.memory.free != other.memory.free
    assert {one.display, other.display} == {True, False}
    assert [process.kind for process in (*one.processes, *other.processes)].count("graphics") >= 1


def test_cards_of_unequal_memory_are_not_for_tensor_parallelism(board: t.Any) -> None:
    board("rtx3090-rtx3060")
    found = topology(snapshot())
    assert found["tensor_parallel"] == []
    assert found["unfit"][0]["gpus"] == [0, 1]
    assert found["unfit"][0]["reason"].startswith("unequal VRAM: 24.0 GiB and 12.0 GiB")


def test_eight_with_nvlink(board: t.Any) -> None:
    board("h100x8")
    found = snapshot()
    assert len(found.gpus) == 8
    assert {gpu.nvlinks for gpu in found.gpus} == {18}
    assert {gpu.generation for gpu in found.gpus} == {"hopper"}
    assert len(found.links) == 28
    assert {link.p2p for link in found.links} == {"ok"}
    assert topology(found)["tensor_parallel"] == [list(range(8))]


def test_a_laptop_says_why_there_is_no_limit(board: t.Any) -> None:
    board("laptop")
    (gpu,) = snapshot().gpus
    assert gpu.power and gpu.power.limit is None and gpu.power.maximum is None
    assert gpu.unavailable["power.limit"] == "Not Supported"
    assert gpu.unavailable["power.constraints"] == "Not Supported"


def test_mig(board: t.Any) -> None:
    board("h100-mig")
    (gpu,) = snapshot().gpus
    assert gpu.mig is True
    assert "MIG is on" in topology(snapshot())["unfit"][0]["reason"]


def test_throttling_has_names(board: t.Any) -> None:
    board("rtx4090").edit("gpu.0.throttle_reasons", str(0x80 | 0x40 | 0x4))
    (gpu,) = snapshot().gpus
    assert gpu.throttle_reasons == ["sw_power_cap", "hw_thermal_slowdown", "hw_power_brake"]


def test_a_gpu_that_fell_off_the_bus_leaves_the_others(board: t.Any) -> None:
    board("lost")
    found = snapshot()
    assert found.available
    assert [gpu.index for gpu in found.gpus] == [0, 1, 2, 3]
    assert "lost" in found.gpus[2].unavailable["gpu"].lower()
    assert found.gpus[2].uuid is None
    assert all(gpu.memory for gpu in found.gpus if gpu.index != 2)
    assert 2 not in {index for link in found.links for index in link.gpus}


def test_a_driver_without_a_gpu(board: t.Any) -> None:
    board("none")
    found = snapshot()
    assert (found.available, found.gpus) == (True, [])


def test_a_driver_of_another_version_than_its_libraries(board: t.Any) -> None:
    board("mismatch")
    found = snapshot()
    assert (found.available, found.reason) == (False, "mismatch")
    assert found.message and "reboot" in found.message


def test_no_driver_is_loaded(board: t.Any) -> None:
    board(None)
    found = snapshot()
    assert (found.available, found.reason) == (False, "driver")
    assert found.message and "load it, or reboot" in found.message


@pytest.mark.parametrize("blocked", ["library", "python"])
def test_nothing_is_installed(blocked: str) -> None:
    """In a process of its own: this one has loaded the stand-in."""
    program = (
        "import json, sys\n"
        + ("sys.modules['pynvml'] = None\n" if blocked == "python" else "")
        + "from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot\n"
        "print(json.dumps(snapshot().as_dict()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    found = json.loads(done.stdout)
    assert (found["available"], found["reason"], found["gpus"]) == (False, blocked, [])


def test_the_tools_environment_comes_first(board: t.Any, tmp_path: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    board("rtx4090")
    site = tmp_path / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "pynvml.py").write_text("raise ImportError('the one of the tools')\n")
    monkeypatch.setattr(_nvml, "TOOLS", tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml")
    assert snapshot().reason == "python"
    assert str(site) not in sys.path
