"""After the removal: no unit, user, port, rule, file or process of ours on any of the five machines."""

from __future__ import annotations

import typing as t

testinfra_hosts = [f"docker://baremetal-llm-fleet-{role}" for role in ("gateway", "llama", "vllm", "third", "client")]


def test_no_unit_user_or_process_is_left(host: t.Any) -> None:
    assert host.check_output("systemctl list-units --all --plain --no-legend 'llm-*'") == ""
    assert host.check_output("find /etc/systemd -name '*llm*'") == ""
    assert "llm-" not in host.check_output("cat /etc/passwd /etc/group")
    for process in host.process.filter():
        assert not any(name in process.args for name in ("llama-server", "litellm", "nginx: ", "vllm")), process.args


def test_no_port_is_open_and_none_is_guarded(host: t.Any) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    # the container engine's own resolver
    assert [line for line in listening if not line.split()[3].startswith("127.0.0.11:")] == []
    assert "llm" not in host.run("nft list tables").stdout  # a machine without nft has no rules either


def test_no_file_is_left(host: t.Any) -> None:
    # uv and the tools environment belong to no single role
    search = "find /opt/llm /etc/llm /var/lib/llm /run/llm -mindepth 1 -not -path '/opt/llm/uv*' -not -path '/opt/llm/tools*'"
    assert host.run(search).stdout == ""
