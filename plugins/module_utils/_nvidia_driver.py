# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which packages make an NVIDIA driver: from a machine's facts and the user's wishes to a plan, for each distribution and source.

Sources: https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/ (620; names of packages, streams and pins),
https://ubuntu.com/server/docs/how-to/graphics/install-nvidia-drivers/ (signed modules), the package lists of Debian 12 and 13.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import ARCHIVE, DRIVER_PACKAGE, REAL_TIME
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._host_requirements import (
    ARCHITECTURES,
    OPERATING_SYSTEMS,
    SUPPORTED_SYSTEMS,
    misfit,
)

AUTO, DISTRIBUTION, NVIDIA, EXISTING = "auto", "distribution", "nvidia", "existing"
SOURCES = (AUTO, DISTRIBUTION, NVIDIA, EXISTING)
OPEN, PROPRIETARY = "open", "proprietary"
MODULES = (AUTO, OPEN, PROPRIETARY)

# From 560 on NVIDIA installs the open modules by default; before, they were made for data centre GPUs alone.
_OPEN_BY_DEFAULT = 560
_LAST_PROPRIETARY = 615  # "Proprietary Kernel Modules Removed", guide of 620
_NEVER_OPEN = ("older", "maxwell", "pascal", "volta")
_ONLY_OPEN = ("blackwell", "unknown")  # what the table of generations does not know yet is newer than it
# What Debian's own archive has (non-free).
_DEBIAN_BRANCH = {"12": 535, "13": 550}
# The kernel that a release of Ubuntu came with; later ones of the same flavour are called -hwe-<release>.
_UBUNTU_KERNEL = {"22.04": "5.15", "24.04": "6.8"}
# Flavours of Ubuntu's kernel that have signed modules; the others build theirs with DKMS.
_UBUNTU_SIGNED = ("generic", "generic-64k", "lowlatency", "lowlatency-64k", "aws", "azure", "gcp", "oracle", "nvidia", "nvidia-64k")
_UBUNTU_HWE = ("generic", "generic-64k", "lowlatency", "lowlatency-64k")
# NVIDIA's packages for Ubuntu had the branch in their names before.
_UBUNTU_WITHOUT_SUFFIX = 590
_DEBIAN_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}

# Names of apt preferences (glob(7)): all of the driver, neither nvidia-container-* nor libnvidia-container* nor nvidia-cuda-*.
_PINNED = (
    "nvidia-[!c]* nvidia-com* libnvidia-[!c]* libnvidia-c[!o]* libnvidia-com* firmware-nvidia-* xserver-xorg-video-nvidia*"
    " libcuda1 libcudadebugger1 libnvcuvid1 libnvoptix1 cuda-drivers*"
)
# What both Ubuntu and NVIDIA offer for Ubuntu, under the same names.
_UBUNTU_NAMES = "nvidia-*-[0-9][0-9][0-9]* libnvidia-*-[0-9][0-9][0-9]* libnvidia-[!c]* libnvidia-com*"
_EPOCH = 3  # of NVIDIA's RPM packages
_RPM_NAMES = (
    *("cuda-drivers", "kmod-nvidia-latest-dkms", "kmod-nvidia-open-dkms", "libnvidia-cfg", "libnvidia-fbc", "libnvidia-gpucomp"),
    *("libnvidia-ml", "nvidia-driver", "nvidia-driver-cuda", "nvidia-driver-cuda-libs", "nvidia-driver-libs", "nvidia-kmod-common"),
    *("nvidia-libXNVCtrl", "nvidia-modprobe", "nvidia-open", "nvidia-persistenced", "nvidia-settings", "nvidia-xconfig", "xorg-x11-nvidia"),
)


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; ``branch`` is ``580`` or a whole version, ``580.105.08``."""

    source: str = AUTO
    branch: str = "580"
    modules: str = AUTO
    compute_only: bool = True

    @property
    def number(self) -> int:
        return int(self.branch.partition(".")[0])

    @property
    def pattern(self) -> str:
        """The versions of Debian packages that are wanted, as apt matches them."""
        return f"{self.branch}-*" if "." in self.branch else f"{self.branch}.*"


@dataclass(frozen=True)
class Plan:
    """What makes the driver.

    ``install`` are package specifications for apt or dnf, ``first`` those that bring the others' repository. ``signed``: the distribution has
    signed the modules, nothing is built here. ``remove`` are installed packages of another branch or kind of modules, ``may_remove``
    says what else may go with them, ``hold`` are those that other upgrades must leave alone.
    ``repository`` is the variant of ``nvidia_cuda`` in the lock file. ``archive`` (components of the distribution's own archive that the
    machine's sources lack) and ``preferences`` are contents of apt's files, ``stream`` and ``locks`` of dnf's; empty: no such file.
    """

    source: str
    branch: str
    modules: str
    signed: bool = False
    first: list[str] = field(default_factory=list)
    install: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    may_remove: str = DRIVER_PACKAGE.pattern
    hold: list[str] = field(default_factory=list)
    repository: str = ""
    archive: str = ""
    preferences: str = ""
    stream: str = ""
    locks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def plan(facts: t.Mapping[str, t.Any], wishes: Wishes) -> Plan:
    """The plan for a machine. ``facts`` is what ``_driver_state.DriverState.as_dict`` returns."""
    system = facts["system"]
    _check_wishes(wishes)
    if wishes.source == EXISTING:
        return Plan(EXISTING, wishes.branch, wishes.modules)
    if not {system["version"], system["version"].partition(".")[0]} & set(OPERATING_SYSTEMS.get(system["id"], ())):
        raise InputError(
            f"No driver can be installed on {system['name'] or system['id']}: this is for {SUPPORTED_SYSTEMS}. Install it yourself and set"
            " nvidia_driver_source: existing."
        )
    if system["architecture"] not in ARCHITECTURES:
        raise InputError(f"No driver can be installed on {system['architecture']}: there are packages for {' and '.join(ARCHITECTURES)}.")
    modules = choose_modules(facts["gpus"], wishes)
    if system["id"] == "ubuntu":
        source = DISTRIBUTION if wishes.source == AUTO else wishes.source
        return _ubuntu(facts, wishes, modules) if source == DISTRIBUTION else _ubuntu_from_nvidia(facts, wishes, modules)
    if system["id"] == "debian":
        return _debian(facts, wishes, modules) if wishes.source == DISTRIBUTION else _debian_from_nvidia(facts, wishes, modules)
    return _red_hat(facts, wishes, modules)


def choose_modules(gpus: t.Iterable[t.Mapping[str, str]], wishes: Wishes) -> str:
    """``open`` or ``proprietary``: what all GPUs of the machine can be driven with, in this branch."""
    closed, opened = [], []
    for gpu in gpus:
        name = f"the GPU at {gpu['address']} ({gpu['generation']}, PCI device {gpu['device']})"
        reason = misfit(wishes.number, gpu["generation"])
        if reason:
            raise InputError(f"nvidia_driver_branch: {wishes.branch} does not drive {name}: {reason}. Choose another branch.")
        closed += [name] if gpu["generation"] in _NEVER_OPEN else []
        opened += [name] if gpu["generation"] in _ONLY_OPEN else []
    if closed and opened:
        raise InputError(
            f"No driver drives both {closed[0]}, which the open modules do not know, and {opened[0]}, which needs them: put them into two machines."
        )
    if closed and wishes.modules == OPEN:
        raise InputError(f"nvidia_driver_modules: open does not drive {closed[0]}: the open modules begin with Turing. Set proprietary or auto.")
    if opened and wishes.modules == PROPRIETARY:
        raise InputError(f"nvidia_driver_modules: proprietary does not drive {opened[0]}, which needs the open ones. Set open or auto.")
    if wishes.modules == PROPRIETARY and wishes.number > _LAST_PROPRIETARY:
        raise InputError(f"nvidia_driver_modules: proprietary ended with branch {_LAST_PROPRIETARY}, {wishes.branch} has only open ones. Set open or auto.")
    if wishes.modules != AUTO:
        return wishes.modules
    return PROPRIETARY if closed or (wishes.number < _OPEN_BY_DEFAULT and not opened) else OPEN


def _check_wishes(wishes: Wishes) -> None:
    if not re.fullmatch(r"\d{3}(\.\d+){0,2}", wishes.branch):
        raise InputError(f"nvidia_driver_branch: {wishes.branch!r} is neither a branch such as '580' nor a version such as '580.105.08'.")
    for name, value, known in (("source", wishes.source, SOURCES), ("modules", wishes.modules, MODULES)):
        if value not in known:
            raise InputError(f"nvidia_driver_{name}: {value!r} is none of {', '.join(known)}.")


# Debian and Ubuntu


def _debian(facts: t.Mapping[str, t.Any], wishes: Wishes, modules: str) -> Plan:
    release = facts["system"]["version"]
    branch = _DEBIAN_BRANCH[release]
    if wishes.branch != str(branch):
        raise InputError(
            f"nvidia_driver_branch: {wishes.branch} is not in the archive of Debian {release}, which has {branch}: set nvidia_driver_source: nvidia,"
            f" or nvidia_driver_branch: '{branch}'."
        )
    if modules == OPEN and release == "12":
        raise InputError(
            "nvidia_driver_modules: open cannot be had from the archive of Debian 12: its security updates renew the libraries, but not the open"
            " modules, and the two must be of one version. Set proprietary, or nvidia_driver_source: nvidia."
        )
    kernel = "nvidia-open-kernel-dkms" if modules == OPEN else "nvidia-kernel-dkms"
    userland = ["libcuda1", "libnvidia-cfg1", "libnvidia-ml1", "libnvidia-nvvm4", "libnvidia-ptxjitcompiler1", "nvidia-smi"]
    names = [kernel, *(userland if wishes.compute_only else ["nvidia-driver"])]
    return _apt(facts, wishes, modules, DISTRIBUTION, names, components=("contrib", "non-free", "non-free-firmware"))


def _debian_from_nvidia(facts: t.Mapping[str, t.Any], wishes: Wishes, modules: str) -> Plan:
    kernel = "nvidia-kernel-open-dkms" if modules == OPEN else "nvidia-kernel-dkms"
    everything = "nvidia-open" if modules == OPEN else "cuda-drivers"
    names = [kernel, "nvidia-driver-cuda" if wishes.compute_only else everything]
    # NVIDIA's packages need some of Debian's contrib, such as glx-alternative-nvidia
    return _apt(facts, wishes, modules, NVIDIA, names, components=("contrib",))


def _ubuntu(facts: t.Mapping[str, t.Any], wishes: Wishes, modules: str) -> Plan:
    if "." in wishes.branch:
        raise InputError(
            f"nvidia_driver_branch: {wishes.branch} is a whole version, but Ubuntu's archive keeps only the newest one of a branch: give"
            f" '{wishes.number}', or set nvidia_driver_source: nvidia."
        )
    suffix = f"{wishes.number}-server"
    flavoured = suffix + ("-open" if modules == OPEN else "")
    names = [f"nvidia-headless-no-dkms-{flavoured}", f"nvidia-utils-{suffix}"]
    if not wishes.compute_only:
        names += [f"libnvidia-{part}-{suffix}" for part in ("decode", "encode", "extra", "gl")]
    signed = _signed_modules(facts, flavoured)
    if signed:
        return _apt(facts, wishes, modules, DISTRIBUTION, names, components=("restricted",), prebuilt=signed, family=flavoured)
    warning = (
        f"Ubuntu has no signed modules for the kernel {facts['system']['kernel']}, so DKMS builds them here: with Secure Boot their key has to be"
        " enrolled. A kernel of the flavour generic needs none of that."
    )
    names = [f"nvidia-dkms-{flavoured}", *names]
    return _apt(facts, wishes, modules, DISTRIBUTION, names, components=("restricted",), family=flavoured, warnings=[warning])


def _ubuntu_from_nvidia(facts: t.Mapping[str, t.Any], wishes: Wishes, modules: str) -> Plan:
    suffix = f"-{wishes.number}" if wishes.number < _UBUNTU_WITHOUT_SUFFIX else ""
    flavour = "-open" if modules == OPEN else ""
    # NVIDIA's guide names these two; in the older packages nvidia-smi and nvidia-persistenced are packages of their own
    names = [f"nvidia-dkms{suffix}{flavour}", f"libnvidia-compute{suffix}", *([f"nvidia-utils{suffix}", f"nvidia-compute-utils{suffix}"] if suffix else [])]
    if not wishes.compute_only:
        names += [f"nvidia-open{suffix}" if modules == OPEN else f"cuda-drivers{suffix}"]
    return _apt(facts, wishes, modules, NVIDIA, names, family=f"{suffix[1:]}{flavour}" if suffix else "")


def _apt(
    facts: t.Mapping[str, t.Any],
    wishes: Wishes,
    modules: str,
    source: str,
    names: list[str],
    *,
    components: t.Sequence[str] = (),
    prebuilt: t.Sequence[str] = (),
    family: str = "",
    warnings: t.Sequence[str] = (),
) -> Plan:
    """``names`` have the driver's version, ``prebuilt`` are modules that have the kernel's. ``family`` ends Ubuntu's names of the branch."""
    system = facts["system"]
    headers, notes = ([], []) if prebuilt else _headers(facts)
    return Plan(
        source=source,
        branch=wishes.branch,
        modules=modules,
        signed=bool(prebuilt),
        install=[*headers, *prebuilt, *(f"{name}={wishes.pattern}" for name in names)],
        remove=_leftovers(facts["packages"], names, prebuilt, family),
        # Signed modules come with each kernel and need the libraries of their day: held back, the next kernel would be without a driver.
        hold=[] if prebuilt else names,
        repository=f"{system['id']}{system['version'].replace('.', '')}-{system['architecture']}" if source == NVIDIA else "",
        archive=_archive(facts, components),
        preferences=_preferences(system["id"], source, wishes),
        warnings=[*warnings, *notes],
    )


def _signed_modules(facts: t.Mapping[str, t.Any], flavoured: str) -> list[str]:
    """Ubuntu's metapackage of signed modules for the flavour of the running kernel, and the ones for exactly this kernel if there are."""
    release = facts["system"]["version"]
    kernel = re.fullmatch(r"(\d+\.\d+)\.\d+-\d+-([a-z0-9-]+)", facts["system"]["kernel"])
    if not kernel or kernel[2] not in _UBUNTU_SIGNED:
        return []
    hwe = kernel[2] in _UBUNTU_HWE and kernel[1] != _UBUNTU_KERNEL[release]
    meta = f"linux-modules-nvidia-{flavoured}-{kernel[2]}{f'-hwe-{release}' if hwe else ''}"
    exact = f"linux-modules-nvidia-{flavoured}-{facts['system']['kernel']}"
    return [meta, *([exact] if exact in facts["available"] else [])]


def _headers(facts: t.Mapping[str, t.Any]) -> tuple[list[str], list[str]]:
    """Headers for the newest kernel of the running one's flavour, and for the running one if apt has them; and what to be warned of."""
    system = facts["system"]
    kernel, release = system["kernel"], system["version"]
    exact = [name for name in facts["available"] if name == f"linux-headers-{kernel}"]
    if system["id"] == "ubuntu":
        known = re.fullmatch(r"(\d+\.\d+)\.\d+-\d+-([a-z0-9-]+)", kernel)
        hwe = known and known[2] in _UBUNTU_HWE and known[1] != _UBUNTU_KERNEL[release]
        flavour = f"{known[2]}{f'-hwe-{release}' if hwe else ''}" if known else "generic"
    else:
        architecture = _DEBIAN_ARCHITECTURE[system["architecture"]]
        known = re.fullmatch(rf".*?-((cloud-|rt-)?{architecture})", kernel)
        flavour = known[1] if known else architecture
    if REAL_TIME.search(kernel):
        raise InputError(f"The kernel {kernel} is a real-time one, which NVIDIA's driver does not support: boot an ordinary kernel.")
    note = (
        f"The running kernel {kernel} is none of the distribution's: the modules are built for the kernels of linux-headers-{flavour}. For the"
        " running one install its headers yourself, or boot one of the distribution's kernels."
    )
    return [f"linux-headers-{flavour}", *exact], [] if known else [note]


def _leftovers(installed: t.Iterable[str], names: t.Collection[str], prebuilt: t.Collection[str], family: str) -> list[str]:
    """Installed packages of another branch, or with another kind of modules, which the new ones do not push out by themselves."""
    modules = re.compile(r"nvidia-(open-)?kernel-(open-)?dkms|nvidia-dkms|linux-(modules|objects|signatures)-nvidia-|nvidia-(tesla|legacy)-.*-dkms")
    mine = re.compile(rf"linux-\w+-nvidia-{re.escape(family)}-(?!open)") if family else None
    branch = re.match(r"\d+(-server)?", family)
    left = []
    for name in installed:
        suffix = re.search(r"-(\d{3}(-server)?)(-open)?(?=$|-)", name)
        other = bool(suffix and branch and suffix[1] != branch[0]) or (bool(suffix) and not branch)
        kernel = bool(modules.match(name)) and name not in names and not (prebuilt and mine and mine.match(name))
        if (other or kernel) and name not in names and name not in prebuilt:
            left.append(name)
    return left


def _archive(facts: t.Mapping[str, t.Any], components: t.Sequence[str]) -> str:
    """A file for apt with the components that the machine's own sources lack, from the same addresses and signed by the same key."""
    suites: dict[tuple[str, str], dict[str, set[str]]] = {}
    for entry in facts["archives"]:
        suites.setdefault((entry["uri"], entry["signed_by"]), {}).setdefault(entry["suite"], set()).add(entry["component"])
    stanzas = []
    for (uri, key), found in suites.items():
        missing = {suite: [name for name in components if name not in have] for suite, have in found.items() if "main" in have}
        for suite, names in missing.items():
            if names:
                lines = ["Types: deb", f"URIs: {uri}", f"Suites: {suite}", f"Components: {' '.join(names)}", *([f"Signed-By: {key}"] if key else [])]
                stanzas.append("\n".join(lines))
    if components and not suites:
        raise InputError(f"apt on this machine has no source with the component main, so /{ARCHIVE} cannot name one: give it one.")
    return f"# Managed by the Ansible collection baremetal.llm.\n{_paragraphs(stanzas)}" if stanzas else ""


def _preferences(system: str, source: str, wishes: Wishes) -> str:
    """apt's preferences: the branch and no other, also downwards (above 1000), and from one source alone."""
    records = []
    if source == DISTRIBUTION:
        records.append(f"Package: {_PINNED}\nPin: release o=NVIDIA\nPin-Priority: -1")
    elif system == "ubuntu":
        records.append(f"Package: {_UBUNTU_NAMES}\nPin: release o=Ubuntu\nPin-Priority: -1")
    records.append(f"Package: {_PINNED}\nPin: version {wishes.pattern}\nPin-Priority: 1001")
    return f"# Managed by the Ansible collection baremetal.llm. The first record that fits a version counts.\n{_paragraphs(records)}"


def _paragraphs(texts: t.Iterable[str]) -> str:
    return "\n\n".join(texts) + "\n"


# RHEL and its rebuilds


def _red_hat(facts: t.Mapping[str, t.Any], wishes: Wishes, modules: str) -> Plan:
    system = facts["system"]
    major = system["version"].partition(".")[0]
    if wishes.source == DISTRIBUTION:
        raise InputError(f"nvidia_driver_source: distribution has no driver on {system['name'] or system['id']}: set nvidia or auto.")
    kernel = "kmod-nvidia-open-dkms" if modules == OPEN else "kmod-nvidia-latest-dkms"
    everything = "nvidia-open" if modules == OPEN else "cuda-drivers"
    names = [kernel, "nvidia-driver-cuda", *([] if wishes.compute_only else [everything])]
    version = f"{_EPOCH}:{wishes.branch}-*" if "." in wishes.branch else f"{_EPOCH}:{wishes.branch}.*"
    stream = f"{wishes.number}-{'open' if modules == OPEN else 'dkms'}"
    warning = "dkms comes from EPEL: if the installation cannot find it, enable EPEL (https://docs.fedoraproject.org/en-US/epel/) and run again."
    return Plan(
        source=NVIDIA,
        branch=wishes.branch,
        modules=modules,
        # dkms comes from EPEL, which a rebuild has a package for
        first=[] if system["id"] == "rhel" else ["epel-release"],
        install=["kernel-devel-matched", "kernel-headers", *(f"{name}-{version}" for name in names)],
        remove=[name for name in facts["packages"] if name.startswith("kmod-nvidia") and name not in names],
        repository=f"rhel{major}-{system['architecture']}",
        # what `dnf module enable` writes; RHEL 10 has no module streams any more
        stream=f"[nvidia-driver]\nname=nvidia-driver\nstream={stream}\nprofiles=\nstate=enabled\n" if major == "9" else "",
        locks=[f"{name}-{version}" if version.endswith("-*") else f"{name}-{version}-*" for name in _RPM_NAMES],
        warnings=[warning] if system["id"] == "rhel" else [],
    )
