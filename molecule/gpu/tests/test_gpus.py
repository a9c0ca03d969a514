"""The GPUs as NVML has them, asked through the real nvidia-ml-py from the tools environment."""

from __future__ import annotations

import json
import typing as t

import pytest

testinfra_hosts = ["ansible://inference_servers"]

ASK = """
import json, pynvml as nvml
nvml.nvmlInit()
handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
print(json.dumps([{
    "watts": nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
    "persistence": nvml.nvmlDeviceGetPersistenceMode(handle),
    "compute_mode": nvml.nvmlDeviceGetComputeMode(handle),
} for handle in handles]))
"""
SETTINGS = "/opt/llm/tools/current/bin/python /opt/llm/gpu-settings/apply.py {} /etc/llm/gpu-settings/settings.json"


@pytest.fixture
def board(host: t.Any) -> str:
    return str(host.ansible.get_variables()["board"])


@pytest.fixture
def gpus(host: t.Any) -> list[dict[str, t.Any]]:
    found: list[dict[str, t.Any]] = json.loads(host.check_output("/opt/llm/tools/current/bin/python -c %s", ASK))
    return found


def calls(host: t.Any) -> str:
    return str(host.file("/run/nvml-double/calls").content_string)


def test_every_gpu_has_persistence_mode(gpus: list[dict[str, t.Any]]) -> None:
    assert [gpu["persistence"] for gpu in gpus] == [1, 1]


def test_the_daemon_starts_at_boot_and_stays(host: t.Any) -> None:
    assert host.service("nvidia-persistenced").is_enabled
    assert host.service("nvidia-persistenced").is_running
    assert host.check_output("systemctl show nvidia-persistenced --property=StopWhenUnneeded --value") == "no"


def test_the_limits_are_in_force(host: t.Any, board: str, gpus: list[dict[str, t.Any]]) -> None:
    watts = [gpu["watts"] for gpu in gpus]
    if board == "rtx3090-pair":
        assert watts == [280, 250]
        assert [gpu["compute_mode"] for gpu in gpus] == [0, 3]
        assert "nvmlDeviceSetGpuLockedClocks 1 210 1395" in calls(host)
        assert "nvmlDeviceSetGpuLockedClocks 0" not in calls(host)
    else:
        assert watts == [70, 70]


def test_boards_that_refuse_a_limit_get_a_clock_lock(host: t.Any, board: str) -> None:
    if board == "a2000-pair-display":
        assert "nvmlDeviceSetGpuLockedClocks 0 210 1200" in calls(host)
        assert "nvmlDeviceSetGpuLockedClocks 1 210 1200" in calls(host)


def test_the_boot_unit_ran_and_is_in_a_sandbox(host: t.Any) -> None:
    assert host.service("llm-gpu-settings").is_enabled
    assert host.check_output("systemctl show llm-gpu-settings --property=ActiveState,Result").split() == ["Result=success", "ActiveState=active"]
    score = host.check_output("systemd-analyze security --no-pager llm-gpu-settings | tail -n 1").split()
    assert float(score[score.index("llm-gpu-settings.service:") + 1]) <= 1.5, score


def test_nothing_drifts(host: t.Any) -> None:
    done = host.run(SETTINGS.format("--check"))
    assert (done.rc, done.stdout) == (0, "")
