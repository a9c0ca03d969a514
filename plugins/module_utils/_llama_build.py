# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""llama-server from its source: built once, kept in a cache, installed beside its older versions."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._download import locked
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._versions import link, scratch

BINARY = "llama-server"
GPU_DEVICE = Path("/dev/nvidia0")
CUDA_COMPILER = "/usr/local/cuda/bin/nvcc"

# A program of one file that needs nothing from a network at build time and runs on every machine of its architecture.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DCMAKE_UNITY_BUILD=ON",
)
# Merged source files compile in two thirds of the time; these targets have files that refuse to be merged.
UNITY_EXCEPTIONS = """\
function(leave_apart)
  foreach(target mtmd ggml-cuda)
    if(TARGET ${target})
      set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL leave_apart)
"""


@dataclass(frozen=True)
class Build:
    """One way to build one version. Equal builds have equal names, wherever they are made."""

    version: str
    backend: str
    options: tuple[str, ...]
    machine: str = platform.machine()

    @property
    def directory(self) -> str:
        digest = hashlib.sha256("\n".join(self.options).encode()).hexdigest()
        return f"{self.version}-{self.backend}-{digest[:8]}"

    @property
    def archive(self) -> str:
        version, backend, digest = self.directory.rsplit("-", 2)
        return f"llama.cpp-{version}-{backend}-{self.machine}-{digest}.tar.gz"


def plan(version: str, backend: str, extra: list[str], run: Runner) -> Build:
    """Decide the backend, if that is left open, and with it the options."""
    if backend == "auto":
        backend = "cuda" if GPU_DEVICE.exists() else "cpu"
    options = [*OPTIONS, f"-DLLAMA_BUILD_NUMBER={version.lstrip('b')}"]
    if backend == "cuda":
        options.append("-DGGML_CUDA=ON")
        if not any(option.startswith("-DCMAKE_CUDA_ARCHITECTURES") for option in extra):
            options += _architectures(run)
    return Build(version, backend, (*options, *extra))


def _architectures(run: Runner) -> list[str]:
    """Compile for the GPUs of this host alone, if they can be asked: every other architecture costs minutes."""
    if not shutil.which("nvidia-smi"):
        return []
    status, out, _err = run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    found = sorted({line.strip().replace(".", "") for line in out.splitlines() if line.strip()})
    return [f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(found)}"] if status == 0 and found else []


def install(build: Build, root: Path, cache: Path, source: Path | None, run: Runner, *, check: bool) -> tuple[Difference, bool]:
    """Install the build from the cache, or make it from ``source``; return what changed and whether it is missing.

    It is missing if neither the cache nor ``source`` provides it. Both may take an interruption at any point: a
    version directory and a cached archive are complete as soon as they exist.
    """
    difference = Difference()
    target = root / build.directory
    if difference.add(str(target), "present" if target.is_dir() else None, "present"):
        provided = _cached(build, cache) if check else _install_cached(build, target, cache, run)
        if not provided and source is None:
            return Difference(), True
        if not provided and source is not None and not check:
            _compile(build, source, cache, run)
            if not _install_cached(build, target, cache, run):
                raise LLMError(f"llama.cpp {build.version}: the program that was just built does not start here.")
    link(root, build.directory, difference, check)
    return difference, False


def _cached(build: Build, cache: Path) -> bool:
    archive = cache / build.archive
    try:
        expected = _sum_file(archive).read_text(encoding="utf-8").split()[0]
        return _sha256(archive) == expected
    except (FileNotFoundError, IndexError):
        return False


def _install_cached(build: Build, target: Path, cache: Path, run: Runner) -> bool:
    """Install the archive of the cache, if it is there, whole, and starts here: it may come from a newer system."""
    if not _cached(build, cache):
        return False
    with scratch(target.parent) as place:
        if target.is_dir():  # another run finished it while we waited
            return True
        content = place / "content"
        content.mkdir(mode=0o755)
        archive = cache / build.archive
        status, _out, err = run(["tar", "--extract", f"--file={archive}", f"--directory={content}", "--no-same-owner"])
        if status != 0:
            raise LLMError(f"llama.cpp {build.version}: tar cannot unpack {archive}: {err.strip()}")
        if run([str(content / BINARY), "--version"])[0] != 0:
            return False
        os.replace(content, target)
    return True


def _compile(build: Build, source: Path, cache: Path, run: Runner) -> None:
    """Build in a scratch directory of the cache; one that an interrupted run left is gone on with."""
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    archive = cache / build.archive
    waited_since = _modified(archive)
    with locked(cache):
        if _modified(archive) != waited_since and _cached(build, cache):
            return  # another run finished it while we waited
        place = cache / f".build-{build.archive}"
        place.mkdir(mode=0o755, exist_ok=True)
        exceptions = place / "unity.cmake"
        exceptions.write_text(UNITY_EXCEPTIONS, encoding="utf-8")
        configure = [*build.options, *_compiler(build), f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={exceptions}"]
        made = place / "made"
        for command in (
            ["cmake", "-S", str(source), "-B", str(made), "-G", "Ninja", *configure],
            ["nice", "cmake", "--build", str(made), "--target", BINARY],
        ):
            status, out, err = run(command)
            if status != 0:
                shutil.rmtree(place)
                said = "\n".join(f"{out}\n{err}".strip().splitlines()[-30:])
                called = " ".join(command)
                raise LLMError(f"llama.cpp {build.version}: {called} failed. The end of what it said:\n{said}")
        _keep(made / "bin", archive, run)
        shutil.rmtree(place)


def _compiler(build: Build) -> list[str]:
    if build.backend != "cuda":
        return []
    compiler = shutil.which("nvcc") or (CUDA_COMPILER if Path(CUDA_COMPILER).exists() else "")
    if not compiler:
        raise LLMError(
            f"llama.cpp {build.version}: a build for NVIDIA GPUs needs the CUDA compiler, but there is no nvcc in PATH "
            f"nor {CUDA_COMPILER}. Install the CUDA toolkit, or build for the CPU (backend cpu)."
        )
    return [f"-DCMAKE_CUDA_COMPILER={compiler}"]


def _keep(made: Path, archive: Path, run: Runner) -> None:
    staged = archive.with_name(f".{archive.name}.tmp")
    options = ["--create", "--gzip", f"--file={staged}", f"--directory={made}", "--owner=0", "--group=0"]
    status, _out, err = run(["tar", *options, BINARY])
    if status != 0:
        raise LLMError(f"llama.cpp: tar cannot write {staged}: {err.strip()}")
    staged_sum = _sum_file(staged)
    staged_sum.write_text(f"{_sha256(staged)}  {archive.name}\n", encoding="utf-8")
    os.replace(staged, archive)
    os.replace(staged_sum, _sum_file(archive))


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sum_file(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
