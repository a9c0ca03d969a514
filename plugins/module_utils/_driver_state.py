# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What there is of an NVIDIA driver on a machine: packages, modules of every kernel, what is loaded, and whether it fits together."""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import PciDevice, System, gather
from ansible_collections.baremetal.llm.plugins.module_utils._host_requirements import MACHINE_OWNER_KEY, MACHINE_OWNER_KEYS
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot

#: Keeps nouveau out.
MODPROBE = "etc/modprobe.d/llm-nvidia-driver.conf"
#: The archive's components that the driver needs, where the machine's own sources lack them.
ARCHIVE = "etc/apt/sources.list.d/llm-nvidia-driver.sources"
#: Holds the driver at its branch.
PREFERENCES = "etc/apt/preferences.d/llm-nvidia-driver"

# Everything that belongs to the driver, by the names of Debian, Ubuntu, RHEL and NVIDIA; neither CUDA nor the container toolkit.
DRIVER_PACKAGE = re.compile(
    r"(lib)?nvidia-(?!container|cuda|cudnn|cg-|docker|fs|gds|prime|profiler|texture|vaapi|visual)"
    r"|linux-(modules|objects|signatures)-nvidia-|kmod-nvidia|firmware-nvidia-|glx-alternative-nvidia$|xserver-xorg-video-nvidia"
    r"|libcuda1$|libcudadebugger1$|libnvcuvid1$|libnvoptix1$|cuda-drivers"
)
# The module that all others need, as NVIDIA, Ubuntu and RHEL call it, and as Debian does; kernels may compress their modules.
_MODULE = re.compile(r"nvidia(-current|-tesla-\d+)?(-open)?\.ko(\.(xz|zst|gz))?")
# Where a module counts first (depmod.d(5) of all distributions: updates before the rest).
_PRECEDENCE = ("updates", "extra", "weak-updates", "kernel")
#: Kernels that the driver cannot be built for.
REAL_TIME = re.compile(r"(?<![a-z])(rt|realtime)(?![a-z])")
_MOK_LIST = "sys/firmware/efi/mok-variables/MokListRT"
_VFIO = "vfio-pci"  # has the GPU for a virtual machine: the driver is not to see it


@dataclass(frozen=True)
class KernelModule:
    """A driver module: its version, whether it is the open one, and whether this machine built it (its distribution did else)."""

    version: str
    open: bool
    dkms: bool = False


@dataclass(frozen=True)
class Archive:
    """One line of the machine's apt sources; ``signed_by`` is a path, a fingerprint or empty."""

    uri: str
    suite: str
    component: str
    signed_by: str


@dataclass(frozen=True)
class DriverState:
    """``built`` has the module of every kernel that has one, ``unbuilt`` are kernels with headers and without it.

    ``library`` is the version of NVML's library, which is that of the whole userland. ``mok`` is the certificate of the key that DKMS
    signs with, ``enrolled`` whether the firmware trusts it (None: unknown). ``available`` are packages that apt has for exactly the
    running kernel. ``stale`` are boot images that are older than what keeps nouveau out.
    ``managed``: it was this collection that installed the driver.
    """

    system: System
    gpus: list[PciDevice]
    loaded: KernelModule | None
    built: dict[str, KernelModule]
    unbuilt: list[str]
    library: str
    nouveau: bool
    packages: dict[str, str]
    held: list[str]
    available: list[str]
    archives: list[Archive]
    mok: str
    enrolled: bool | None
    stale: list[str]
    managed: bool

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)

    @property
    def here(self) -> KernelModule | None:
        """The module on disk for the kernel that runs."""
        return self.built.get(self.system.kernel)

    @property
    def rejected(self) -> bool:
        """Whether Secure Boot keeps the kernel from loading the module that was built here."""
        return bool(self.system.secure_boot and self.here and self.here.dkms and not self.enrolled)

    @property
    def loadable(self) -> bool:
        return bool(self.here and not self.loaded and not self.nouveau and not self.rejected)


@dataclass(frozen=True)
class Verdict:
    """``pending``: what only a reboot or somebody at the console can do. ``problems``: what is broken. ``reboot``: whether one helps."""

    pending: list[str]
    problems: list[str]
    reboot: bool


def read_state(run: Runner, find: t.Callable[[str], str], root: Path = Path("/"), architecture: str = "") -> DriverState:
    """Look at the machine below ``root``; ``find`` gives a program's path, or an empty text where there is none."""
    facts = gather((), lambda: Snapshot(available=False), root, architecture)
    built = _built(root, run, find("modinfo"))
    certificate = MACHINE_OWNER_KEYS.get(facts.system.id, MACHINE_OWNER_KEY)
    has_apt = bool(find("apt-get"))
    return DriverState(
        system=facts.system,
        gpus=facts.pci,
        loaded=_loaded(root, facts.nvidia_module),
        built=built,
        unbuilt=[kernel for kernel in _kernels(root) if kernel not in built and _can_build(root, kernel)],
        library=facts.nvidia_library,
        nouveau=facts.nouveau,
        packages=_packages(run, has_apt),
        held=_lines(run, ["apt-mark", "showhold"]) if has_apt else [],
        available=_available(run, facts.system.kernel) if has_apt else [],
        archives=_archives(run) if has_apt else [],
        mok=certificate,
        enrolled=_enrolled(root, certificate),
        stale=_stale(root),
        managed=any((root / path).exists() for path in (MODPROBE, PREFERENCES)),
    )


def verdict(state: DriverState, nvml: Snapshot) -> Verdict:
    """Whether the driver works, and if not, whether that is to be mended by a reboot, at the console, or otherwise."""
    reboot = _reboot_reasons(state, nvml)
    if reboot or state.rejected:
        return Verdict([*reboot, *([mok_advice(state)] if state.rejected else [])], [], bool(reboot))
    return Verdict([], list(_problems(state, nvml)), False)


def mok_advice(state: DriverState) -> str:
    """What to do where Secure Boot is on and DKMS builds the modules. Nothing of it can be done from here: a person has to be there."""
    return (
        "Secure Boot is on and the firmware does not know the key that signs the modules which DKMS builds on this machine. Run"
        f" `mokutil --import {state.mok}` there (it asks for a password of your choice), reboot, and at the machine's console choose"
        " 'Enroll MOK' and give that password. Once is enough, for later versions too."
    )


def _reboot_reasons(state: DriverState, nvml: Snapshot) -> list[str]:
    here, loaded = state.here, state.loaded
    if state.nouveau:
        return ["nouveau, which cannot compute, holds the GPU; it is kept from loading after the next boot."]
    if loaded and here and loaded.version != here.version:
        return [f"the module {loaded.version} is loaded and {here.version} is installed."]
    if loaded and here and loaded.open != here.open:
        return [f"the {_flavour(loaded)} module is loaded and the {_flavour(here)} one is installed."]
    others = ", ".join(f"{kernel} ({module.version})" for kernel, module in sorted(state.built.items()))
    if others and not here and (not loaded or all(module.version != loaded.version for module in state.built.values())):
        return [f"the running kernel {state.system.kernel} has no driver module; there is one for {others}. Boot that kernel."]
    if loaded and nvml.reason in ("driver", "mismatch") and state.library in ("", loaded.version):
        return [str(nvml.message)]
    return []


def _problems(state: DriverState, nvml: Snapshot) -> t.Iterator[str]:
    kernel, loaded = state.system.kernel, state.loaded
    if not state.built and not loaded:
        yield f"no kernel has a driver module (running: {kernel}). `dkms status` and /var/lib/dkms/nvidia*/*/build/make.log say why."
    elif not loaded:
        yield f"the module for {kernel} is there but not loaded: `modprobe nvidia` and the kernel's log (`dmesg`) say why."
    elif state.library and state.library != loaded.version:
        yield f"the kernel module is {loaded.version} and the libraries are {state.library}: packages of two sources are mixed. Run the role again."
    elif not nvml.available:
        yield str(nvml.message)
    else:
        seen = {gpu.pci_address for gpu in nvml.gpus}
        for gpu in state.gpus:
            if gpu.address not in seen and gpu.driver != _VFIO:
                yield (
                    f"the GPU at {gpu.address} (PCI device {gpu.device}, {gpu.generation}) is on the bus but the driver does not see it: look for"
                    " `Xid` and `fallen off the bus` in the kernel's log, check its power cables and its seat, and reboot."
                )


def _loaded(root: Path, version: str) -> KernelModule | None:
    if not version:
        return None
    return KernelModule(version, "Open Kernel Module" in _read(root / "proc/driver/nvidia/version"))


def _kernels(root: Path) -> list[str]:
    place = root / "lib/modules"
    return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _can_build(root: Path, kernel: str) -> bool:
    """Whether its headers are there; NVIDIA's driver does not build for real-time kernels."""
    return (root / "lib/modules" / kernel / "build/Makefile").exists() and not REAL_TIME.search(kernel)


def _built(root: Path, run: Runner, modinfo: str) -> dict[str, KernelModule]:
    found = {}
    for kernel in _kernels(root) if modinfo else ():
        paths = [path for path in (root / "lib/modules" / kernel).rglob("nvidia*.ko*") if _MODULE.fullmatch(path.name)]
        for path in sorted(paths, key=lambda path: (_precedence(root, kernel, path), path))[:1]:
            _status, out, _err = run([modinfo, str(path)])
            fields = dict(re.findall(r"^(version|license): +(.*)$", out, re.MULTILINE))
            if "version" in fields:
                # the open modules are licensed "Dual MIT/GPL", the others "NVIDIA"; what a distribution built lies below kernel
                dkms = _precedence(root, kernel, path) != _PRECEDENCE.index("kernel")
                found[kernel] = KernelModule(fields["version"], "GPL" in fields.get("license", ""), dkms)
    return found


def _precedence(root: Path, kernel: str, path: Path) -> int:
    top = path.relative_to(root / "lib/modules" / kernel).parts[0]
    return _PRECEDENCE.index(top) if top in _PRECEDENCE else len(_PRECEDENCE)


def _packages(run: Runner, has_apt: bool) -> dict[str, str]:
    if has_apt:
        lines = _lines(run, ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\\n"])
        rows = [line.split()[1:] for line in lines if line.startswith("installed ")]
    else:
        rows = [line.split() for line in _lines(run, ["rpm", "--query", "--all", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\\n"])]
    return {name: version for name, version in sorted(rows) if DRIVER_PACKAGE.match(name)}


def _available(run: Runner, kernel: str) -> list[str]:
    names = _lines(run, ["apt-cache", "pkgnames", f"linux-headers-{kernel}"]) + _lines(run, ["apt-cache", "pkgnames", "linux-modules-nvidia-"])
    return sorted(name for name in names if name.endswith(f"-{kernel}"))


def _archives(run: Runner) -> list[Archive]:
    """The machine's sources as apt understands them, without the one of ours. ``--no-release-info``: before they were ever fetched too."""
    columns = "$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    found: dict[Archive, None] = {}  # in apt's order, each once
    for line in _lines(run, ["apt-get", "indextargets", "--no-release-info", "--format", columns, "Created-By: Packages"]):
        fields = line.split("|")
        if len(fields) == len(columns.split("|")) and not fields[0].startswith(f"/{ARCHIVE}:"):
            _entry, uri, suite, component, key = fields
            found[Archive(uri, suite, component, "" if key.startswith("$(") else key)] = None  # a field that is not set stays as it was asked for
    return list(found)


def _enrolled(root: Path, certificate: str) -> bool | None:
    """Whether the firmware's list of machine owner keys holds the certificate; it keeps certificates as they are (DER)."""
    try:
        return (root / certificate.lstrip("/")).read_bytes() in (root / _MOK_LIST).read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return None


def _stale(root: Path) -> list[str]:
    try:
        written = (root / MODPROBE).stat().st_mtime
    except OSError:
        return []
    images = [*(root / "boot").glob("initrd.img-*"), *(root / "boot").glob("initramfs-*.img")]
    # those for crash dumps and for rescue are made once, by others, and never boot with a GPU in use
    own = [image for image in images if not re.search("kdump|rescue", image.name)]
    return sorted(f"/{image.relative_to(root)}" for image in own if image.stat().st_mtime < written)


def _flavour(module: KernelModule) -> str:
    return "open" if module.open else "proprietary"


def _lines(run: Runner, argv: list[str]) -> list[str]:
    _status, out, _err = run(argv)
    return out.splitlines()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
