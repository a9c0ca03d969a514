"""Where no GPU is, the role has nothing to do."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://baremetal-llm-test-driver-none"]


def test_nothing_is_touched(host: t.Any) -> None:
    assert host.run("find /etc /opt /var/lib/apt -name '*llm*' -o -name '*nvidia*'").stdout == ""
    assert "nvidia" not in host.check_output("dpkg-query --show")
    assert not host.package("dkms").is_installed
