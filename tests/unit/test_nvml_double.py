# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in NVML library, asked through the real nvidia-ml-py."""

from __future__ import annotations

import importlib
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

BOARDS = Path(__file__).resolve().parent / "fixtures/boards"
BoardMaker = t.Callable[[t.Optional[str]], t.Any]
pynvml: t.Any = importlib.import_module("pynvml")
MIB = 1 << 20
SM, MEMORY = 1, 2
INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, LOST = 2, 3, 4, 6, 15
SETTERS: list[tuple[t.Any, ...]] = [
    ("nvmlDeviceSetPowerManagementLimit", 300_000),
    ("nvmlDeviceSetGpuLockedClocks", 210, 1500),
    ("nvmlDeviceResetGpuLockedClocks",),
    ("nvmlDeviceSetMemoryLockedClocks", 5001, 5001),
    ("nvmlDeviceResetMemoryLockedClocks",),
    ("nvmlDeviceSetPersistenceMode", 1),
    ("nvmlDeviceSetComputeMode", 3),
]
# What one GPU answers: function, arguments, answer.
READS: list[tuple[str, tuple[int, ...], t.Any]] = [
    ("nvmlDeviceGetIndex", (), 0), ("nvmlDeviceGetMinorNumber", (), 0), ("nvmlDeviceGetUUID", (), "GPU-4090a1f0-5c2e-4b6d-9a37-1c0d8e5f2b41"),
    ("nvmlDeviceGetName", (), "NVIDIA GeForce RTX 4090"), ("nvmlDeviceGetBoardId", (), 0x100), ("nvmlDeviceGetCudaComputeCapability", (), (8, 9)),
    ("nvmlDeviceGetArchitecture", (), 8), ("nvmlDeviceGetPowerManagementLimit", (), 450_000),
    ("nvmlDeviceGetPowerManagementLimitConstraints", (), [150_000, 600_000]), ("nvmlDeviceGetPowerManagementDefaultLimit", (), 450_000),
    ("nvmlDeviceGetEnforcedPowerLimit", (), 450_000), ("nvmlDeviceGetPowerUsage", (), 14_830), ("nvmlDeviceGetClockInfo", (0,), 210),
    ("nvmlDeviceGetClockInfo", (SM,), 210), ("nvmlDeviceGetClockInfo", (MEMORY,), 405), ("nvmlDeviceGetMaxClockInfo", (SM,), 3105),
    ("nvmlDeviceGetMaxClockInfo", (MEMORY,), 10501), ("nvmlDeviceGetMaxClockInfo", (3,), 2415),
    ("nvmlDeviceGetSupportedMemoryClocks", (), [10501, 10251, 5001, 810, 405]),
    ("nvmlDeviceGetSupportedGraphicsClocks", (10501,), list(range(3105, 209, -15))),
    ("nvmlDeviceGetSupportedGraphicsClocks", (405,), list(range(420, 209, -15))), ("nvmlDeviceGetSupportedGraphicsClocks", (400,), NOT_FOUND),
    ("nvmlDeviceGetPersistenceMode", (), 0), ("nvmlDeviceGetComputeMode", (), 0), ("nvmlDeviceGetEccMode", (), NOT_SUPPORTED),
    ("nvmlDeviceGetMigMode", (), NOT_SUPPORTED), ("nvmlDeviceGetMaxMigDeviceCount", (), 0), ("nvmlDeviceGetPerformanceState", (), 8),
    ("nvmlDeviceGetTemperature", (0,), 34), ("nvmlDeviceGetTemperatureV", (0,), 34), ("nvmlDeviceGetCurrentClocksEventReasons", (), 1),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", (), 1), ("nvmlDeviceGetComputeRunningProcesses", (), []),
    ("nvmlDeviceGetGraphicsRunningProcesses", (), []), ("nvmlDeviceGetDisplayActive", (), 0), ("nvmlDeviceGetDisplayMode", (), 26),
    ("nvmlDeviceGetNvLinkState", (0,), NOT_SUPPORTED),
]  # fmt: skip
# What not every board answers.
OPTIONAL = ("EccMode", "MigMode", "NvLinkState", "DisplayMode", "GraphicsClocks", "ManagementLimit", "LimitConstraints", "DefaultLimit")


def answer(function: str, *arguments: t.Any) -> t.Any:
    """What NVML says; an error is its number."""
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as exc:
        return exc.value


def gpu(index: int = 0) -> t.Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def in_child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import pynvml as n\nn.nvmlInit()\ng = n.nvmlDeviceGetHandleByIndex\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in BOARDS.glob("*.board") if path.stem != "mismatch"))
def test_every_board_is_whole_and_agrees_with_itself(board: BoardMaker, name: str) -> None:
    board(name)
    pynvml.nvmlInit()
    gpus = [gpu(index) for index in range(pynvml.nvmlDeviceGetCount()) if (name, index) != ("lost", 2)]
    for one in gpus:
        for function, arguments, _answer in READS:
            if not function.endswith(OPTIONAL):
                getattr(pynvml, function)(one, *arguments)
        memory = pynvml.nvmlDeviceGetSupportedMemoryClocks(one)
        assert memory[0] == pynvml.nvmlDeviceGetMaxClockInfo(one, MEMORY)
        assert pynvml.nvmlDeviceGetSupportedGraphicsClocks(one, memory[0])[0] == pynvml.nvmlDeviceGetMaxClockInfo(one, SM)
        if name != "laptop":
            low, high = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(one)
            assert 0 < low <= pynvml.nvmlDeviceGetPowerManagementDefaultLimit(one) <= high
    assert len({pynvml.nvmlDeviceGetUUID(one) for one in gpus}) == len({pynvml.nvmlDeviceGetPciInfo(one).busId for one in gpus}) == len(gpus)


def test_the_system(board: BoardMaker) -> None:
    board("rtx4090")
    pynvml.nvmlInitWithFlags(0)
    assert (pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetNVMLVersion()) == ("580.95.05", "13.580.95.05")
    assert pynvml.nvmlSystemGetCudaDriverVersion() == pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13000
    assert (pynvml.nvmlDeviceGetCount(), pynvml.nvmlErrorString(LOST)) == (1, "GPU is lost")
    pynvml.nvmlShutdown()
    assert (answer("nvmlSystemGetDriverVersion"), answer("nvmlShutdown")) == (1, 1)


@pytest.mark.parametrize(("function", "arguments", "expected"), READS)
def test_what_a_gpu_answers(board: BoardMaker, function: str, arguments: tuple[int, ...], expected: t.Any) -> None:
    board("rtx4090")
    pynvml.nvmlInit()
    assert answer(function, gpu(), *arguments) == expected


def test_structures(board: BoardMaker) -> None:
    board("rtx4090")
    pynvml.nvmlInit()
    memory, old = pynvml.nvmlDeviceGetMemoryInfo(gpu(), version=pynvml.nvmlMemory_v2), pynvml.nvmlDeviceGetMemoryInfo(gpu())
    assert [part // MIB for part in (memory.total, memory.reserved, memory.used, memory.free)] == [24564, 473, 1, 24090]
    assert [part // MIB for part in (old.total, old.used, old.free)] == [24564, 474, 24090]
    pci, rates = pynvml.nvmlDeviceGetPciInfo(gpu()), pynvml.nvmlDeviceGetUtilizationRates(gpu())
    assert (pci.busId, pci.busIdLegacy, pci.bus, pci.pciDeviceId) == ("00000000:01:00.0", "0000:01:00.0", 1, 0x268410DE)
    assert (rates.gpu, rates.memory) == (0, 0)


def test_handles(board: BoardMaker) -> None:
    board("rtx3090-pair")
    pynvml.nvmlInit()
    uuid = pynvml.nvmlDeviceGetUUID(gpu(1))
    for handle in (pynvml.nvmlDeviceGetHandleByUUID(uuid), *map(pynvml.nvmlDeviceGetHandleByPciBusId, ("0000:0a:00.0", "0A:00.0"))):
        assert pynvml.nvmlDeviceGetIndex(handle) == 1
    assert answer("nvmlDeviceGetHandleByIndex", 2) == INVALID
    assert answer("nvmlDeviceGetHandleByUUID", "GPU-0") == answer("nvmlDeviceGetHandleByPciBusId", "0000:0b:00.0") == NOT_FOUND


def test_processes(board: BoardMaker) -> None:
    made = board("rtx3090-pair")
    made.edit("gpu.1.process.2", "2107 compute unknown /usr/bin/python3 serve.py")
    pynvml.nvmlInit()
    drawing, computing = pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu(1)), pynvml.nvmlDeviceGetComputeRunningProcesses(gpu(1))
    assert [(one.pid, one.usedGpuMemory) for one in drawing] == [(1802, 598 * MIB), (1990, 187 * MIB)]
    assert [(one.pid, one.usedGpuMemory) for one in computing] == [(2107, None)]
    assert pynvml.nvmlSystemGetProcessName(2107) == "/usr/bin/python3 serve.py"
    assert answer("nvmlSystemGetProcessName", 1) == NOT_FOUND
    count, room = pynvml.c_uint(1), (pynvml.c_nvmlProcessInfo_v3_t * 1)()
    assert pynvml.nvmlLib.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu(1), pynvml.byref(count), room) == 7
    assert count.value == 2


def test_between_gpus(board: BoardMaker) -> None:
    made = board("h100x8")
    made.edit("p2p.nvlink.0.7", 5)
    pynvml.nvmlInit()
    assert [answer("nvmlDeviceGetTopologyCommonAncestor", gpu(0), gpu(peer)) for peer in (0, 3, 4)] == [INVALID, 40, 50]
    assert answer("nvmlDeviceGetTopologyCommonAncestor", gpu(7), gpu(4)) == 40
    assert [answer("nvmlDeviceGetP2PStatus", gpu(7), gpu(0), way) for way in (0, 2, 9)] == [0, 5, INVALID]
    assert [answer("nvmlDeviceGetNvLinkState", gpu(3), link) for link in (0, 17, 18)] == [1, 1, INVALID]
    assert pynvml.nvmlDeviceGetNvLinkRemotePciInfo(gpu(3), 17).busId == "00000000:0A:00.0"
    assert (pynvml.nvmlDeviceGetEccMode(gpu()), pynvml.nvmlDeviceGetMigMode(gpu())) == ([1, 1], [0, 0])
    made.edit("gpu.*.nvlink.17", None)
    assert (pynvml.nvmlDeviceGetNvLinkState(gpu(3), 17), answer("nvmlDeviceGetNvLinkRemotePciInfo", gpu(3), 17)) == (0, NOT_SUPPORTED)


@pytest.mark.parametrize("setter", SETTERS)
def test_root_alone_sets_and_every_call_is_noted(board: BoardMaker, monkeypatch: pytest.MonkeyPatch, setter: tuple[t.Any, ...]) -> None:
    made = board("rtx4090")
    assert answer(setter[0], None, *setter[1:]) == 1
    pynvml.nvmlInit()
    assert answer(setter[0], gpu(), *setter[1:]) is None
    monkeypatch.setenv("NVML_DOUBLE_EUID", "1000")
    assert answer(setter[0], gpu(), *setter[1:]) == NO_PERMISSION
    line = " ".join(map(str, (setter[0], 0, *setter[1:])))
    assert made.calls() == [f"{line} -> 0", f"{line} -> {NO_PERMISSION}"]


@pytest.mark.parametrize(
    ("setter", "refused", "taken"),
    [
        ("nvmlDeviceSetPowerManagementLimit", [(149_999,), (600_001,)], [(150_000,), (600_000,)]),
        ("nvmlDeviceSetGpuLockedClocks", [(1500, 1485), (210, 3106), (0, 209)], [(0, 210), (3105, 3105)]),
        ("nvmlDeviceSetMemoryLockedClocks", [(810, 405), (405, 10502), (0, 404)], [(405, 405), (0, 10501)]),
        ("nvmlDeviceSetPersistenceMode", [(2,)], [(0,), (1,)]),
        ("nvmlDeviceSetComputeMode", [(4,)], [(0,), (2,), (3,)]),
    ],
)
def test_what_a_board_takes(board: BoardMaker, setter: str, refused: list[tuple[int, ...]], taken: list[tuple[int, ...]]) -> None:
    board("rtx4090")
    pynvml.nvmlInit()
    assert [answer(setter, gpu(), *values) for values in refused] == [INVALID] * len(refused)
    assert [answer(setter, gpu(), *values) for values in taken] == [None] * len(taken)


def test_what_was_set_counts(board: BoardMaker) -> None:
    made = board("rtx4090")
    made.edit("gpu.0.power.enforced", 400)
    pynvml.nvmlInit()
    for function, *arguments in ((*SETTERS[0],), ("nvmlDeviceSetGpuLockedClocks", 900, 1500), *SETTERS[3::2], SETTERS[6]):
        getattr(pynvml, function)(gpu(), *arguments)
    assert (pynvml.nvmlDeviceGetPowerManagementLimit(gpu()), pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu())) == (300_000, 300_000)
    assert [pynvml.nvmlDeviceGetClockInfo(gpu(), kind) for kind in (SM, MEMORY)] == [900, 5001]
    assert (pynvml.nvmlDeviceGetPersistenceMode(gpu()), pynvml.nvmlDeviceGetComputeMode(gpu())) == (1, 3)
    pynvml.nvmlDeviceResetGpuLockedClocks(gpu())
    pynvml.nvmlDeviceResetMemoryLockedClocks(gpu())
    assert [pynvml.nvmlDeviceGetClockInfo(gpu(), kind) for kind in (SM, MEMORY)] == [210, 405]
    pynvml.nvmlDeviceSetPowerManagementLimit(gpu(), 500_000)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu()) == 400_000


@pytest.mark.parametrize(
    ("name", "edit", "left"),
    [("rtx4090", None, 450_000), ("rtx4090", ("gpu.0.persistence", "on"), 300_000), ("rtx4090", ("gpu.0.process.0", "9 compute 1 MiB x"), 300_000)],
)
def test_who_forgets_when_the_last_session_ends(board: BoardMaker, name: str, edit: tuple[str, str] | None, left: int) -> None:
    made = board(name)
    if edit:
        made.edit(*edit)
    with in_child("print(1, flush=True)\ninput()") as other:
        assert other.stdout and other.stdout.readline() == "1\n"
        pynvml.nvmlInit()
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu(), 300_000)
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu()) == 300_000  # the other one's session has kept it
        pynvml.nvmlShutdown()
        other.kill()
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu()) == left
    made.forget()
    assert (pynvml.nvmlDeviceGetPowerManagementLimit(gpu()), made.calls()) == (450_000, [])


def test_two_processes_set_at_once(board: BoardMaker) -> None:
    made = board("h100x8")
    code = "for step in range(50):\n n.nvmlDeviceSetPowerManagementLimit(g({0}), 400_000 + step)\n n.nvmlDeviceSetComputeMode(g({0}), 3)"
    children = [in_child(code.format(index)) for index in (2, 5)]
    assert [(child.communicate(), child.returncode)[1] for child in children] == [0, 0]
    pynvml.nvmlInit()
    for index in (2, 5):
        assert (pynvml.nvmlDeviceGetPowerManagementLimit(gpu(index)), pynvml.nvmlDeviceGetComputeMode(gpu(index))) == (400_049, 3)
    assert len(made.calls()) == 200


def test_boards_that_refuse(board: BoardMaker) -> None:
    board("a2000-pair-display")
    pynvml.nvmlInit()
    assert answer("nvmlDeviceGetPowerManagementLimit", gpu()) == 70_000
    assert answer("nvmlDeviceSetPowerManagementLimit", gpu(), 70_000) == NOT_SUPPORTED
    board("laptop")
    for function in ("Limit", "LimitConstraints", "DefaultLimit"):
        assert answer(f"nvmlDeviceGetPowerManagement{function}", gpu()) == NOT_SUPPORTED
    assert answer("nvmlDeviceSetPowerManagementLimit", gpu(), 50_000) == NOT_SUPPORTED
    assert answer("nvmlDeviceGetEnforcedPowerLimit", gpu()) == 95_000
    board("h100-mig")
    assert (answer("nvmlDeviceGetMigMode", gpu()), answer("nvmlDeviceGetMaxMigDeviceCount", gpu())) == ([1, 1], 7)
    assert answer("nvmlDeviceSetComputeMode", gpu(), 3) == answer("nvmlDeviceGetUtilizationRates", gpu()) == NOT_SUPPORTED


def test_a_lost_gpu_answers_nothing_and_the_others_everything(board: BoardMaker) -> None:
    made = board("lost")
    pynvml.nvmlInit()
    assert (pynvml.nvmlDeviceGetCount(), answer("nvmlDeviceGetHandleByIndex", 2)) == (4, LOST)
    assert answer("nvmlDeviceGetName", gpu(3)) == "NVIDIA A100 80GB PCIe"
    made.edit("gpu.3.error.nvmlDeviceGetMemoryInfo", 999)
    assert [answer("nvmlDeviceGetMemoryInfo", gpu(index), pynvml.nvmlMemory_v2) == 999 for index in (1, 3)] == [False, True]
    handle = gpu(1)
    made.edit("gpu.1.error.*", LOST)
    assert answer("nvmlDeviceGetName", handle) == answer("nvmlDeviceGetTopologyCommonAncestor", gpu(0), handle) == LOST
    assert answer("nvmlDeviceSetPersistenceMode", handle, 1) == LOST
    assert made.calls() == ["nvmlDeviceSetPersistenceMode 1 1 -> 15"]


def test_nothing_to_ask(board: BoardMaker) -> None:
    board(None)
    assert answer("nvmlInit") == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    board("mismatch")
    assert (answer("nvmlInit"), answer("nvmlSystemGetDriverVersion")) == (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, 1)
    board("none")
    assert (answer("nvmlInit"), answer("nvmlDeviceGetCount")) == (None, 0)


@pytest.mark.usefixtures("no_nvml_library")
def test_no_library() -> None:
    assert answer("nvmlInit") == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
