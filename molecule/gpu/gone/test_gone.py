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


def test_the_boards_are_as_they_came(host: t.Any) -> None:
    state = host.file("/run/nvml-double/state")
    assert not state.exists or not any(word in state.content_string for word in ("power", "lock", "compute_mode")), state.content_string


def test_debians_package_is_gone(host: t.Any) -> None:
    assert not host.package("nvidia-persistenced").is_installed
