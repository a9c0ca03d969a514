# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._pci import GENERATIONS, PciGpu, generation, nvidia_gpus


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (0x102D, "older"),  # Tesla K80
        (0x13C2, "maxwell"),  # GTX 970
        (0x17C8, "maxwell"),  # GTX 980 Ti
        (0x15F8, "pascal"),  # Tesla P100
        (0x1B06, "pascal"),  # GTX 1080 Ti
        (0x1CB3, "pascal"),  # Quadro P400
        (0x1DB6, "volta"),  # Tesla V100
        (0x1E04, "turing"),  # RTX 2080 Ti
        (0x1EB8, "turing"),  # Tesla T4
        (0x2184, "turing"),  # GTX 1660
        (0x20B5, "ampere"),  # A100 80GB
        (0x2204, "ampere"),  # RTX 3090
        (0x2571, "ampere"),  # RTX A2000 12GB
        (0x2330, "hopper"),  # H100 SXM
        (0x2335, "hopper"),  # H200 SXM
        (0x2684, "ada"),  # RTX 4090
        (0x26B9, "ada"),  # L40S
        (0x2901, "blackwell"),  # B200
        (0x2B85, "blackwell"),  # RTX 5090
        (0xFFFF, "unknown"),
    ],
)
def test_a_device_number_tells_the_generation(device: int, expected: str) -> None:
    assert generation(device) == expected
    assert expected in GENERATIONS


def test_only_gpus_of_nvidia_count(tmp_path: Path) -> None:
    for address, vendor, kind, device in (
        ("0000:41:00.0", "0x10de", "0x030200", "0x2330"),
        ("0000:01:00.0", "0x10de", "0x030000", "0x2684"),
        ("0000:01:00.1", "0x10de", "0x040300", "0x22ba"),  # its sound device
        ("0000:05:00.0", "0x10de", "0x068000", "0x22a3"),  # an NVSwitch
        ("0000:00:02.0", "0x8086", "0x030000", "0x4680"),
    ):
        place = tmp_path / "bus/pci/devices" / address
        place.mkdir(parents=True)
        for name, value in (("vendor", vendor), ("class", kind), ("device", device)):
            (place / name).write_text(f"{value}\n")
    assert nvidia_gpus(tmp_path) == [PciGpu("0000:01:00.0", "2684", "ada"), PciGpu("0000:41:00.0", "2330", "hopper")]


def test_a_machine_without_a_pci_bus_has_none(tmp_path: Path) -> None:
    assert nvidia_gpus(tmp_path) == []
