# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which NVIDIA GPUs are on the PCI bus. Needs neither a driver nor root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NVIDIA = "0x10de"
# 0300 is a GPU with display outputs, 0302 one without (data centre).
_GPU_CLASSES = ("0x0300", "0x0302")

# First PCI device number of each run of a generation, after https://pci-ids.ucw.cz/v2.2/pci.ids (vendor 10de).
# A number belongs to the last entry that is not above it.
_GENERATIONS = (
    (0x0000, "older"),
    (0x1340, "maxwell"),
    (0x15F0, "pascal"),
    (0x1600, "maxwell"),
    (0x1B00, "pascal"),
    (0x1D80, "volta"),
    (0x1E00, "turing"),
    (0x2080, "ampere"),
    (0x2180, "turing"),
    (0x2200, "ampere"),
    (0x2300, "hopper"),
    (0x2400, "ampere"),
    (0x2600, "ada"),
    (0x2900, "blackwell"),
    (0x3200, "unknown"),
)
GENERATIONS = ("older", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell", "unknown")


@dataclass(frozen=True)
class PciGpu:
    """A GPU: its address as the kernel writes it (``0000:01:00.0``), its device number in hexadecimal, its generation."""

    address: str
    device: str
    generation: str


def nvidia_gpus(sysfs: Path = Path("/sys")) -> list[PciGpu]:
    """All NVIDIA GPUs on the bus, in the order of their addresses; what else NVIDIA puts there (sound, USB, NVSwitch) is left out."""
    found = []
    for entry in sorted((sysfs / "bus/pci/devices").glob("*")):
        if _read(entry / "vendor") == NVIDIA and _read(entry / "class")[:6] in _GPU_CLASSES:
            device = _read(entry / "device")
            found.append(PciGpu(entry.name, device.removeprefix("0x"), generation(int(device, 16))))
    return found


def generation(device: int) -> str:
    """The generation that a PCI device number belongs to, one of ``GENERATIONS``."""
    return [name for first, name in _GENERATIONS if first <= device][-1]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
