# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A CDI specification that lists every GPU of the driver that is loaded. Docker hands GPUs out by it: ``--device nvidia.com/gpu=0``."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import unit_state

PROC = Path("/proc/driver/nvidia")
NVIDIA_CTK = Path("/usr/bin/nvidia-ctk")
#: Where the toolkit's unit writes, and where an administrator does. What stands in the first one counts.
RUNTIME, STATIC = Path("/var/run/cdi/nvidia.yaml"), Path("/etc/cdi/nvidia.yaml")
_REFRESH = "nvidia-cdi-refresh"
_KIND = "nvidia.com/gpu="


@dataclass(frozen=True)
class Gpu:
    """A GPU of the driver, numbered in the order of the PCI bus as NVML does."""

    index: int
    uuid: str
    address: str

    def is_in(self, devices: t.Collection[str]) -> bool:
        """Whether one of the names that nvidia-ctk can give it (index, uuid, type-index) is listed, or one of its MIG slices."""
        names = {str(self.index), f"gpu{self.index}", self.uuid}
        slices = (f"{self.index}:", f"mig{self.index}:")
        return any(device in names or device.startswith(slices) for device in devices)


@dataclass(frozen=True)
class Outcome:
    """``driver`` is empty if none is loaded; ``devices`` are the CDI names of kind nvidia.com/gpu, or those before in check mode."""

    changed: bool
    diff: dict[str, str]
    driver: str
    devices: list[str]
    warning: str = ""


def present(run: Runner, check: bool) -> Outcome:
    """Let the toolkit write its specification if a GPU is missing in it or if it is of another driver; refuse one that stays incomplete."""
    driver = driver_version()
    if not driver:
        return Outcome(
            False,
            {},
            "",
            [],
            "The NVIDIA driver is not loaded, so there is no CDI specification yet and containers get no GPUs."
            " Load it (role nvidia_driver, or a reboot) and run this again.",
        )
    gpus = driver_gpus()
    devices = _devices(run, check)
    difference = Difference()
    wrong = _wrong(gpus, devices, driver)
    if difference.add("CDI specification", wrong or "complete", "complete") and not check:
        for write in (_refresh, _generate):
            write(run)
            devices = _devices(run)
            wrong = _wrong(gpus, devices, driver)
            if not wrong:
                break
        else:
            raise LLMError(
                f"The CDI specification {wrong}. See what {NVIDIA_CTK} cdi generate and systemctl status {_REFRESH} say; a GPU that has fallen"
                " off the bus is not listed."
            )
    return Outcome(difference.changed, difference.as_dict(), driver, devices)


def absent(check: bool) -> Outcome:
    """Remove the specifications: they name programs of the toolkit, so without it they only break containers."""
    difference = Difference()
    for path in (RUNTIME, STATIC):
        if difference.add(str(path), "present" if path.exists() else None, None) and not check:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return Outcome(difference.changed, difference.as_dict(), driver_version(), [])


def driver_version() -> str:
    """Version of the loaded kernel module, empty if there is none."""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _text(PROC / "version"))
    return found[1] if found else ""


def driver_gpus() -> list[Gpu]:
    """The GPUs that the loaded kernel module drives."""
    gpus = []
    for index, directory in enumerate(sorted((PROC / "gpus").glob("*"))):
        uuid = re.search(r"^GPU UUID:\s*(\S+)", _text(directory / "information"), re.MULTILINE)
        gpus.append(Gpu(index, uuid[1] if uuid else "", directory.name))
    return gpus


def _wrong(gpus: t.Sequence[Gpu], devices: t.Collection[str], driver: str) -> str:
    """What is wrong with the specification, empty if nothing is."""
    missing = [f"GPU {gpu.index} ({gpu.address}, {gpu.uuid})" for gpu in gpus if not gpu.is_in(devices)]
    if missing:
        return f"lacks {', '.join(missing)}"
    path = _effective()
    # It names the driver's libraries with their version: libcuda.so.580.95.05.
    if path and f".so.{driver}" not in _text(path):
        return f"{path} is not of the driver {driver} that is loaded"
    return ""


def _devices(run: Runner, check: bool = False) -> list[str]:
    if not NVIDIA_CTK.exists():
        if check:
            return []  # it would have been installed by now
        raise LLMError(f"{NVIDIA_CTK} is not there: install nvidia-container-toolkit first (role container_toolkit).")
    status, out, err = run([str(NVIDIA_CTK), "cdi", "list"])
    if status != 0:
        raise LLMError(f"{NVIDIA_CTK} cdi list failed: {err.strip()}")
    return [line[len(_KIND) :] for line in out.split() if line.startswith(_KIND)]


def _refresh(run: Runner) -> None:
    if unit_state(_REFRESH, run)["LoadState"] == "loaded":
        run(["systemctl", "start", f"{_REFRESH}.service"])  # what it did not do, the next way does


def _generate(run: Runner) -> None:
    path = _effective() or STATIC
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    status, _out, err = run([str(NVIDIA_CTK), "cdi", "generate", f"--output={path}"])
    if status != 0:
        raise LLMError(f"{NVIDIA_CTK} cdi generate failed: {err.strip()[-2000:]}")


def _effective() -> Path | None:
    return next((path for path in (RUNTIME, STATIC) if path.exists()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
