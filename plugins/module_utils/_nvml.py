# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One session with NVML through nvidia-ml-py: what the GPUs of this machine are and do.

A missing library, a driver that is not loaded and a machine without GPUs are answers, not errors, and so is a question that a board does
not support: that value is ``None``, and the record's ``unavailable`` says why. Names and units of NVML itself:
https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
import itertools
import sys
import typing as t
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._pci import generation

# Where role common installs the libraries that modules need on a host.
TOOLS = Path("/opt/llm/tools/current")

# Bits of nvmlDeviceGetCurrentClocksEventReasons.
THROTTLE_REASONS = {
    0x001: "idle",
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive_process"}
# How far apart two GPUs are, from the same board to different processors' buses.
ANCESTORS = {0: "internal", 10: "single_switch", 20: "switches", 30: "host_bridge", 40: "numa_node", 50: "system"}
P2P = {
    0: "ok",
    1: "chipset_not_supported",
    2: "gpu_not_supported",
    3: "topology_not_supported",
    4: "disabled_by_registry",
    5: "not_supported",
    6: "unknown",
}


class NvmlUnavailable(LLMError):
    """NVML does not answer. ``reason`` is one of python, library, driver, mismatch, error."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Memory:
    """Bytes. ``used`` is without what the driver has ``reserved``; the four are NVML's memory version 2."""

    total: int
    reserved: int
    used: int
    free: int


@dataclass(frozen=True)
class Power:
    """Watts. ``limit`` is what was set, ``enforced`` the lowest of all limits in force, ``draw`` the board now."""

    limit: float | None
    default: float | None
    minimum: float | None
    maximum: float | None
    enforced: float | None
    draw: float | None


@dataclass(frozen=True)
class Clocks:
    """MHz, now and at the most."""

    sm: int | None
    memory: int | None
    sm_maximum: int | None
    memory_maximum: int | None


@dataclass(frozen=True)
class Process:
    """A process on a GPU; ``memory`` in bytes, ``kind`` is compute or graphics."""

    pid: int
    name: str | None
    memory: int | None
    kind: str


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``unavailable`` maps the path of each value that is ``None`` (``power.limit``; ``gpu`` for all) to the reason."""

    index: int
    uuid: str | None = None
    name: str | None = None
    pci_address: str | None = None
    minor: int | None = None
    generation: str = "unknown"
    compute_capability: str | None = None
    memory: Memory | None = None
    power: Power | None = None
    clocks: Clocks | None = None
    persistence: bool | None = None
    compute_mode: str | None = None
    ecc: bool | None = None
    mig: bool | None = None
    p_state: int | None = None
    temperature: int | None = None
    throttle_reasons: list[str] | None = None
    display: bool | None = None
    processes: list[Process] = field(default_factory=list)
    nvlinks: int | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """Two GPUs: how far apart, whether each can read the other's memory, and how many NVLinks run directly between them."""

    gpus: tuple[int, int]
    ancestor: str | None
    p2p: str | None
    nvlinks: int


@dataclass(frozen=True)
class Snapshot:
    """What NVML says at one moment. With ``available`` false, ``reason`` and ``message`` say why there is nothing."""

    available: bool
    reason: str | None = None
    message: str | None = None
    driver: str | None = None
    nvml: str | None = None
    cuda: str | None = None
    gpus: list[Gpu] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def snapshot() -> Snapshot:
    """Everything at once. Never raises for what a machine lacks."""
    try:
        with session() as nvml:
            found = [read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
            gpus = [gpu for gpu, _peers in found]
            peers = {gpu.index: linked for gpu, linked in found}
            ask = _Asker(nvml, {})
            return Snapshot(
                available=True,
                driver=ask("driver", "nvmlSystemGetDriverVersion"),
                nvml=ask("nvml", "nvmlSystemGetNVMLVersion"),
                cuda=ask("cuda", "nvmlSystemGetCudaDriverVersion_v2", convert=lambda version: f"{version // 1000}.{version % 1000 // 10}"),
                gpus=gpus,
                links=[_link(nvml, one, other, peers) for one, other in itertools.combinations(gpus, 2) if one.uuid and other.uuid],
            )
    except NvmlUnavailable as exc:
        return Snapshot(available=False, reason=exc.reason, message=str(exc))
    except LLMError as exc:
        return Snapshot(available=False, reason="error", message=str(exc))


@contextmanager
def session() -> t.Iterator[t.Any]:
    """The module ``pynvml``, initialised; ends the session afterwards. Raises ``NvmlUnavailable``, later ``LLMError``."""
    nvml = _library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        raise _unavailable(nvml, exc) from exc
    try:
        yield nvml
    except nvml.NVMLError as exc:
        raise LLMError(f"NVML: {exc}.") from exc
    finally:
        nvml.nvmlShutdown()


def _library() -> t.Any:
    sites = [str(path) for path in TOOLS.glob("lib/python3*/site-packages")]
    sys.path[:0] = sites
    try:
        return importlib.import_module("pynvml")
    except ImportError as exc:
        raise NvmlUnavailable(
            "python", f"The Python library nvidia-ml-py is neither installed for this interpreter nor in {TOOLS}: role common installs it there."
        ) from exc
    finally:
        for site in sites:
            sys.path.remove(site)


def _unavailable(nvml: t.Any, error: t.Any) -> NvmlUnavailable:
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return NvmlUnavailable("library", "libnvidia-ml.so.1 is not there: no NVIDIA driver is installed.")
    if error.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return NvmlUnavailable("driver", "The NVIDIA kernel module is not loaded: load it, or reboot after an installation.")
    if error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return NvmlUnavailable("mismatch", "The loaded NVIDIA kernel module and the installed libraries are of different versions: reboot.")
    return NvmlUnavailable("error", f"NVML cannot be initialised: {error}.")


class _Asker:
    """Asks NVML about one thing and notes in ``unavailable`` what it does not answer."""

    def __init__(self, nvml: t.Any, unavailable: dict[str, str]) -> None:
        self._nvml = nvml
        self._unavailable = unavailable

    def __call__(self, path: str, function: str, *arguments: t.Any, convert: t.Callable[[t.Any], t.Any] = lambda value: value) -> t.Any:
        try:
            return convert(getattr(self._nvml, function)(*arguments))
        except self._nvml.NVMLError as exc:
            self._unavailable[path] = str(exc)
        except AttributeError:
            self._unavailable[path] = f"this nvidia-ml-py has no {function}"
        return None


def read_gpu(nvml: t.Any, index: int) -> tuple[Gpu, list[str]]:
    """A GPU, and the PCI addresses at the far ends of its NVLinks. A GPU that does not answer is a record that says so."""
    unavailable: dict[str, str] = {}
    asker = _Asker(nvml, unavailable)
    handle = asker("gpu", "nvmlDeviceGetHandleByIndex", index)
    uuid = handle and asker("gpu", "nvmlDeviceGetUUID", handle)
    if uuid is None:
        return Gpu(index, unavailable=unavailable), []

    def ask(path: str, function: str, *arguments: t.Any, convert: t.Callable[[t.Any], t.Any] = lambda value: value) -> t.Any:
        return asker(path, function, handle, *arguments, convert=convert)

    pci = ask("pci_address", "nvmlDeviceGetPciInfo")
    links = list(_far_ends(nvml, handle))
    gpu = Gpu(
        index=index,
        uuid=uuid,
        name=ask("name", "nvmlDeviceGetName"),
        pci_address=pci and _address(pci.busId),
        minor=ask("minor", "nvmlDeviceGetMinorNumber"),
        generation=generation(pci.pciDeviceId >> 16) if pci else "unknown",
        compute_capability=ask("compute_capability", "nvmlDeviceGetCudaComputeCapability", convert=lambda pair: f"{pair[0]}.{pair[1]}"),
        memory=ask("memory", "nvmlDeviceGetMemoryInfo", getattr(nvml, "nvmlMemory_v2", None), convert=_memory),
        power=_power(ask),
        clocks=Clocks(
            sm=ask("clocks.sm", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory=ask("clocks.memory", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            sm_maximum=ask("clocks.sm_maximum", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            memory_maximum=ask("clocks.memory_maximum", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        ),
        persistence=ask("persistence", "nvmlDeviceGetPersistenceMode", convert=bool),
        compute_mode=ask("compute_mode", "nvmlDeviceGetComputeMode", convert=lambda mode: COMPUTE_MODES.get(mode, str(mode))),
        ecc=ask("ecc", "nvmlDeviceGetEccMode", convert=lambda modes: bool(modes[0])),
        mig=ask("mig", "nvmlDeviceGetMigMode", convert=lambda modes: bool(modes[0])),
        p_state=ask("p_state", "nvmlDeviceGetPerformanceState"),
        temperature=ask("temperature", "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        throttle_reasons=ask("throttle_reasons", "nvmlDeviceGetCurrentClocksEventReasons", convert=_reasons),
        display=ask("display", "nvmlDeviceGetDisplayActive", convert=bool),
        processes=[*_processes(nvml, ask, "compute"), *_processes(nvml, ask, "graphics")],
        nvlinks=len(links),
        unavailable=unavailable,
    )
    return gpu, links


def _memory(info: t.Any) -> Memory:
    return Memory(int(info.total), int(info.reserved), int(info.used), int(info.free))


def _power(ask: t.Callable[..., t.Any]) -> Power:
    def watts(milliwatts: int) -> float:
        return milliwatts / 1000

    constraints = ask("power.constraints", "nvmlDeviceGetPowerManagementLimitConstraints", convert=lambda pair: [watts(part) for part in pair])
    return Power(
        limit=ask("power.limit", "nvmlDeviceGetPowerManagementLimit", convert=watts),
        default=ask("power.default", "nvmlDeviceGetPowerManagementDefaultLimit", convert=watts),
        minimum=constraints and constraints[0],
        maximum=constraints and constraints[1],
        enforced=ask("power.enforced", "nvmlDeviceGetEnforcedPowerLimit", convert=watts),
        draw=ask("power.draw", "nvmlDeviceGetPowerUsage", convert=watts),
    )


def _reasons(bits: int) -> list[str]:
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]


def _processes(nvml: t.Any, ask: t.Callable[..., t.Any], kind: str) -> t.Iterator[Process]:
    for process in ask(f"processes.{kind}", f"nvmlDeviceGet{kind.capitalize()}RunningProcesses") or ():
        name = _Asker(nvml, {})("name", "nvmlSystemGetProcessName", process.pid)  # another user's process has a name for root alone
        yield Process(process.pid, name, process.usedGpuMemory, kind)


def _far_ends(nvml: t.Any, handle: t.Any) -> t.Iterator[str]:
    """Where each active NVLink ends: at another GPU or at a switch."""
    ask = _Asker(nvml, {})
    for number in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
        state = ask("link", "nvmlDeviceGetNvLinkState", handle, number)
        if state is None:
            return  # beyond the last link, or a board without any
        if state:
            far = ask("link", "nvmlDeviceGetNvLinkRemotePciInfo", handle, number)
            yield _address(far.busId) if far else ""


def _link(nvml: t.Any, one: Gpu, other: Gpu, peers: t.Mapping[int, list[str]]) -> Link:
    ask = _Asker(nvml, {})
    handles = [nvml.nvmlDeviceGetHandleByIndex(gpu.index) for gpu in (one, other)]
    return Link(
        gpus=(one.index, other.index),
        ancestor=ask("ancestor", "nvmlDeviceGetTopologyCommonAncestor", *handles, convert=ANCESTORS.get),
        # The constant for reading is a tuple in nvidia-ml-py; its value is 0.
        p2p=ask("p2p", "nvmlDeviceGetP2PStatus", *handles, 0, convert=P2P.get),
        nvlinks=peers[one.index].count(other.pci_address or "-"),
    )


def _address(bus_id: str | bytes) -> str:
    """NVML's ``00000000:01:00.0`` as the kernel writes it, ``0000:01:00.0``."""
    text = bus_id.decode() if isinstance(bus_id, bytes) else bus_id
    return text.lower()[-12:]
