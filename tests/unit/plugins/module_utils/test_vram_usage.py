# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _vram_usage
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Process
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB, Usage
from ansible_collections.baremetal.llm.plugins.module_utils._vram_usage import drifts, usages


class Processes:
    """A /proc with processes of units."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc

    def add(self, pid: int, unit: str, *arguments: str, resident: int = 0) -> None:
        directory = self.proc / str(pid)
        directory.mkdir()
        (directory / "cgroup").write_text(f"0::/system.slice/{unit}.service\n")
        (directory / "cmdline").write_text("\0".join(("/opt/llm/x", *arguments, "")))
        (directory / "status").write_text(f"Name:\tx\nVmRSS:\t  {resident // 1024} kB\n")


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    (tmp_path / "self").mkdir()
    return Processes(tmp_path)


def deployment(model: str, gpus: list[int], *devices: Usage, engine: str = "llama_router", service: str = "llama-router", **host: int) -> dict[str, t.Any]:
    return {
        "model": model,
        "engine": engine,
        "service": service,
        "gpus": gpus,
        "estimate": {"devices": [usage.terms() for usage in devices], "host": Usage(**host).terms()},
    }


def test_each_process_of_a_router_is_held_against_its_own_model(processes: Processes) -> None:
    processes.add(10, "llm-llama-router", "--models-preset", "p.ini")
    processes.add(11, "llm-llama-router", "--port", "1", "--alias", "chat")
    processes.add(12, "llm-llama-router", "--port", "2", "--alias", "coder")
    processes.add(13, "someone-else", "--alias", "chat")
    plan = {
        "deployments": [
            deployment("chat", [0], Usage(weights=4000 * MIB, overhead=450 * MIB)),
            deployment("coder", [0, 1], Usage(weights=9000 * MIB), Usage(weights=8000 * MIB)),
            deployment("unloaded", [0], Usage(weights=1)),
        ]
    }
    gpus = [
        Gpu(0, processes=[Process(11, "", 4500 * MIB, "compute"), Process(12, "", 9100 * MIB, "compute"), Process(13, "", 5 * MIB, "compute")]),
        Gpu(1, processes=[Process(12, "", 8000 * MIB, "compute"), Process(12, "", 8000 * MIB, "graphics")]),
    ]
    found = usages(plan, gpus, processes.proc)
    assert [(usage.model, usage.place, usage.planned // MIB, usage.actual // MIB) for usage in found] == [
        ("chat", "gpu0", 4450, 4500),
        ("coder", "gpu0", 9000, 9100),
        ("coder", "gpu1", 8000, 8000),
    ]
    assert drifts(found, 512 * MIB) == []


def test_all_processes_of_a_vllm_service_are_its_models(processes: Processes) -> None:
    processes.add(20, "llm-vllm-8000")
    processes.add(21, "llm-vllm-8000")
    plan = {"deployments": [deployment("big", [0], Usage(weights=100 * MIB), engine="vllm", service="vllm-8000")]}
    (usage,) = usages(plan, [Gpu(0, processes=[Process(20, "", 60 * MIB, "compute"), Process(21, "", 70 * MIB, "compute")])], processes.proc)
    assert usage.actual == 130 * MIB


def test_without_a_gpu_it_is_main_memory_and_prompts_are_not_there_yet(processes: Processes) -> None:
    processes.add(11, "llm-llama-router", "--alias", "chat", resident=700 * MIB)
    plan = {"deployments": [deployment("chat", [], weights=900 * MIB, prompts=8192 * MIB)]}
    (usage,) = found = usages(plan, [], processes.proc)
    assert (usage.place, usage.planned, usage.actual) == ("ram", 900 * MIB, 700 * MIB)
    assert drifts(found, 64 * MIB) == []  # pages that nobody touched yet


def test_a_drift_names_both_figures(processes: Processes) -> None:
    processes.add(11, "llm-llama-router", "--alias", "chat")
    plan = {"deployments": [deployment("chat", [0], Usage(weights=4000 * MIB))]}

    def drift(actual: int) -> list[str]:
        return drifts(usages(plan, [Gpu(0, processes=[Process(11, "", actual * MIB, "compute")])], processes.proc), 512 * MIB)

    assert drift(4512) == []
    assert drift(3488) == []
    assert drift(4513)[0].startswith("chat (llama-router) takes 4513 MiB of gpu0, 4000 MiB were planned: add it to llm_vram_reserved")
    assert drift(3487)[0].startswith("chat (llama-router) takes 3487 MiB of gpu0, 4000 MiB were planned: memory lies idle")


def test_a_process_in_a_container_is_known_by_its_user(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"20": "llm-llama-router", "21": "llm-other"}
    monkeypatch.setattr(_vram_usage, "_user", lambda directory: owners.get(directory.name, ""))
    for pid in (20, 21, 22):
        processes.add(pid, "docker", "--alias", "chat", resident=MIB)
    found = usages({"deployments": [deployment("chat", [])]}, [], processes.proc)
    assert [(usage.model, usage.place, usage.actual) for usage in found] == [("chat", "ram", MIB)]
