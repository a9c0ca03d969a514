# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_machine import Unknown, machine
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Link, Memory, Process, Snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB

NOTHING = Snapshot(available=False, reason="library", message="libnvidia-ml.so.1 is not there: no NVIDIA driver is installed.")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       65536000 kB\nMemFree:  1 kB\n")
    for pid, unit in ((100, "system.slice/llm-llama-router.service"), (200, "user.slice/user-1000.slice/session-2.scope")):
        (tmp_path / f"proc/{pid}").mkdir()
        (tmp_path / f"proc/{pid}/cgroup").write_text(f"0::/{unit}\n")
    return tmp_path


def board(index: int, **more: t.Any) -> Gpu:
    memory = Memory(total=24564 * MIB, reserved=473 * MIB, used=0, free=0)
    return Gpu(index, uuid=f"GPU-{index}", name="NVIDIA GeForce RTX 4090", compute_capability="8.9", memory=memory, **more)


def test_what_nvml_finds(root: Path) -> None:
    processes = [Process(100, "llama-server", GIB, "compute"), Process(200, "Xorg", 64 * MIB, "graphics"), Process(200, "Xorg", 64 * MIB, "compute")]
    found = Snapshot(available=True, gpus=[board(0, display=True, processes=processes), board(1)], links=[Link((0, 1), "system", "ok", 0)])
    here = machine("box", found, 2, [], root)
    assert here.source == "nvml"
    assert here.ram == 65536000 * 1024
    assert (here.gpus[0].total, here.gpus[0].driver, here.gpus[0].display, here.gpus[1].display) == (24564 * MIB, 473 * MIB, True, False)
    assert here.tensor_parallel == ((0, 1),)
    # our own engine is no stranger, and a process in two lists is one
    assert [(process.pid, process.memory) for process in here.gpus[0].others] == [(200, 64 * MIB)]


def test_gpus_without_p2p_share_no_model(root: Path) -> None:
    found = Snapshot(available=True, gpus=[board(0), board(1)], links=[Link((0, 1), "system", "not_supported", 0)])
    here = machine("box", found, 2, [], root)
    assert here.tensor_parallel == ()
    assert here.unfit[0][0] == (0, 1)
    assert "no P2P" in here.unfit[0][1]


def test_a_gpu_that_does_not_answer_has_no_room(root: Path) -> None:
    found = Snapshot(available=True, gpus=[Gpu(0, unavailable={"gpu": "GPU is lost"})])
    assert machine("box", found, 1, [], root).gpus[0].total == 0


def test_plan_before_you_buy(root: Path) -> None:
    here = machine("box", NOTHING, 0, [{"name": "RTX 4090", "count": 2}, {"name": "Some board", "memory": "48GiB", "compute_capability": "10.0"}], root)
    assert here.source == "llm_gpus"
    assert [(gpu.index, gpu.total, gpu.compute_capability) for gpu in here.gpus] == [
        (0, 24564 * MIB, "8.9"),
        (1, 24564 * MIB, "8.9"),
        (2, 48 * GIB, "10.0"),
    ]
    assert here.tensor_parallel == ((0, 1),)
    assert all(gpu.driver > 0 for gpu in here.gpus)


def test_given_gpus_without_p2p(root: Path) -> None:
    here = machine("box", NOTHING, 0, [{"name": "RTX 4090", "count": 2, "p2p": False}], root)
    assert here.tensor_parallel == ()
    assert here.unfit == (((0, 1), "llm_gpus says that they have no P2P"),)


def test_no_gpu_at_all(root: Path) -> None:
    here = machine("box", NOTHING, 0, [], root)
    assert (here.gpus, here.source) == ((), "ram")


def test_a_gpu_of_which_nobody_knows_anything(root: Path) -> None:
    with pytest.raises(Unknown, match="no NVIDIA driver is installed"):
        machine("box", NOTHING, 1, [], root)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"name": "RTX 4090"}], "llm_gpus of box lists 1 GPUs, but the host has 2: correct the list"),
        ([{"name": "RTX 4090"}, {"name": "RTX 3060"}], "GPU 1 is given as RTX 3060 with 12.0 GiB, but the host has NVIDIA GeForce RTX 4090 with 24.0 GiB"),
        ([{"name": "RTX 4099"}], "the memory of RTX 4099 is not known here .did you mean RTX 4090..: add memory"),
        ([{"name": "x", "memory": "24GB"}], "llm_gpus of box: memory of x is '24GB': write a number with a unit"),
        ([{"name": "RTX 4090", "count": 0}], "count of RTX 4090 is 0"),
        ([{"name": "RTX 4090", "vram": "24GiB"}], "RTX 4090 has vram; there is: compute_capability, count"),
        (["RTX 4090"], "llm_gpus of box has 'RTX 4090': write a mapping"),
    ],
)
def test_a_list_that_is_wrong_or_does_not_match_the_host(root: Path, given: list[t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        machine("box", Snapshot(available=True, gpus=[board(0), board(1)]), 2, given, root)


def test_a_list_that_does_not_match_the_bus(root: Path) -> None:
    with pytest.raises(InputError, match="llm_gpus of box lists 2 GPUs, but 1 are on its bus"):
        machine("box", NOTHING, 1, [{"name": "RTX 4090", "count": 2}], root)


def test_a_list_may_round(root: Path) -> None:
    found = Snapshot(available=True, gpus=[board(0)])
    assert machine("box", found, 1, [{"name": "4090", "memory": "24GiB"}], root).gpus[0].total == 24564 * MIB


def name_boards(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        directory = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        directory.mkdir(parents=True)
        (directory / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 36\n")


def test_before_the_library_is_there_a_well_known_board_is_enough(root: Path) -> None:
    name_boards(root, "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 4090")
    here = machine("box", NOTHING, 2, [], root)
    assert (here.source, [gpu.total for gpu in here.gpus]) == ("boards", [24576 * MIB, 24564 * MIB])


@pytest.mark.parametrize("names", [("NVIDIA GeForce RTX 3090", "Something new"), ("NVIDIA GeForce RTX 3090",)])
def test_one_unknown_board_is_too_many(root: Path, names: tuple[str, ...]) -> None:
    name_boards(root, *names)
    with pytest.raises(Unknown):
        machine("box", NOTHING, 2, [], root)
