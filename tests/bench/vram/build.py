# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds the oracle (oracle.cpp) from nothing: the locked source of llama.cpp, verified, with RPC devices in place of GPUs.

Some minutes and 300 MiB in $LLM_CACHE the first time; the version and a digest of everything that the program is made of name what is kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml
from ansible_collections.baremetal.llm.plugins.module_utils._artifact import Artifact, install
from ansible_collections.baremetal.llm.plugins.module_utils._llama_build import OPTIONS
from ansible_collections.baremetal.llm.plugins.module_utils._lock import lock_entry

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
NAME = "vram-oracle"
MADE_OF = ("oracle.cpp", "CMakeLists.txt")
CONFIGURE = (*OPTIONS, "-DGGML_RPC=ON", "-DLLAMA_BUILD_MTMD=ON", "-DMTMD_VIDEO=OFF")


class Program(t.NamedTuple):
    path: Path
    version: str  # of llama.cpp


def cache() -> Path:
    """As the Makefile has it."""
    default = Path("/var/cache") if os.geteuid() == 0 else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LLM_CACHE") or default / "baremetal-llm")


def build() -> Program:
    """The program of the locked version; made now if it is not there yet."""
    entry = _locked()
    version = entry["version"]
    place = cache() / f"oracle-{version}"
    program = place / f"{NAME}-{_digest(entry)}"
    if not program.exists():
        made = place / "build"
        source = _source(entry, place)
        _run("cmake", "-S", str(HERE), "-B", str(made), "-G", "Ninja", f"-DLLAMA_SOURCE={source}", *CONFIGURE)
        _run("nice", "cmake", "--build", str(made), "--target", NAME)
        os.replace(made / NAME, program)
    return Program(program, version)


def _locked() -> dict[str, t.Any]:
    lock = yaml.safe_load((ROOT / "roles/common/vars/lock.yml").read_text(encoding="utf-8"))["common_lock"]
    entry = lock_entry(lock, "llama_cpp", kind="source")
    return {"version": lock["llama_cpp"]["default"], **entry}


def _digest(entry: dict[str, t.Any]) -> str:
    parts = [entry["sha256"], *CONFIGURE, *((HERE / name).read_text(encoding="utf-8") for name in MADE_OF)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _source(entry: dict[str, t.Any], place: Path) -> Path:
    root = place / "source"
    wanted = {key: entry[key] for key in ("pypi", "sha256", "directory")}
    artifact = Artifact("llama_cpp", entry["version"], root, python=sys.executable, **wanted)
    install(artifact, make_current=False, run=_quiet, check=False)
    return root / entry["version"]


def _quiet(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _run(*command: str) -> None:
    status, out, err = _quiet(list(command))
    if status != 0:
        said = "\n".join(f"{out}\n{err}".strip().splitlines()[-30:])
        raise SystemExit(f"{' '.join(command)} failed ({status}):\n{said}")
