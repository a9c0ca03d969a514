"""Writes a stand-in for a kernel module: an ELF file without code, of which modinfo can read the version and the licence.

Usage: module.py VERSION LICENCE >nvidia.ko
"""

from __future__ import annotations

import struct
import sys

_HEADER, _SECTION = 64, 64  # sizes of ELF64's structures


def module(version: str, licence: str) -> bytes:
    info = b"".join(f"{key}={value}\0".encode() for key, value in (("version", version), ("license", licence), ("name", "nvidia")))
    names = b"\0.modinfo\0.shstrtab\0"
    offset = _HEADER + len(info)
    sections = [
        struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("<IIQQQQIIQQ", names.index(b".modinfo"), 1, 2, 0, _HEADER, len(info), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", names.index(b".shstrtab"), 3, 0, 0, offset, len(names), 0, 0, 1, 0),
    ]
    identity = b"\x7fELF\2\1\1" + bytes(9)
    # a relocatable file (1) for x86_64 (62)
    fields = (1, 62, 1, 0, 0, offset + len(names), 0, _HEADER, 0, 0, _SECTION, len(sections), len(sections) - 1)
    return identity + struct.pack("<HHIQQQIHHHHHH", *fields) + info + names + b"".join(sections)


if __name__ == "__main__":
    sys.stdout.buffer.write(module(sys.argv[1], sys.argv[2]))
