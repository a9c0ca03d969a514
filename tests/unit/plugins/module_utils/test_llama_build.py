# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds, with a stand-in for cmake: what is kept, what is reused, and what an interruption leaves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _llama_build
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._llama_build import Build, install, plan

BUILD = Build("b1", "cpu", ("-DA=1",), "x86_64")


class Machine:
    """Runs commands for real, but for cmake: that leaves a script which answers --version."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache
        self.cmake: list[list[str]] = []
        self.starts = 0
        self.fails = ""

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        if "cmake" in argv:
            self.cmake.append(argv)
            if self.fails and self.fails in argv:
                return 1, "ninja: build stopped\n", "some.cpp:1: error\n"
            if "--build" in argv:
                binary = Path(argv[argv.index("--build") + 1]) / "bin" / "llama-server"
                binary.parent.mkdir(parents=True)
                binary.write_text(f"#!/bin/sh\nexit {self.starts}\n", encoding="utf-8")
                binary.chmod(0o755)
            return 0, "", ""
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def install(self, source: str | None = None, build: Build = BUILD, check: bool = False) -> tuple[bool, bool]:
        difference, missing = install(build, self.root, self.cache, Path(source) if source else None, self.run, check=check)
        return difference.changed, missing

    @property
    def archive(self) -> Path:
        return self.cache / BUILD.archive


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "opt", tmp_path / "cache")


def test_the_names_carry_version_backend_machine_and_options() -> None:
    assert BUILD.archive.startswith("llama.cpp-b1-cpu-x86_64-")
    assert BUILD.directory.startswith("b1-cpu-")
    assert Build("b1", "cpu", ("-DA=2",), "x86_64").directory != BUILD.directory
    assert Build("b1", "cpu", ("-DA=1",), "aarch64").archive != BUILD.archive


def test_without_source_nothing_happens(machine: Machine) -> None:
    assert machine.install() == (False, True)
    assert not machine.root.exists()


def test_build_again_and_elsewhere_from_the_cache(machine: Machine) -> None:
    assert machine.install("/src") == (True, False)
    assert os.readlink(machine.root / "current") == BUILD.directory
    assert (machine.root / "current" / "llama-server").is_file()
    configure, build = machine.cmake
    assert {"-S", "/src", "-DA=1"} <= set(configure)
    assert build[-2:] == ["--target", "llama-server"]
    assert sorted(path.name for path in machine.cache.iterdir()) == [BUILD.archive, f"{BUILD.archive}.sha256"]

    assert machine.install("/src") == (False, False)
    machine.root = machine.root.with_name("another")
    assert machine.install() == (True, False)
    assert (machine.root / "current" / "llama-server").is_file()
    assert len(machine.cmake) == 2


def test_check_mode_says_what_would_happen(machine: Machine) -> None:
    assert machine.install(check=True) == (False, True)
    assert machine.install("/src", check=True) == (True, False)
    assert not machine.root.exists() and not machine.cache.exists()


def test_other_options_are_another_build_and_going_back_is_a_link(machine: Machine) -> None:
    machine.install("/src")
    other = Build("b1", "cpu", ("-DA=2",), "x86_64")
    assert machine.install("/src", build=other) == (True, False)
    assert os.readlink(machine.root / "current") == other.directory
    assert machine.install() == (True, False)
    assert os.readlink(machine.root / "current") == BUILD.directory
    assert len(machine.cmake) == 4


def test_a_damaged_archive_is_built_anew(machine: Machine) -> None:
    machine.install("/src")
    machine.root = machine.root.with_name("another")
    machine.archive.write_bytes(b"half")
    assert machine.install() == (False, True)
    assert machine.install("/src") == (True, False)


def test_an_archive_that_does_not_start_here_is_built_anew(machine: Machine) -> None:
    machine.starts = 127
    with pytest.raises(LLMError, match="does not start here"):
        machine.install("/src")
    assert not (machine.root / BUILD.directory).exists()
    machine.starts = 0
    assert machine.install() == (False, True)
    assert machine.install("/src") == (True, False)


def test_a_failed_build_says_why_and_leaves_nothing(machine: Machine) -> None:
    machine.fails = "--build"
    with pytest.raises(LLMError, match=r"cmake --build .* failed(.|\n)*some.cpp:1: error"):
        machine.install("/src")
    assert list(machine.cache.iterdir()) == []
    assert not machine.root.exists()


def test_an_interrupted_build_is_gone_on_with(machine: Machine) -> None:
    made = machine.cache / f".build-{BUILD.archive}" / "made"
    made.mkdir(parents=True)
    (made / "half.o").touch()
    assert machine.install("/src") == (True, False)
    assert machine.cmake[0][machine.cmake[0].index("-B") + 1] == str(made)
    assert sorted(path.name for path in machine.cache.iterdir()) == [BUILD.archive, f"{BUILD.archive}.sha256"]


def test_the_backend_follows_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "nvidia0"
    monkeypatch.setattr(_llama_build, "GPU_DEVICE", device)
    monkeypatch.setattr(_llama_build.shutil, "which", lambda program: f"/usr/bin/{program}")

    def run(argv: list[str]) -> tuple[int, str, str]:
        return 0, "9.0\n8.6\n9.0\n", ""

    build = plan("b11434", "auto", [], run)
    assert build.backend == "cpu"
    assert "-DLLAMA_BUILD_NUMBER=11434" in build.options
    assert not any("CUDA" in option for option in build.options)
    device.touch()
    build = plan("b11434", "auto", [], run)
    assert build.backend == "cuda"
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=86;90"} <= set(build.options)
    own = plan("b11434", "cuda", ["-DCMAKE_CUDA_ARCHITECTURES=120"], run)
    assert [option for option in own.options if "ARCHITECTURES" in option] == ["-DCMAKE_CUDA_ARCHITECTURES=120"]


def test_cuda_without_its_compiler_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_llama_build.shutil, "which", lambda program: None)
    monkeypatch.setattr(_llama_build, "CUDA_COMPILER", "/nonexistent/nvcc")
    with pytest.raises(LLMError, match="no nvcc in PATH nor /nonexistent/nvcc"):
        machine.install("/src", build=Build("b1", "cuda", (), "x86_64"))
