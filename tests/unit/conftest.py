# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stand-in NVML library of tests/doubles/nvml in this process and its children, with a board from tests/unit/fixtures/boards."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import shutil
import subprocess
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "doubles/nvml"
BOARDS = Path(__file__).resolve().parent / "fixtures/boards"
LIBRARY = "libnvidia-ml.so.1"

pynvml: t.Any = importlib.import_module("pynvml")


@dataclass(frozen=True)
class Board:
    """A machine's GPUs: the file that describes them, and the directory with what was set."""

    file: Path
    run: Path

    def calls(self) -> list[str]:
        """Every Set and Reset so far, as ``nvmlDeviceSetPowerManagementLimit 0 300000 -> 0``: the GPU, the arguments, NVML's answer."""
        log = self.run / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def forget(self) -> None:
        """A reboot: nothing of what was set is left, nor the calls."""
        shutil.rmtree(self.run, ignore_errors=True)

    def edit(self, key: str, value: object) -> None:
        """Change or add a line of the board; ``None`` removes it. Keys: tests/doubles/nvml/README.md."""
        kept = [line for line in self.file.read_text().splitlines() if line.partition("=")[0].strip() != key]
        self.file.write_text("\n".join([*kept, *([f"{key} = {value}"] if value is not None else [])]) + "\n")


class BoardMaker(t.Protocol):
    """``board("rtx4090")``; ``board(None)`` is a machine whose driver is not loaded. A second call is another machine."""

    def __call__(self, name: str | None) -> Board: ...


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once for all runs where LLM_CACHE is set, and loaded: the loader then knows it by its name."""
    sources = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in ("nvml.c", "build.sh"))).hexdigest()[:16]
    cache = os.environ.get("LLM_CACHE")
    directory = Path(cache) / "nvml-double" / sources if cache else tmp_path_factory.mktemp("nvml-double")
    subprocess.run([SOURCES / "build.sh", directory], check=True)
    ctypes.CDLL(str(directory / LIBRARY), ctypes.RTLD_GLOBAL)
    return directory / LIBRARY


@pytest.fixture
def board(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BoardMaker]:
    made = Board(tmp_path / "nvml/board", tmp_path / "nvml-run")

    def make(name: str | None) -> Board:
        made.forget()
        made.file.parent.mkdir(exist_ok=True)
        made.file.unlink(missing_ok=True)
        if name:
            shutil.copyfile(BOARDS / f"{name}.board", made.file)
        return made

    _end_sessions(nvml_library)
    monkeypatch.setenv("NVML_DOUBLE", str(made.file.parent))
    monkeypatch.setenv("NVML_DOUBLE_RUN", str(made.run))
    monkeypatch.setenv("NVML_DOUBLE_EUID", "0")  # whoever runs the tests
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_library.parent))  # for child processes
    yield make
    _end_sessions(nvml_library)


@pytest.fixture
def no_nvml_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without NVIDIA's driver packages, whatever this one has."""

    def missing(name: str) -> t.NoReturn:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    _forget_library()
    monkeypatch.setattr(pynvml, "CDLL", missing)


def _end_sessions(library: Path) -> None:
    shutdown = ctypes.CDLL(str(library)).nvmlShutdown
    while shutdown() == pynvml.NVML_SUCCESS:
        pass
    _forget_library()


def _forget_library() -> None:
    pynvml.nvmlLib = None
    pynvml._nvmlLib_refcount = 0
    pynvml._nvmlGetFunctionPointer_cache.clear()
