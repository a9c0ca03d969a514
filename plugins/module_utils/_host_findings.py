# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of a machine x what is wanted of it -> what was found: a sentence for each check, with the remedy where one is needed."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils import _host_requirements as needs
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import Disk, Facts, PciDevice
from ansible_collections.baremetal.llm.plugins.module_utils._host_requirements import Need, Requirement
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu

OK, UNKNOWN, WARNING, FAILURE = "ok", "unknown", "warning", "failure"
_MARKS = {OK: "ok", UNKNOWN: "?", WARNING: "WARN", FAILURE: "FAIL"}
_VFIO = "vfio-pci"  # holds a GPU for a virtual machine


class Finding(t.NamedTuple):
    """What one check found. Only ``warning`` and ``failure`` ask for something to be done."""

    severity: str
    check: str
    message: str


class EngineWant(t.NamedTuple):
    """An engine, how it is installed (empty: its usual way), and what it computes on: auto, cpu, cuda."""

    name: str
    method: str = ""
    backend: str = needs.AUTO


class DiskWant(t.NamedTuple):
    """Bytes that a path shall hold in the end; what it holds already counts. 0 is not known."""

    path: str
    bytes: int = 0


class PortWant(t.NamedTuple):
    """A port, and the systemd unit (without ``.service``) that shall listen there."""

    port: int
    unit: str = ""


@dataclass(frozen=True)
class Wants:
    """What is wanted of a host. ``gpus`` are the indices that the placement names; ``ram`` is in bytes.

    With ``driver_managed`` a later step of the same run installs the driver, so that its absence is no failure yet.
    """

    engines: tuple[EngineWant, ...] = ()
    gpus: tuple[int, ...] = ()
    disk: tuple[DiskWant, ...] = ()
    ports: tuple[PortWant, ...] = ()
    ram: int = 0
    containers: bool = False
    driver_managed: bool = False


class Machine(t.NamedTuple):
    """The facts and the wants, and what follows from both."""

    facts: Facts
    wants: Wants

    @property
    def gpus_needed(self) -> bool:
        """Something that is wanted cannot run without a GPU."""
        return bool(self.wants.gpus) or any(engine.backend == needs.CUDA for engine in self.wants.engines)

    @property
    def gpus_used(self) -> bool:
        """GPUs are needed, or there are some and an engine takes what there is."""
        takes = any(engine.backend == needs.AUTO for engine in self.wants.engines)
        return self.gpus_needed or (takes and bool(self.facts.pci or self.facts.nvml.gpus))

    @property
    def driver(self) -> str:
        """Version of the driver that is loaded; empty if there is none."""
        return self.facts.nvml.driver or self.facts.nvidia_module

    @property
    def branch(self) -> int:
        """The branch of that driver; 0 if there is none."""
        return next(iter(_number(self.driver)), 0)

    @property
    def driver_severity(self) -> str:
        """Of what a newly installed driver would mend."""
        return FAILURE if self.gpus_needed and not self.wants.driver_managed else WARNING

    def requirements(self) -> Iterator[tuple[EngineWant, Requirement]]:
        for engine in self.wants.engines:
            auto = needs.CUDA if self.gpus_used else needs.CPU
            backend = auto if engine.backend == needs.AUTO else engine.backend
            yield engine, needs.requirement(engine.name, engine.method, backend)


def findings(facts: Facts, wants: Wants) -> list[Finding]:
    """All checks, in the order in which a person would make them. GPUs are not mentioned where none is there and none is wanted."""
    machine = Machine(facts, wants)
    return [finding for check in _CHECKS for finding in check(machine)]


def messages(found: t.Iterable[Finding], severity: str, host: str) -> list[dict[str, str]]:
    """The findings of one severity as ``check`` and ``message``, each naming the host."""
    return [{"check": finding.check, "message": f"{host}: {finding.message}"} for finding in found if finding.severity == severity]


def table(found: Sequence[Finding]) -> list[str]:
    """A line for each finding, in columns."""
    width = max((len(finding.check) for finding in found), default=0)
    return [f"{_MARKS[finding.severity]:<4} {finding.check:<{width}}  {finding.message}" for finding in found]


def _operating_system(machine: Machine) -> Iterator[Finding]:
    system = machine.facts.system
    title = f"{system.name or system.id or 'an unknown system'}, kernel {system.kernel}"
    known = needs.OPERATING_SYSTEMS.get(system.id)
    version = system.version if system.id in ("debian", "ubuntu") else system.version.partition(".")[0]
    remedy = f"install one of {needs.SUPPORTED_SYSTEMS}"
    if known and version in known:
        yield Finding(OK, "os", title)
    elif known and _number(version) < _number(known[0]) and version:
        yield Finding(FAILURE, "os", f"{title} is too old: {remedy}.")
    elif known:
        yield Finding(WARNING, "os", f"{title} is not what the roles were written for ({needs.SUPPORTED_SYSTEMS}): try it on a spare machine first.")
    elif family := next((name for name in system.like if name in needs.OPERATING_SYSTEMS), ""):
        yield Finding(WARNING, "os", f"{title} is not one that the roles were written for, but descends from {family}: {remedy} if something does not work.")
    else:
        yield Finding(FAILURE, "os", f"{title} is not supported: {remedy}.")


def _architecture(machine: Machine) -> Iterator[Finding]:
    found = machine.facts.system.architecture
    bad = [f"{engine.name} runs on {_list(need.architectures)}" for engine, need in machine.requirements() if found not in need.architectures]
    if found not in needs.ARCHITECTURES:
        yield Finding(FAILURE, "architecture", f"{found} is not supported: use a machine with {_list(needs.ARCHITECTURES)}.")
    elif bad:
        yield Finding(FAILURE, "architecture", f"this is {found}, but {'; '.join(bad)}, installed in this way: choose another method or another machine.")
    else:
        yield Finding(OK, "architecture", found)


def _systemd(machine: Machine) -> Iterator[Finding]:
    if machine.facts.system.systemd:
        yield Finding(OK, "systemd", "is the service manager")
    else:
        yield Finding(FAILURE, "systemd", "systemd is not this machine's service manager, and every service runs under it: boot the machine with it.")


def _libc(machine: Machine) -> Iterator[Finding]:
    found = machine.facts.system.glibc
    for engine, need in machine.requirements():
        if need.glibc.value and found and _number(found) < need.glibc.value:
            build = f"{engine.name} ({engine.method or needs.usual_method(engine.name)})"
            least = ".".join(map(str, need.glibc.value))
            yield Finding(
                FAILURE,
                "glibc",
                f"this system has {found}, but {build} needs {least}, because {need.glibc.reason}: set {engine.name}_method to source,"
                " or use a newer system.",
            )


def _ram(machine: Machine) -> Iterator[Finding]:
    total, wanted = machine.facts.ram_total, machine.wants.ram
    if total < wanted:
        yield Finding(FAILURE, "ram", f"{_size(total)}, but {_size(wanted)} are needed: add memory, or place less on this host.")
    else:
        yield Finding(OK, "ram", f"{_size(total)}, {_size(machine.facts.ram_available)} of it available")


def _cpu(machine: Machine) -> Iterator[Finding]:
    facts = machine.facts
    problems = []
    for engine, need in machine.requirements() if facts.system.architecture == "x86_64" else ():
        if missing := _missing_flags(machine, need.cpu_flags):
            effect = f"{engine.name} would end with an illegal instruction, because {need.cpu_flags.reason}"
            problems.append(Finding(FAILURE, "cpu", f"the processor lacks {missing}: {effect}; set {engine.name}_method to archive."))
        if missing := _missing_flags(machine, need.wished_flags):
            effect = f"{engine.name} will be slow on it, because {need.wished_flags.reason}"
            problems.append(Finding(WARNING, "cpu", f"the processor lacks {missing}: {effect}; use a newer one, or a GPU."))
    yield from problems or [Finding(OK, "cpu", f"{facts.cpus} processors" + (f" with {' '.join(facts.cpu_flags)}" if facts.cpu_flags else ""))]


def _missing_flags(machine: Machine, flags: Need) -> str:
    return " ".join(flag for flag in flags.value or () if flag not in machine.facts.cpu_flags)


def _disks(machine: Machine) -> Iterator[Finding]:
    wanted = {want.path: want.bytes for want in machine.wants.disk}
    mounts: dict[str, list[Disk]] = {}
    for disk in machine.facts.disks:
        mounts.setdefault(disk.mount, []).append(disk)
    for mount, disks in mounts.items():
        missing = sum(max(0, wanted.get(disk.path, 0) - disk.present) for disk in disks)
        free = disks[0].free
        paths = _list(disk.path for disk in disks)
        if missing > free:
            message = f"{mount} has {_size(free)} free, but {_size(missing)} more are to come into {paths}: make room, or mount a larger disk there."
            yield Finding(FAILURE, "disk", message)
        else:
            more = _size(missing) if missing else "as far as sizes are known nothing"
            yield Finding(OK, "disk", f"{mount} has {_size(free)} free, {more} more is to come into {paths}")


def _ports(machine: Machine) -> Iterator[Finding]:
    for want in machine.wants.ports:
        holders = [listener for listener in machine.facts.listeners if listener.port == want.port]
        foreign = [listener for listener in holders if not want.unit or want.unit not in _services(listener)]
        user = want.unit or "a service"
        if any(not listener.pid for listener in foreign):
            whose = foreign[0].user or "somebody"
            text = f"port {want.port} for {user} is taken by a process of {whose}, and only root can see which: run with become."
            yield Finding(WARNING, "ports", text)
        elif foreign:
            who = _list(dict.fromkeys(_program(listener.program, listener.pid, listener.unit) for listener in foreign))
            yield Finding(FAILURE, "ports", f"port {want.port} for {user} is taken by {who}: stop that, or choose another port.")
        else:
            yield Finding(OK, "ports", f"{want.port} is {'held by' if holders else 'free for'} {user}")


def _services(listener: Listener) -> tuple[str, ...]:
    """The services of ours that it may belong to: they run as users that are called as they are, and a standby as the one that it stands by."""
    standby = () if listener.unit or not listener.user else (f"{listener.user}-standby",)
    return listener.unit, listener.user, *standby


def _program(name: str, pid: int, unit: str) -> str:
    return f"{name} (process {pid}{f' of {unit}.service' if unit else ''})"


def _clock(machine: Machine) -> Iterator[Finding]:
    if machine.facts.system.clock_synchronized:
        yield Finding(OK, "clock", "is kept in time")
    elif machine.facts.system.clock_synchronized is None:
        yield Finding(UNKNOWN, "clock", "is not known to be kept in time" + (", this is a container" if machine.facts.system.container else ""))
    else:
        yield Finding(WARNING, "clock", "nothing keeps the clock in time, and certificates and logs depend on it: install chrony or systemd-timesyncd.")


def _reboot(machine: Machine) -> Iterator[Finding]:
    if machine.facts.system.reboot_pending:
        yield Finding(WARNING, "reboot", "packages wait for a reboot (/run/reboot-required): reboot before the driver is installed, or when it suits.")


def _containers(machine: Machine) -> Iterator[Finding]:
    found = machine.facts.containers
    if not machine.wants.containers:
        return
    if not found.docker_socket:
        yield Finding(WARNING, "containers", "no Docker engine runs (/run/docker.sock): role container_toolkit installs one.")
    elif machine.gpus_used and not (found.toolkit and found.cdi):
        lacking = "the NVIDIA Container Toolkit is not installed" if not found.toolkit else "no CDI specification names the GPUs (/etc/cdi, /run/cdi)"
        yield Finding(WARNING, "containers", f"containers cannot use the GPUs, because {lacking}: role container_toolkit mends it.")
    else:
        yield Finding(OK, "containers", f"{' '.join(found.programs)}{f', CDI: {_list(found.cdi)}' if found.cdi else ''}")


def _gpu_count(machine: Machine) -> Iterator[Finding]:
    """That the GPUs that the placement names exist."""
    facts = machine.facts
    on_bus = [gpu for gpu in facts.pci if gpu.driver != _VFIO]
    count = max(len(on_bus), len(facts.nvml.gpus))
    beyond = [index for index in machine.wants.gpus if index >= count]
    if machine.gpus_needed and not count:
        yield Finding(FAILURE, "gpus", "an NVIDIA GPU is needed, but none is on the PCI bus: put one in, or place these models on another host.")
    elif beyond:
        have = f"{count} GPUs, 0 to {count - 1}" if count > 1 else "1 GPU, 0"
        yield Finding(FAILURE, "gpus", f"llm_serve uses GPU {_list(beyond)}, but this host has {have}: correct gpus in its llm_serve.")
    elif count:
        yield Finding(OK, "gpus", _list([_title(gpu) for gpu in facts.nvml.gpus] or [f"{gpu.generation} ({gpu.device})" for gpu in on_bus]))


def _driver(machine: Machine) -> Iterator[Finding]:
    """That a driver is loaded which answers, is maintained, and is new enough for the engines."""
    facts, severity = machine.facts, machine.driver_severity
    nvml = facts.nvml
    if not machine.gpus_used or not (facts.pci or nvml.gpus):
        return
    if nvml.reason == "mismatch" or (facts.nvidia_module and facts.nvidia_library not in ("", facts.nvidia_module)):
        yield Finding(
            severity,
            "driver",
            f"the loaded kernel module is {facts.nvidia_module or 'of another version'} and the installed libraries are"
            f" {facts.nvidia_library or 'not of that version'}: reboot, so that both are the same.",
        )
    elif not machine.driver:
        yield from _no_driver(machine, severity)
    elif nvml.reason in ("library", "driver", "error"):
        yield Finding(severity, "driver", f"the kernel module {machine.driver} is loaded, but does not answer. {nvml.message}")
    else:
        yield from _branch(machine, severity)


def _no_driver(machine: Machine, severity: str) -> Iterator[Finding]:
    installed = f" (its libraries are there, {machine.facts.nvidia_library})" if machine.facts.nvidia_library else ""
    if machine.wants.driver_managed:
        yield Finding(severity, "driver", f"the driver is not loaded yet{installed}: role nvidia_driver installs and loads it.")
    elif machine.gpus_needed:
        yield Finding(
            severity, "driver", f"the NVIDIA driver is not loaded{installed}: install branch {needs.RECOMMENDED_BRANCH}, or let role nvidia_driver do it."
        )
    else:
        yield Finding(severity, "driver", f"the NVIDIA driver is not loaded{installed}, so the GPUs stay idle: install it, or set the backend to cpu.")


def _branch(machine: Machine, severity: str) -> Iterator[Finding]:
    branch = machine.branch
    remedy = "role nvidia_driver replaces it" if machine.wants.driver_managed else f"install {needs.RECOMMENDED_BRANCH}, or let role nvidia_driver do it"
    problems = [
        Finding(severity, "driver", f"{machine.driver} is too old for {engine.name}, which needs {need.branch.value}, because {need.branch.reason}: {remedy}.")
        for engine, need in machine.requirements()
        if need.branch.value and branch < need.branch.value
    ]
    reasons = dict.fromkeys(needs.misfit(branch, gpu.generation) for gpu in _used_pci(machine))
    problems += [Finding(severity, "driver", f"{machine.driver} does not drive every GPU: {reason}; {remedy}.") for reason in reasons if reason]
    if not problems and (reason := needs.end_of_life(branch)):
        problems = [Finding(WARNING, "driver", f"branch {branch} gets no more corrections, {reason}: {remedy}.")]
    cuda = f", CUDA {machine.facts.nvml.cuda}" if machine.facts.nvml.cuda else ""
    yield from problems or [Finding(OK, "driver", f"{machine.driver}{cuda}")]


def _nouveau(machine: Machine) -> Iterator[Finding]:
    if machine.gpus_used and machine.facts.nouveau and not machine.driver:
        what = "nouveau, which cannot compute, holds the GPU"
        if machine.wants.driver_managed:
            yield Finding(WARNING, "nouveau", f"{what}: role nvidia_driver keeps it from loading, and a reboot is needed after that.")
        else:
            yield Finding(machine.driver_severity, "nouveau", f"{what}: write 'blacklist nouveau' into a file in /etc/modprobe.d and reboot.")


def _secure_boot(machine: Machine) -> Iterator[Finding]:
    """Where it is on and the driver is loaded, its module is signed by a key that the firmware trusts."""
    system = machine.facts.system
    if not machine.gpus_used or machine.driver or not machine.facts.pci or system.secure_boot is False:
        return
    if system.secure_boot is None:
        yield Finding(UNKNOWN, "secure_boot", "whether Secure Boot is on cannot be read")
        return
    key = needs.MACHINE_OWNER_KEYS.get(system.id, needs.MACHINE_OWNER_KEY)
    signed = f"install the distribution's signed modules (linux-modules-nvidia-{needs.RECOMMENDED_BRANCH}-server-open-generic); for modules built here"
    yield Finding(
        WARNING,
        "secure_boot",
        f"Secure Boot is on, so the kernel loads only signed modules: {signed if system.id == 'ubuntu' else 'for modules that DKMS builds here'}"
        f" run 'mokutil --import {key}', reboot, and enrol the key at the machine's console.",
    )


def _lost(machine: Machine) -> Iterator[Finding]:
    """GPUs that the bus has and the driver does not, or that the driver has and cannot reach."""
    if not machine.gpus_used or not machine.facts.nvml.available:
        return
    named = machine.wants.gpus
    remedy = "reboot; if it happens again, check its power cables, riser and the kernel's log for Xid 79"
    seen = {gpu.pci_address for gpu in machine.facts.nvml.gpus}
    silent = [gpu for gpu in machine.facts.nvml.gpus if "gpu" in gpu.unavailable]
    for gpu in silent:
        severity = FAILURE if gpu.index in named or (machine.gpus_needed and not named) else WARNING
        yield Finding(severity, "lost", f"GPU {gpu.index} does not answer ({gpu.unavailable['gpu']}): {remedy}.")
    absent = [gpu for gpu in _used_pci(machine, all_of_them=True) if gpu.address not in seen and _drivable(machine, gpu)]
    for device in absent[len(silent) :]:  # a silent one has no address
        severity = FAILURE if machine.gpus_needed else WARNING  # the others have moved up, so the indices name other GPUs
        yield Finding(severity, "lost", f"the GPU at {device.address} is on the PCI bus, but the driver does not have it: {remedy}.")


def _gpu_state(machine: Machine) -> Iterator[Finding]:
    """What about single GPUs that are used is in the way."""
    if not machine.gpus_used:
        return
    if machine.driver and machine.facts.nvml.reason == "python":
        yield Finding(UNKNOWN, "vram", "is not asked for: nvidia-ml-py, which role common brings, is not on this host yet")
    for gpu in _used_gpus(machine):
        yield from _one_gpu(machine, gpu)


def _one_gpu(machine: Machine, gpu: Gpu) -> Iterator[Finding]:
    if gpu.mig:
        yield Finding(
            FAILURE if gpu.index in machine.wants.gpus else WARNING,
            "mig",
            f"GPU {gpu.index} is cut into slices (MIG), but is asked for as a whole: 'nvidia-smi -i {gpu.index} -mig 0' makes it whole, or"
            " choose another GPU.",
        )
    if gpu.memory is None:
        yield Finding(WARNING, "vram", f"the VRAM of GPU {gpu.index} is not known ({gpu.unavailable.get('memory', 'no reason given')}): set it by hand.")
    if gpu.display:
        yield Finding(
            WARNING, "display", f"a screen hangs on GPU {gpu.index} and shares its VRAM with the models: move it to another GPU, or go without."
        )


def _capability(machine: Machine) -> Iterator[Finding]:
    """That the used GPUs have what the engines compute with. Before there is a driver their generation tells."""
    known = {f"GPU {gpu.index} ({gpu.name})": _number(gpu.compute_capability) for gpu in _used_gpus(machine) if gpu.compute_capability}
    guessed = {
        f"the GPU at {gpu.address} ({gpu.generation})": needs.CAPABILITIES[gpu.generation]
        for gpu in _used_pci(machine)
        if gpu.generation in needs.CAPABILITIES and not machine.facts.nvml.gpus
    }
    for engine, need in machine.requirements() if machine.gpus_used else ():
        for title, capability in (known or guessed).items():
            if need.capability.value and capability < need.capability.value:
                least = ".".join(map(str, need.capability.value))
                yield Finding(
                    FAILURE if machine.gpus_needed else WARNING,
                    "capability",
                    f"{title} has compute capability {'.'.join(map(str, capability))}, but {engine.name} needs {least}, because"
                    f" {need.capability.reason}: {_older_gpu_remedy(engine)}.",
                )


def _older_gpu_remedy(engine: EngineWant) -> str:
    if "source" in needs.REQUIREMENTS[engine.name]:
        return f"set {engine.name}_method to source and install the CUDA 12 toolkit, or {engine.name}_backend to cpu"
    return "place these models on another GPU"


def _used_gpus(machine: Machine) -> list[Gpu]:
    """The GPUs that the placement names, or all if it names none, as far as they answer."""
    gpus = [gpu for gpu in machine.facts.nvml.gpus if "gpu" not in gpu.unavailable]
    return [gpu for gpu in gpus if gpu.index in machine.wants.gpus] if machine.wants.gpus else gpus


def _used_pci(machine: Machine, all_of_them: bool = False) -> list[PciDevice]:
    """The same by the bus, whose order is that of NVML."""
    devices = [gpu for gpu in machine.facts.pci if gpu.driver != _VFIO]
    if not machine.wants.gpus or all_of_them:
        return devices
    return [gpu for index, gpu in enumerate(devices) if index in machine.wants.gpus]


def _drivable(machine: Machine, gpu: PciDevice) -> bool:
    """Where the branch is wrong for a generation, that is said elsewhere."""
    return not (machine.branch and needs.misfit(machine.branch, gpu.generation))


def _title(gpu: Gpu) -> str:
    size = f", {_size(gpu.memory.total)}" if gpu.memory else ""
    return f"{gpu.index}: {gpu.name or 'does not answer'}{size}"


def _number(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version or ""))


def _list(items: t.Iterable[t.Any]) -> str:
    return ", ".join(map(str, items))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


_CHECKS: tuple[t.Callable[[Machine], Iterator[Finding]], ...] = (
    _operating_system,
    _architecture,
    _systemd,
    _libc,
    _cpu,
    _ram,
    _disks,
    _ports,
    _clock,
    _reboot,
    _containers,
    _gpu_count,
    _driver,
    _nouveau,
    _secure_boot,
    _lost,
    _gpu_state,
    _capability,
)
