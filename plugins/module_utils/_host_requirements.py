# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What needs what: the one table of operating systems, drivers, GPUs and processors that the engines can run on.

Every limit carries its reason. When an engine's version in roles/common/vars/lock.yml changes, this is where its needs change.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

# Operating systems that the roles are written for: the ids of /etc/os-release and their versions, in order.
DEBIAN, UBUNTU, RED_HAT = ("12", "13"), ("22.04", "24.04"), ("9", "10")
OPERATING_SYSTEMS: dict[str, tuple[str, ...]] = {
    "debian": DEBIAN,
    "ubuntu": UBUNTU,
    "rhel": RED_HAT,
    "rocky": RED_HAT,
    "almalinux": RED_HAT,
    "centos": RED_HAT,
}
SUPPORTED_SYSTEMS = "Debian 12 and 13, Ubuntu 22.04 and 24.04, RHEL 9 and 10 and their rebuilds"
ARCHITECTURES = ("x86_64", "aarch64")

# Driver branches, after NVIDIA's list of branches: https://docs.nvidia.com/datacenter/tesla/drivers/
OLDEST_MAINTAINED_BRANCH = 580
END_OF_LIFE_BRANCHES = {
    535: "its long-term support ended in June 2026",
    550: "its support has ended, 580 follows it",
    570: "its support has ended, 580 follows it",
}
RECOMMENDED_BRANCH = 580  # long-term support until 2028, CUDA 13, and the last one for Maxwell, Pascal and Volta

# The last branch that drives a generation, and the first one: https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/
LAST_BRANCH = {"older": 470, "maxwell": 580, "pascal": 580, "volta": 580}
FIRST_BRANCH = {"blackwell": 570}

# The highest compute capability of a generation, for GPUs that cannot be asked yet: https://developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "older": (3, 7),
    "maxwell": (5, 3),
    "pascal": (6, 2),
    "volta": (7, 2),
    "turing": (7, 5),
    "ampere": (8, 7),
    "ada": (8, 9),
    "hopper": (9, 0),
    "blackwell": (12, 1),
}

# Where DKMS keeps the certificate of the key that it signs modules with (its own /usr/sbin/dkms), by id of /etc/os-release.
MACHINE_OWNER_KEYS = {"ubuntu": "/var/lib/shim-signed/mok/MOK.der"}
MACHINE_OWNER_KEY = "/var/lib/dkms/mok.pub"


class Need(t.NamedTuple):
    """A least value, and why; a falsy value is no need."""

    value: t.Any
    reason: str = ""


NONE = Need(None)


@dataclass(frozen=True)
class Requirement:
    """What an engine needs of a host, installed in one way and for one backend.

    ``branch`` is a driver branch, ``capability`` a compute capability, ``glibc`` a version, ``cpu_flags`` what an x86_64 processor
    must have, ``wished_flags`` what it should have.
    """

    architectures: tuple[str, ...] = ARCHITECTURES
    branch: Need = NONE
    capability: Need = NONE
    glibc: Need = NONE
    cpu_flags: Need = NONE
    wished_flags: Need = NONE


CPU, CUDA, AUTO = "cpu", "cuda", "auto"
BACKENDS = (AUTO, CPU, CUDA)

# Engine -> way of installation, the usual one first -> backend -> what it needs. A single native way has no name.
_CUDA_13 = Need(580, "CUDA 13 needs it")
_CUDA_12 = Need(525, "CUDA 12 needs it, of which there is an image too")
_TURING = Need((7, 5), "CUDA 13 cannot compile for anything older than Turing")
REQUIREMENTS: dict[str, dict[str, dict[str, Requirement]]] = {
    "vllm": {
        "": {
            CUDA: Requirement(branch=_CUDA_13, capability=Need((7, 5), "its kernels start with Turing")),
            CPU: Requirement(wished_flags=Need(("avx512f",), "its CPU kernels are written for AVX-512")),
        },
        "container": {
            CUDA: Requirement(branch=_CUDA_12, capability=Need((7, 5), "its kernels start with Turing")),
            CPU: Requirement(wished_flags=Need(("avx512f",), "its CPU kernels are written for AVX-512")),
        },
    },
    "llama_router": {
        # Upstream's releases choose their code for the processor at their start.
        "archive": {
            CUDA: Requirement(
                architectures=("x86_64",),
                branch=_CUDA_13,
                capability=_TURING,
                glibc=Need((2, 39), "upstream's CUDA build is made on Ubuntu 24.04"),
            ),
            CPU: Requirement(
                glibc=Need((2, 35), "upstream's build is made on Ubuntu 22.04"),
                wished_flags=Need(("avx2", "f16c", "fma"), "without them it falls back to much slower code"),
            ),
        },
        # Built on the host: the CUDA toolkit that is installed there decides about drivers and GPUs.
        "source": {
            CUDA: Requirement(cpu_flags=Need(("avx", "avx2", "bmi2", "f16c", "fma"), "ggml's portable build uses them")),
            CPU: Requirement(cpu_flags=Need(("avx", "avx2", "bmi2", "f16c", "fma"), "ggml's portable build uses them")),
        },
        "package": {CUDA: Requirement(), CPU: Requirement()},
        # An image brings its own C library, for CUDA 12 or 13.
        "container": {CUDA: Requirement(branch=_CUDA_12), CPU: Requirement()},
    },
}


def usual_method(engine: str) -> str:
    return next(iter(REQUIREMENTS[engine]))


def requirement(engine: str, method: str, backend: str) -> Requirement:
    """What an engine needs; an empty ``method`` is the engine's usual one."""
    methods = REQUIREMENTS[engine]
    if method and method not in methods:
        known = ", ".join(name or "an empty one" for name in methods)
        raise InputError(f"{engine} cannot be installed by the method {method!r} (there is: {known}).")
    return methods[method or usual_method(engine)][backend]


def end_of_life(branch: int) -> str:
    """Why a driver branch gets no more corrections, or an empty text."""
    if branch in END_OF_LIFE_BRANCHES:
        return END_OF_LIFE_BRANCHES[branch]
    return f"older than {OLDEST_MAINTAINED_BRANCH}, the oldest maintained one" if branch < OLDEST_MAINTAINED_BRANCH else ""


def misfit(branch: int, generation: str) -> str:
    """Why a driver branch does not drive a generation of GPUs, or an empty text."""
    if branch > LAST_BRANCH.get(generation, branch):
        return f"{generation} GPUs end with branch {LAST_BRANCH[generation]}"
    if branch < FIRST_BRANCH.get(generation, branch):
        return f"{generation} GPUs begin with branch {FIRST_BRANCH[generation]}"
    return ""
