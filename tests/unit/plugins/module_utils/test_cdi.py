# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The CDI specification. A stand-in answers for nvidia-ctk and its unit; Molecule's scenario container_toolkit has one on the machine."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _cdi
from ansible_collections.baremetal.llm.plugins.module_utils._cdi import Gpu, absent, driver_gpus, driver_version, present
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@x)  Tue Sep 23 09:55:41 UTC 2025\nGCC version: 13\n"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Wed Jun 25 22:34:38 UTC 2025\nGCC version: 12.2.0\n"


class Toolkit:
    """Stand-in for nvidia-ctk and nvidia-cdi-refresh: ``can`` says which ways work, ``sees`` which GPUs the command finds."""

    def __init__(self, root: Path) -> None:
        self.runtime, self.static = root / "run/nvidia.yaml", root / "etc/nvidia.yaml"
        self.can = {"refresh", "generate"}
        self.unit = "loaded"
        self.sees = ["0", "1"]
        self.version = "580.95.05"
        self.calls: list[str] = []

    def spec(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"- name: {name}\n" for name in self.sees) + f"hostPath: /usr/lib/libcuda.so.{self.version}\n")

    def run(self, command: list[str]) -> tuple[int, str, str]:
        if command[:2] == ["systemctl", "show"]:
            return 0, f"LoadState={self.unit}\nActiveState=inactive\n", ""
        if command[0] == "systemctl":
            self.calls.append("refresh")
            if "refresh" in self.can:
                self.spec(self.runtime)
            return 0, "", ""
        if command[1:3] == ["cdi", "list"]:
            found = [path.read_text() for path in (self.runtime, self.static) if path.exists()]
            names = [line.split(": ")[1] for text in found for line in text.splitlines() if line.startswith("- name")]
            return 0, "".join(f"nvidia.com/gpu={name}\n" for name in names) + "vendor.example/nic=0\n", "Found some CDI devices"
        self.calls.append(command[3])
        if "generate" in self.can:
            self.spec(Path(command[3].removeprefix("--output=")))
        return (0, "", "") if "generate" in self.can else (1, "", "failed to initialize NVML: Driver/library version mismatch")


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolkit:
    """With a driver and two GPUs."""
    double = Toolkit(tmp_path)
    (tmp_path / "nvidia-ctk").touch()
    monkeypatch.setattr(_cdi, "NVIDIA_CTK", tmp_path / "nvidia-ctk")
    monkeypatch.setattr(_cdi, "PROC", tmp_path / "proc")
    monkeypatch.setattr(_cdi, "RUNTIME", double.runtime)
    monkeypatch.setattr(_cdi, "STATIC", double.static)
    for number, address in enumerate(("0000:01:00.0", "0000:41:00.0"), start=1):
        gpu = tmp_path / "proc/gpus" / address
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 170\nGPU UUID: \t GPU-{number}\nDevice Minor: \t 0\n")
    (tmp_path / "proc/version").write_text(OPEN)
    return double


def test_the_driver_and_its_gpus(toolkit: Toolkit, tmp_path: Path) -> None:
    assert driver_version() == "580.95.05"
    assert driver_gpus() == [Gpu(0, "GPU-1", "0000:01:00.0"), Gpu(1, "GPU-2", "0000:41:00.0")]
    (tmp_path / "proc/version").write_text(PROPRIETARY)
    assert driver_version() == "535.261.03"


def test_written_once_by_the_toolkits_own_unit(toolkit: Toolkit) -> None:
    predicted = present(toolkit.run, check=True)
    assert predicted.changed
    assert "lacks GPU 0 (0000:01:00.0, GPU-1), GPU 1 (0000:41:00.0, GPU-2)" in predicted.diff["before"]
    assert toolkit.calls == []
    done = present(toolkit.run, check=False)
    assert (done.changed, done.diff, done.driver, done.devices) == (True, predicted.diff, "580.95.05", ["0", "1"])
    assert not present(toolkit.run, check=False).changed
    assert toolkit.calls == ["refresh"]


@pytest.mark.parametrize("unit", ["loaded", "not-found"])
def test_the_command_where_the_unit_does_not_help(toolkit: Toolkit, unit: str) -> None:
    toolkit.unit, toolkit.can = unit, {"generate"}
    assert present(toolkit.run, check=False).devices == ["0", "1"]
    assert toolkit.calls == ["refresh", f"--output={toolkit.static}"][unit == "not-found" :]
    assert not present(toolkit.run, check=False).changed


def test_of_another_driver(toolkit: Toolkit) -> None:
    toolkit.version = "570.10.01"
    toolkit.spec(toolkit.runtime)
    toolkit.version = "580.95.05"
    toolkit.can = {"generate"}
    done = present(toolkit.run, check=False)
    assert f"{toolkit.runtime} is not of the driver 580.95.05 that is loaded" in done.diff["before"]
    assert toolkit.calls == ["refresh", f"--output={toolkit.runtime}"], "the one that counts is replaced"
    assert not present(toolkit.run, check=False).changed


def test_a_gpu_that_stays_away_is_named(toolkit: Toolkit) -> None:
    toolkit.sees = ["0"]
    with pytest.raises(LLMError, match="lacks GPU 1 \\(0000:41:00.0, GPU-2\\).*fallen off the bus"):
        present(toolkit.run, check=False)


def test_what_the_command_says(toolkit: Toolkit) -> None:
    toolkit.can = set()
    with pytest.raises(LLMError, match="nvidia-ctk cdi generate failed: failed to initialize NVML: Driver/library version mismatch"):
        present(toolkit.run, check=False)


@pytest.mark.parametrize(
    ("devices", "there"),
    [
        (["0", "all"], True),
        (["GPU-1"], True),
        (["gpu0"], True),
        (["0:0", "0:1"], True),  # MIG: its slices are listed, the GPU is not
        (["mig0:1"], True),
        (["10:0", "gpu01", "all", "GPU-11"], False),
        ([], False),
    ],
)
def test_names_that_a_gpu_can_have(devices: list[str], there: bool) -> None:
    assert Gpu(0, "GPU-1", "0000:01:00.0").is_in(devices) == there


def test_without_a_driver(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "proc/version").unlink()
    outcome = present(toolkit.run, check=False)
    assert (outcome.changed, outcome.driver, toolkit.calls) == (False, "", [])
    assert "The NVIDIA driver is not loaded" in outcome.warning


def test_without_the_toolkit(toolkit: Toolkit, tmp_path: Path) -> None:
    (tmp_path / "nvidia-ctk").unlink()
    assert present(toolkit.run, check=True).changed, "it would have been installed by now"
    with pytest.raises(LLMError, match="install nvidia-container-toolkit first"):
        present(toolkit.run, check=False)


def test_absent(toolkit: Toolkit) -> None:
    toolkit.spec(toolkit.static)
    (toolkit.static.parent / "nic.yaml").touch()
    toolkit.spec(toolkit.runtime)
    assert absent(check=True).changed
    assert toolkit.static.exists()
    outcome: t.Any = absent(check=False)
    assert outcome.changed
    assert [path.name for path in toolkit.static.parent.iterdir()] == ["nic.yaml"], "somebody else's stays"
    assert not toolkit.runtime.parent.exists()
    assert not absent(check=False).changed
