# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Memory of common boards, for a plan before they are bought. A board that is not here is planned with the memory that the user gives."""

from __future__ import annotations

import re
import typing as t


class Board(t.NamedTuple):
    memory: int  # MiB that NVML reports in all, with ECC as it leaves the factory
    compute_capability: str


# Rounded figures of nvidia-smi, not measured by us: as soon as NVML answers, its own take their place.
BOARDS = {
    "RTX 3060": Board(12288, "8.6"),
    "RTX 3070": Board(8192, "8.6"),
    "RTX 3080": Board(10240, "8.6"),
    "RTX 3090": Board(24576, "8.6"),
    "RTX 3090 Ti": Board(24564, "8.6"),
    "RTX 4060 Ti 16GB": Board(16380, "8.9"),
    "RTX 4070": Board(12282, "8.9"),
    "RTX 4070 Ti": Board(12282, "8.9"),
    "RTX 4070 Ti SUPER": Board(16376, "8.9"),
    "RTX 4080": Board(16376, "8.9"),
    "RTX 4080 SUPER": Board(16376, "8.9"),
    "RTX 4090": Board(24564, "8.9"),
    "RTX 5070": Board(12227, "12.0"),
    "RTX 5070 Ti": Board(16303, "12.0"),
    "RTX 5080": Board(16303, "12.0"),
    "RTX 5090": Board(32607, "12.0"),
    "RTX A2000 12GB": Board(12282, "8.6"),
    "RTX A4000": Board(16376, "8.6"),
    "RTX A5000": Board(24564, "8.6"),
    "RTX A6000": Board(49140, "8.6"),
    "RTX 6000 Ada": Board(49140, "8.9"),
    "RTX PRO 6000": Board(97887, "12.0"),
    "T4": Board(15360, "7.5"),
    "L4": Board(23034, "8.9"),
    "L40": Board(46068, "8.9"),
    "L40S": Board(46068, "8.9"),
    "A10": Board(23028, "8.6"),
    "A30": Board(24576, "8.0"),
    "A40": Board(46068, "8.6"),
    "A100 40GB": Board(40960, "8.0"),
    "A100 80GB": Board(81920, "8.0"),
    "H100": Board(81559, "9.0"),
    "H100 80GB": Board(81559, "9.0"),
    "H100 NVL": Board(95830, "9.0"),
    "H200": Board(143771, "9.0"),
    "B200": Board(183359, "10.0"),
}
# Words of product names that do not change the memory.
_NOISE = re.compile(
    r"\b(NVIDIA|GeForce|Tesla|PCIe|SXM\d?|HBM\d\w?|Blackwell|Generation|Workstation|Server|Max-Q|Edition)\b", re.IGNORECASE
)


def known_board(name: str) -> Board | None:
    """The board of a product name (``NVIDIA GeForce RTX 4090``, ``A100-SXM4-80GB``); a laptop's board of that name is another one."""
    words = " ".join(_NOISE.sub(" ", name).replace("-", " ").split())
    return next((board for known, board in BOARDS.items() if known.lower() == words.lower()), None)
