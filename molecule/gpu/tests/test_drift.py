"""Somebody changes a limit by hand, on boards that take one."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://baremetal-llm-test-gpu-3090"]

PYTHON = "/opt/llm/tools/current/bin/python"
APPLY = f"{PYTHON} /opt/llm/gpu-settings/apply.py {{}} /etc/llm/gpu-settings/settings.json"
RAISE = "import pynvml as nvml; nvml.nvmlInit(); nvml.nvmlDeviceSetPowerManagementLimit(nvml.nvmlDeviceGetHandleByIndex(0), 350000)"


def test_drift_is_seen_and_mended(host: t.Any) -> None:
    host.check_output(f"{PYTHON} -c %s", RAISE)
    drifted = host.run(APPLY.format("--check"))
    assert drifted.rc == 1
    assert "power_limit: 350 W -> 280 W" in drifted.stdout
    assert host.run(APPLY.format("")).rc == 0
    assert host.run(APPLY.format("--check")).rc == 0
