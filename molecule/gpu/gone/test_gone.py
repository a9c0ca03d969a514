"""After the removal: the boards are as they came, and nothing of ours is left but the tools."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://inference_servers"]


def test_no_unit_is_left(host: t.Any) -> None:
    assert host.check_output("systemctl list-units --all --plain --no-legend 'llm-*'") == ""
    assert host.run("find /etc/systemd -name '*llm*' -not -path '*stand-in*' -not -name llm-gpu-settings.service.d").stdout == ""


def test_no_file_is_left(host: t.Any) -> None:
    # uv and tools belong to no single role
    assert host.run("find /opt/llm /etc/llm /var/lib/llm -mindepth 1 -not -path '/opt/llm/uv*' -not -path '/opt/llm/tools*'").stdout == ""


ASK = """
import pynvml as nvml
nvml.nvmlInit()
for index in range(nvml.nvmlDeviceGetCount()):
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    limit, default = nvml.nvmlDeviceGetPowerManagementLimit(handle), nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)
    print(limit == default, nvml.nvmlDeviceGetComputeMode(handle))
"""


def test_the_boards_are_as_they_came(host: t.Any) -> None:
    assert host.check_output("/opt/llm/tools/current/bin/python -c %s", ASK).splitlines() == ["True 0", "True 0"]
    assert ".lock." not in host.file("/run/nvml-double/state").content_string


def test_debians_package_is_gone(host: t.Any) -> None:
    assert not host.package("nvidia-persistenced").is_installed
