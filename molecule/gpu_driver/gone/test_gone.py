"""After the removal."""

from __future__ import annotations

import typing as t


def test_no_package_of_the_driver_is_left(host: t.Any) -> None:
    packages = host.check_output("dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\\n'")
    assert not [line for line in packages.splitlines() if "nvidia" in line or "libcuda" in line]
    assert host.check_output("apt-mark showhold") == ""


def test_no_module_is_left(host: t.Any) -> None:
    assert host.run("find /lib/modules -name 'nvidia*'").stdout == ""
    assert "nvidia" not in host.run("dkms status").stdout


def test_no_file_is_left(host: t.Any) -> None:
    # uv and tools belong to no single role
    assert host.run("find /etc /opt -name '*llm*' -not -path /opt/llm -not -path /etc/llm").stdout == ""
    assert host.run("find /etc/llm -mindepth 1").stdout == ""
    assert host.run("find /etc/apt -name '*nvidia*'").stdout == ""
    assert host.run("find /opt/llm -mindepth 1 -maxdepth 1 -not -name uv -not -name tools").stdout == ""
