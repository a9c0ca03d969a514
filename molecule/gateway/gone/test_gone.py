"""After the removal: no unit, user, port, file or process of the gateway's is left, its database included."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://gateways"]


def test_no_unit_user_or_process_is_left(host: t.Any) -> None:
    units = host.check_output("systemctl list-units --all --plain --no-legend 'llm-litellm*' 'llm-nginx*' 'llm-valkey*' 'llm-backup*'")
    assert units == ""
    # what the tests have added for the stand-in of Prisma's engines is the tests'
    assert host.check_output("find /etc/systemd -name '*llm-litellm*' -not -name '*.service.d'") == ""
    assert "llm-litellm" not in host.check_output("cat /etc/passwd /etc/group")
    for process in host.process.filter():
        assert not any(name in process.args for name in ("litellm", "query-engine", "nginx: ", "postgres")), process.args


def test_no_file_is_left(host: t.Any) -> None:
    search = "find /opt/llm /etc/llm /var/lib/llm /run/llm /var/lib/postgresql /etc/postgresql -mindepth 1"
    kept = "-not -path '/opt/llm/uv*' -not -path '*llama*' -not -path '/var/lib/llm/models*' -not -path '/var/lib/postgresql/15'"
    assert host.run(f"{search} {kept} -not -path '/etc/postgresql/15'").stdout == ""
