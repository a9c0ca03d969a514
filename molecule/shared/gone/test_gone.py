"""After the removal: no unit, user, port, file or process of ours."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://all"]


def test_no_unit_is_left(host: t.Any) -> None:
    assert host.check_output("systemctl list-units --all --plain --no-legend 'llm-*'") == ""
    assert host.check_output("find /etc/systemd -name 'llm-*'") == ""


def test_no_user_and_no_process_is_left(host: t.Any) -> None:
    assert "llm-" not in host.check_output("cat /etc/passwd /etc/group")
    for process in host.process.filter():
        assert not any(name in process.args for name in ("llama-server", "litellm", "nginx: ")), process.args


def test_no_port_is_open(host: t.Any) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    # on a network of its own a container has the engine's resolver
    assert [line for line in listening if not line.split()[3].startswith("127.0.0.11:")] == []


def test_no_file_is_left(host: t.Any) -> None:
    # uv and the tools environment belong to no single role
    search = "find /opt/llm /etc/llm /var/lib/llm /run/llm -mindepth 1 -not -path '/opt/llm/uv*' -not -path '/opt/llm/tools*'"
    assert host.run(search).stdout == ""
