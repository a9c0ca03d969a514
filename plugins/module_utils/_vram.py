# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The words in which every estimate of memory is given: what one running model takes, by what it is for and where it lies."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, fields

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

MIB = 2**20
GIB = 2**30
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT])(?:iB)?")


@dataclass(frozen=True)
class Usage:
    """Bytes in one place (a GPU, or main memory), by what they are for."""

    weights: int = 0  # tensors of the model
    cache: int = 0  # keys and values
    state: int = 0  # of recurrent layers
    compute: int = 0  # scratch buffers of the widest step
    projector: int = 0  # encoder of images or sound, its weights and its scratch
    draft: int = 0  # everything of a draft model
    prompts: int = 0  # prompts that are remembered in main memory
    overhead: int = 0  # of the process itself: driver context, libraries, graphs

    @property
    def total(self) -> int:
        return sum(self.terms().values())

    def terms(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: size + getattr(other, name) for name, size in self.terms().items()})


@dataclass(frozen=True)
class MemoryEstimate:
    """What one model in one process takes. ``devices`` has one entry per GPU that the process uses, in its order; none on a CPU."""

    devices: tuple[Usage, ...]
    host: Usage
    notes: tuple[str, ...] = ()  # sentences: what of it is not known, and how it was counted


def mib(size: int) -> int:
    """Whole MiB, rounded up: a need is never shown smaller than it is."""
    return -(-size // MIB)


def shown(size: int) -> str:
    """``812 MiB`` or ``14.2 GiB``, as tables and sentences have it."""
    return f"{size / GIB:.1f} GiB" if abs(size) >= GIB else f"{size / MIB:.0f} MiB"


def total(parts: t.Iterable[Usage]) -> Usage:
    return sum(parts, Usage())


def parse_size(value: t.Any, name: str) -> int:
    """Bytes of ``24GiB``, ``512M`` or a whole number of MiB. ``name`` is what the error calls it."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value * MIB
    match = _SIZE.fullmatch(str(value))
    if match:
        return int(float(match[1]) * 2 ** (10 * (1 + "KMGT".index(match[2]))))
    if str(value).isdigit():
        return int(value) * MIB
    raise InputError(f"{name} is {value!r}: write a number with a unit, such as 24GiB or 512M, or a whole number of MiB.")
