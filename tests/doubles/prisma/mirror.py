# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lays out a stand-in for the mirror of Prisma's engines, for tests only: upstream's paths, and in each file a launcher of the programs here.

Usage: mirror.py MIRROR SEEN_AS. MIRROR gets Prisma's real command line from npm, and binaries.prisma.sh/all_commits/<commit>/<target>/<engine>.gz with its
sums; SEEN_AS is where the machines that run the engines see this directory. What is there already is not made again, unless the programs have changed.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HOST = "binaries.prisma.sh"
#: What prisma-client-py 0.11.0 asks for, and where LiteLLM's schema says that it may run.
COMMIT = "ac9d7041ed77bcc8a8dbd2ab6616b39013829574"
TARGETS = ("debian-openssl-3.0.x", "debian-openssl-1.1.x", "linux-musl", "linux-musl-openssl-3.0.x", "linux-arm64-openssl-3.0.x")
ENGINES = ("query-engine", "schema-engine")
#: Prisma's command line, which is real: npm has it.
PACKAGES = {"prisma/-/prisma-5.4.2.tgz": "prisma@5.4.2", "@prisma/engines/-/engines-5.4.2.tgz": "@prisma/engines@5.4.2"}


def main(mirror: Path, seen_as: str) -> None:
    programs = mirror / "prisma-stand-in" / _content()
    if programs.is_dir():
        print("is there")
        return
    programs.parent.mkdir(parents=True, exist_ok=True)
    for path, package in PACKAGES.items():
        _pack(package, mirror / "npm" / path)
    with tempfile.TemporaryDirectory(dir=programs.parent) as scratch:
        place = Path(scratch) / "programs"
        shutil.copytree(HERE, place, ignore=shutil.ignore_patterns("__pycache__"))
        _npm(place, "ci", "--ignore-scripts")
        place.rename(programs)
    lay_out(mirror, f"{seen_as}/prisma-stand-in/{programs.name}")


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


def _content() -> str:
    files = sorted(file for file in HERE.iterdir() if file.is_file())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _pack(package: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        name = _npm(Path(scratch), "pack", "--silent", package).strip().splitlines()[-1]
        (Path(scratch) / name).replace(target)


def _npm(place: Path, *arguments: str) -> str:
    return subprocess.run(["npm", *arguments], cwd=place, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
