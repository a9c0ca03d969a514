# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The headers of safetensors files: names, types and shapes of tensors, never the weights.

The rules are those of the format's own reader (safetensors/src/tensor.rs), but for a lower limit of the header's length.
"""

from __future__ import annotations

import json
import math
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import File, MetadataError, Missing
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import Files, Ranges

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST = 16 * 1024 * 1024  # bytes of a header; the longest known have 2 MiB
MAX_FILES = 1024  # the largest models have two hundred
PARALLEL = 8  # headers that are fetched at the same time

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class Entry(t.NamedTuple):
    """One tensor of a file."""

    name: str
    type: str
    shape: tuple[int, ...]  # outermost dimension first
    bytes: int
    file: str


@dataclass(frozen=True)
class Safetensors:
    """All tensors of a model."""

    files: tuple[File, ...]
    entries: tuple[Entry, ...]


def read_safetensors(files: Files) -> Safetensors:
    """What the index lists, or the one file that there is. Raises MetadataError, also for a part that is missing."""
    try:
        index = json_object(files.document(INDEX), INDEX)
    except Missing:
        with _open(files, SINGLE, "The model has neither an index of safetensors nor the one file") as file:
            entries = read_header(file, SINGLE)
            return Safetensors((File(SINGLE, file.size),), entries)
    expected = index.get("weight_map")
    if not isinstance(expected, dict) or not all(isinstance(name, str) for name in expected.values()):
        raise MetadataError(f"{INDEX} has no weight_map that says which tensor is in which file.")
    names = sorted(set(expected.values()))
    if len(names) > MAX_FILES or not all(_is_plain(name) for name in names):
        raise MetadataError(f"{INDEX} lists {len(names)} files, or such as do not lie beside it.")
    with ThreadPoolExecutor(PARALLEL) as pool:
        parts = list(pool.map(lambda name: _read(files, name, len(names)), names))
    entries = tuple(entry for _file, found in parts for entry in found)
    absent = sorted(set(expected) - {entry.name for entry in entries})
    if absent:
        raise MetadataError(f"{INDEX} promises {len(absent)} tensors that its files do not have, such as {absent[0]}: the files belong to different models.")
    return Safetensors(tuple(file for file, _found in parts), entries)


def read_header(file: Ranges, name: str) -> tuple[Entry, ...]:
    """The tensors of one open file, which is called ``name`` in the result. Raises MetadataError."""
    if file.size < 8:
        raise MetadataError(f"{file.name} has {file.size} bytes and is no safetensors file.")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(LONGEST, file.size - 8):
        raise MetadataError(f"{file.name} is no safetensors file: its header of {length} bytes is longer than the file, or than {LONGEST}.")
    header = json_object(file.read(8, length), file.name)
    header.pop("__metadata__", None)
    end = 0
    entries = []
    for begin, stop, entry in sorted(_entry(key, value, file.name, name) for key, value in header.items()):
        if begin != end:
            raise MetadataError(f"{file.name} is damaged: the tensor {entry.name} begins at {begin}, where {end} is its place.")
        end = stop
        entries.append(entry)
    if 8 + length + end != file.size:
        raise MetadataError(f"{file.name} is not complete: its tensors need {8 + length + end} bytes, but it has {file.size}. Download it again.")
    return tuple(entries)


def json_object(content: bytes, name: str) -> dict[str, t.Any]:
    """A JSON object. Raises MetadataError for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise MetadataError(f"{name} is damaged: it holds no JSON that can be read ({exc}).") from exc
    if not isinstance(value, dict):
        raise MetadataError(f"{name} is damaged: it holds no JSON object.")
    return value


def is_whole(value: t.Any) -> t.TypeGuard[int]:
    """Whether something out of a JSON file is a whole number: true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _read(files: Files, name: str, count: int) -> tuple[File, tuple[Entry, ...]]:
    with _open(files, name, f"One of the model's {count} files is missing") as file:
        return File(name, file.size), read_header(file, name)


def _open(files: Files, name: str, otherwise: str) -> Ranges:
    try:
        return files.open(name)
    except Missing as exc:
        raise Missing(f"{otherwise}: {name}. {exc}") from exc


def _entry(key: str, value: t.Any, file: str, name: str) -> tuple[int, int, Entry]:
    try:
        kind, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        numbers = (*shape, begin, end)
        valid = all(is_whole(number) and 0 <= number < 2**63 for number in numbers) and len(shape) < 16
        size = math.prod(shape) * BITS[kind] if valid else -1
    except (KeyError, TypeError, ValueError) as exc:
        raise MetadataError(f"{file} is damaged: it describes the tensor {key[:200]!r} in no way that is known ({exc!r}).") from exc
    if size != 8 * (end - begin):
        raise MetadataError(f"{file} is damaged: the tensor {key[:200]!r} of {kind} {shape} does not have the {end - begin} bytes that it claims.")
    return begin, end, Entry(key, kind, shape, end - begin, name)


def _is_plain(name: str) -> bool:
    return name.isprintable() and name.endswith(".safetensors") and not any(part in ("", ".", "..") for part in name.split("/"))
