# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a machine is and has, as far as a preflight wants to know. Only reads, in milliseconds, and without root.

What cannot be known is ``None`` or empty, never an error. Sizes are in bytes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import stat
import struct
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener, listeners
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._pci import nvidia_gpus

# Flags of /proc/cpuinfo that decide whether, and how fast, an engine runs without a GPU; asimd is what ARM calls NEON.
CPU_FLAGS = ("sse4_2", "avx", "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "bmi2", "f16c", "fma", "asimd", "sve")
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/local/bin", "bin", "sbin")
_LIBRARY_DIRECTORIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib")
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")
_NOT_SYNCHRONIZED = 16_000_000  # microseconds


@dataclass(frozen=True)
class System:
    """The operating system; ``like`` are the ids of those that it descends from."""

    id: str
    version: str
    name: str
    like: list[str]
    kernel: str
    architecture: str
    glibc: str
    systemd: bool
    container: bool
    reboot_pending: bool
    clock_synchronized: bool | None
    secure_boot: bool | None


@dataclass(frozen=True)
class Disk:
    """The file system of a path that need not exist yet, and how much of the path's own content is already there."""

    path: str
    mount: str
    free: int
    present: int


@dataclass(frozen=True)
class PciDevice:
    """An NVIDIA GPU on the bus, and the kernel driver that has it."""

    address: str
    device: str
    generation: str
    driver: str


@dataclass(frozen=True)
class Containers:
    """What runs containers, and what gives them GPUs: programs by name, CDI specifications by path."""

    programs: list[str]
    docker_socket: bool
    toolkit: list[str]
    cdi: list[str]


@dataclass(frozen=True)
class Facts:
    """Everything. ``nvidia_module`` is the version of the loaded kernel module, ``nvidia_library`` that of NVML's library."""

    system: System
    cpus: int
    cpu_flags: list[str]
    ram_total: int
    ram_available: int
    disks: list[Disk]
    pci: list[PciDevice]
    nvml: Snapshot
    nouveau: bool
    nvidia_module: str
    nvidia_library: str
    containers: Containers
    listeners: list[Listener]

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def gather(paths: t.Iterable[str], nvml: t.Callable[[], Snapshot], root: Path = Path("/"), architecture: str = "") -> Facts:
    """Look at the machine below ``root``. ``paths`` are those whose disks matter, ``nvml`` asks the driver (``_nvml.snapshot``)."""
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE))
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = _first(r"^(?:flags|Features)\s*: (.*)", cpuinfo).split()
    return Facts(
        system=_system(root, architecture or platform.machine()),
        cpus=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)),
        cpu_flags=[flag for flag in CPU_FLAGS if flag in flags],
        ram_total=int(memory.get("MemTotal", 0)) * 1024,
        ram_available=int(memory.get("MemAvailable", 0)) * 1024,
        disks=[_disk(root, path) for path in dict.fromkeys(paths)],
        pci=_pci_devices(root / "sys"),
        nvml=nvml(),
        nouveau=(root / "sys/module/nouveau").is_dir(),
        nvidia_module=_read(root / "sys/module/nvidia/version").strip(),
        nvidia_library=_nvidia_library(root),
        containers=_containers(root),
        listeners=listeners(root / "proc"),
    )


def _system(root: Path, architecture: str) -> System:
    release = {
        key: value.strip("\"'") for key, _equals, value in (line.partition("=") for line in _read(root / "etc/os-release").splitlines())
    }
    container = any((root / mark).exists() for mark in _CONTAINER_MARKS)
    return System(
        id=release.get("ID", ""),
        version=release.get("VERSION_ID", ""),
        name=release.get("PRETTY_NAME", ""),
        like=release.get("ID_LIKE", "").split(),
        kernel=_read(root / "proc/sys/kernel/osrelease").strip(),
        architecture=architecture,
        glibc=_glibc(),
        systemd=(root / "run/systemd/system").is_dir(),  # what sd_booted(3) looks at
        container=container,
        reboot_pending=(root / "run/reboot-required").exists(),
        clock_synchronized=clock_synchronized(container),
        secure_boot=_secure_boot(root),
    )


def clock_synchronized(container: bool = False) -> bool | None:
    """Whether somebody keeps the kernel's clock right, whoever it is: chrony, ntpd and systemd-timesyncd all tell the kernel.

    It asks as ``timedatectl`` does: the kernel's own bound of the clock's error grows to 16 seconds where nobody corrects it. In a
    container a clock that looks uncorrected is not known: the machine around it may keep the time by other means.
    """
    timex = ctypes.create_string_buffer(512)  # struct timex; its first member, modes, is 0: only read
    try:
        answered = ctypes.CDLL(None).adjtimex(timex) >= 0
    except (OSError, AttributeError):
        return None
    _modes, _offset, _frequency, maximum_error = struct.unpack_from("@Illl", timex)
    synchronized = maximum_error < _NOT_SYNCHRONIZED
    return synchronized if answered and (synchronized or not container) else None


def _glibc() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2]
    except (ValueError, OSError):
        return ""


def _secure_boot(root: Path) -> bool | None:
    """Of the variable's file the first four bytes are attributes; without EFI there is no Secure Boot."""
    if not (root / "sys/firmware/efi").is_dir():
        return False
    try:
        return (root / _SECURE_BOOT).read_bytes()[4] == 1
    except (OSError, IndexError):
        return None


def _disk(root: Path, path: str) -> Disk:
    place = root / path.lstrip("/")
    # os.path's questions answer False for what this user may not see, where Path's raise
    existing = next(parent for parent in (place, *place.parents) if os.path.exists(parent))
    status = os.statvfs(existing)
    mount = next(parent for parent in (existing, *existing.parents) if parent == root or os.path.ismount(parent))
    name = "/" if mount == root else f"/{mount.relative_to(root)}"
    return Disk(path, name, status.f_bavail * status.f_frsize, _size(place))


def _size(place: Path) -> int:
    """Bytes of the files below a path that are really on the disk: a file that is reserved in advance is sparse."""
    total = 0
    for directory, _directories, names in os.walk(place):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                total += min(status.st_size, status.st_blocks * 512)
    return total


def _pci_devices(sysfs: Path) -> list[PciDevice]:
    return [
        PciDevice(gpu.address, gpu.device, gpu.generation, _link_name(sysfs / "bus/pci/devices" / gpu.address / "driver"))
        for gpu in nvidia_gpus(sysfs)
    ]


def _nvidia_library(root: Path) -> str:
    """The version in the name of the file that the loader finds as libnvidia-ml.so.1."""
    for directory in _LIBRARY_DIRECTORIES:
        name = (root / directory / "libnvidia-ml.so.1").resolve().name
        if version := _first(r"libnvidia-ml\.so\.(\d+\.[\d.]+)$", name):
            return version
    return ""


def _containers(root: Path) -> Containers:
    return Containers(
        programs=_programs(root, ("docker", "dockerd", "podman", "containerd")),
        docker_socket=(root / "run/docker.sock").exists(),
        toolkit=_programs(root, ("nvidia-ctk", "nvidia-container-runtime")),
        cdi=[
            f"/{path.relative_to(root)}"
            for directory in ("etc/cdi", "run/cdi")
            for path in sorted((root / directory).glob("*"))
            if path.suffix in (".yaml", ".json") and "nvidia.com/" in _read(path)[:4096]
        ],
    )


def _programs(root: Path, names: t.Iterable[str]) -> list[str]:
    return [name for name in names if any(os.access(root / directory / name, os.X_OK) for directory in _PROGRAM_DIRECTORIES)]


def _link_name(path: Path) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
