# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The headers of GGUF files: metadata and the table of tensors, never the weights.

What is refused here, llama.cpp refuses too (b11434, ggml/src/gguf.cpp), except for the upper limits, which no real
model comes near: they bound time and memory for files that somebody else made.
"""

from __future__ import annotations

import math
import re
import struct
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import File, MetadataError, Missing, Tensor
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LIMIT, Files, Ranges

MAX_KEYS = 4096  # real files have some fifty
MAX_TENSORS = 65536  # the largest models have some two thousand
MAX_NAME = 64  # bytes of a tensor's name, GGML_MAX_NAME
KEPT_TEXT = 4096  # bytes; longer ones (chat templates) are counted
KEPT_NUMBERS = 1024  # llama.cpp allows 512 layers; longer arrays (of the tokenizer) are counted

# Number in the file: name, elements of a block, bytes of a block (ggml.h, ggml-common.h).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

_TEXT, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_LAYER = re.compile(r"(?:^|\.)blk\.(\d{1,9})\.")


class Counted(t.NamedTuple):
    """A value that is too long to keep."""

    items: int
    bytes: int


Number = t.Union[int, float, bool]
Value = t.Union[Number, str, tuple[Number, ...], Counted]


@dataclass(frozen=True)
class Header:
    """What stands before the weights. ``metadata`` has the file's own keys, such as ``llama.block_count``."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    file: File


def read_headers(files: Files, name: str) -> tuple[Header, ...]:
    """The header of a file or, whichever part of a split file is named, of all its parts.

    Raises MetadataError, also for a part that is missing, and what the place of the files raises.
    """
    part = _PART.fullmatch(name)
    first = _open(files, f"{part[1]}-00001-of-{part[3]}.gguf" if part else name)
    count = first.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return (first if not part or int(part[2]) == 1 else _open(files, name),)
    if not part or int(part[3]) != count:
        raise MetadataError(f"{first.file.name} is one of {count} parts, so it must be named like model-00001-of-{count:05}.gguf: rename the parts.")
    headers = [first, *(_open_part(files, part[1], number, count) for number in range(2, count + 1))]
    for number, header in enumerate(headers):
        if header.metadata.get("split.no") != number:
            raise MetadataError(f"{header.file.name} says that it is part {header.metadata.get('split.no')}, counted from 0: the parts were mixed up.")
    names = [tensor.name for header in headers for tensor in header.tensors]
    expected = first.metadata.get("split.tensors.count", len(names))
    if len(set(names)) != len(names) or len(names) != expected:
        raise MetadataError(f"The parts of {first.file.name} hold {len(set(names))} tensors of {expected}: they belong to different models.")
    return tuple(headers)


def read_header(file: Ranges, name: str) -> Header:
    """The header of one open file that is called ``name`` in the result. Raises MetadataError."""
    cursor = _Cursor(file)
    version = _version(cursor)
    tensors, keys = cursor.u64(), cursor.u64()
    if keys > MAX_KEYS or tensors > MAX_TENSORS:
        raise cursor.error(f"it lists {tensors} tensors and {keys} keys")
    metadata: dict[str, Value] = {}
    for _number in range(keys):
        key = cursor.text(0xFFFF)
        if not key or key in metadata:
            raise cursor.error(f"the key {key!r} is empty or there twice")
        metadata[key] = _value(cursor, key)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}")
    return Header(version, metadata, tuple(_tensors(cursor, tensors, alignment, name)), File(name, file.size))


def _open(files: Files, name: str) -> Header:
    with files.open(name) as file:
        return read_header(file, name)


def _open_part(files: Files, prefix: str, number: int, count: int) -> Header:
    name = f"{prefix}-{number:05}-of-{count:05}.gguf"
    try:
        return _open(files, name)
    except Missing as exc:
        raise Missing(f"Part {number} of {count} is missing: {name} is not beside the others.") from exc


class _Cursor:
    """A position in a header that only moves forwards and never leaves the file."""

    def __init__(self, file: Ranges) -> None:
        self._file = file
        self.position = 0

    def error(self, reason: str) -> MetadataError:
        return MetadataError(f"{self._file.name} is not a GGUF file that can be read: {reason} (at byte {self.position}).")

    def take(self, length: int) -> bytes:
        start = self.position
        self.skip(length)
        return self._file.read(start, length)

    def skip(self, length: int) -> None:
        """Go on without looking, and without fetching."""
        end = self.position + length
        if end > self._file.size:
            raise self.error(f"{length} bytes should follow, but the file ends at {self._file.size}")
        if end > LIMIT:
            raise self.error(f"its header has more than {LIMIT} bytes")
        self.position = end

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def text(self, longest: int) -> str:
        length = self.u64()
        if length > longest:
            raise self.error(f"a name of {length} bytes")
        return self.take(length).decode(errors="replace")

    def skip_texts(self, count: int) -> None:
        """Vocabularies have hundreds of thousands of texts, so this works on what is in memory."""
        if 8 * count > LIMIT - self.position:
            raise self.error(f"an array of {count} texts")
        while count:
            if self.position + 8 > self._file.size:
                raise self.error("the file ends in an array")
            buffer, start = self._file.window(self.position, 8)
            at, last = start, len(buffer) - 8
            while count and at <= last:
                at += 8 + _U64.unpack_from(buffer, at)[0]
                count -= 1
            self.skip(at - start)


def _version(cursor: _Cursor) -> int:
    if cursor.take(4) != b"GGUF":
        raise cursor.error("it does not begin with GGUF")
    version = cursor.u32()
    if version and not version & 0xFFFF:
        raise cursor.error("it is big-endian, which llama.cpp does not load on the machines that have NVIDIA GPUs")
    if version not in (2, 3):
        raise cursor.error(f"its version is {version}, and only 2 and 3 are known")
    return version


def _value(cursor: _Cursor, key: str) -> Value:
    kind = cursor.u32()
    if kind == _TEXT:
        length = cursor.u64()
        if length <= KEPT_TEXT:
            return cursor.take(length).decode(errors="replace")
        cursor.skip(length)
        return Counted(1, length)
    if kind == _ARRAY:
        return _array(cursor, key)
    return _numbers(cursor, key, kind, 1)[0]


def _array(cursor: _Cursor, key: str) -> Value:
    kind, count = cursor.u32(), cursor.u64()
    if kind == _TEXT:
        start = cursor.position
        cursor.skip_texts(count)
        return Counted(count, cursor.position - start)
    if kind not in _NUMBERS:  # llama.cpp has no arrays of arrays either
        raise cursor.error(f"{key} is an array of the unknown type {kind}")
    if count > KEPT_NUMBERS:
        length = count * struct.calcsize(_NUMBERS[kind])
        cursor.skip(length)
        return Counted(count, length)
    return _numbers(cursor, key, kind, count)


def _numbers(cursor: _Cursor, key: str, kind: int, count: int) -> tuple[Number, ...]:
    if kind not in _NUMBERS:
        raise cursor.error(f"{key} has the unknown type {kind}")
    layout = struct.Struct(f"<{count}{_NUMBERS[kind]}")
    return layout.unpack(cursor.take(layout.size))


def _tensors(cursor: _Cursor, count: int, alignment: int, file: str) -> list[Tensor]:
    tensors = []
    seen = set()
    end = offset = 0
    for _number in range(count):
        tensor, stated = _tensor(cursor, file)
        if tensor.name in seen:
            raise cursor.error(f"the tensor {tensor.name} is there twice")
        if stated != offset:
            raise cursor.error(f"the tensor {tensor.name} begins at {stated}, where {offset} is its place")
        seen.add(tensor.name)
        tensors.append(tensor)
        end = offset + tensor.bytes
        offset = _padded(end, alignment)
    if count and _padded(cursor.position, alignment) + end > cursor._file.size:
        raise MetadataError(
            f"{cursor._file.name} is not complete: its tensors need {_padded(cursor.position, alignment) + end} bytes,"
            f" but it has {cursor._file.size}. Download it again."
        )
    return tensors


def _tensor(cursor: _Cursor, file: str) -> tuple[Tensor, int]:
    """A tensor and where it says that its data begins, counted from the first one."""
    name = cursor.text(MAX_NAME - 1)
    dimensions = cursor.u32()
    if dimensions > 4:
        raise cursor.error(f"the tensor {name} has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions))
    kind, offset = cursor.u32(), cursor.u64()
    if kind not in TYPES:
        raise cursor.error(f"the tensor {name} has the type {kind}, which is unknown or was given up")
    type_name, block, size = TYPES[kind]
    elements = math.prod(shape)
    if elements >= 2**63 or (shape[0] if shape else 1) % block:
        raise cursor.error(f"the tensor {name} of type {type_name} has the shape {shape}")
    layer = _LAYER.search(name)
    return (
        Tensor(name, type_name, shape[::-1], elements, elements // block * size, int(layer[1]) if layer else None, file),
        offset,
    )


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
