# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._services import Services


class Host:
    """systemd and a Docker engine, which keep what they were told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def run(self, command: list[str]) -> tuple[int, str, str]:
        self.told.append(" ".join(command))
        return 0, "", ""

    def stop(self, name: str) -> None:
        self.told.append(f"docker stop {name}")

    def start(self, name: str) -> None:
        self.told.append(f"docker start {name}")


@pytest.mark.parametrize("program", ["systemctl", "docker"])
def test_what_is_started_last_is_stopped_first(program: str) -> None:
    host = Host()
    services = Services(("llm-a", "llm-b"), host.run, t.cast(Docker, host) if program == "docker" else None)
    services.stop()
    services.start()
    assert host.told == [f"{program} {told}" for told in ("stop llm-b", "stop llm-a", "start llm-a", "start llm-b")]
