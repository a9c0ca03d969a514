# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lays out a stand-in for the mirror of Prisma's engines, for tests only: upstream's paths, and in each file a launcher of the programs here.

Usage: mirror.py MIRROR PROGRAMS. MIRROR becomes binaries.prisma.sh/all_commits/<commit>/<target>/<engine>.gz with its sums; PROGRAMS is where the machines
that run the engines see this directory, with its node_modules (npm ci --ignore-scripts).
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

HOST = "binaries.prisma.sh"
#: What prisma-client-py 0.11.0 asks for, and where LiteLLM's schema says that it may run.
COMMIT = "ac9d7041ed77bcc8a8dbd2ab6616b39013829574"
TARGETS = ("debian-openssl-3.0.x", "debian-openssl-1.1.x", "linux-musl", "linux-musl-openssl-3.0.x", "linux-arm64-openssl-3.0.x")
ENGINES = ("query-engine", "schema-engine")


def lay_out(mirror: Path, programs: str) -> None:
    for target in TARGETS:
        place = mirror / HOST / "all_commits" / COMMIT / target
        place.mkdir(parents=True, exist_ok=True)
        for engine in ENGINES:
            launcher = f'#!/bin/sh\nexport PRISMA_STAND_IN_COMMIT={COMMIT}\nexec node {programs}/{engine}.js "$@"\n'.encode()
            packed = gzip.compress(launcher, mtime=0)
            (place / f"{engine}.gz").write_bytes(packed)
            (place / f"{engine}.gz.sha256").write_text(f"{hashlib.sha256(packed).hexdigest()}  {engine}.gz\n")
            (place / f"{engine}.sha256").write_text(f"{hashlib.sha256(launcher).hexdigest()}  {engine}\n")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]), sys.argv[2])
