# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Services of ours that rest for a while, whichever way they run."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import systemctl


@dataclass(frozen=True)
class Services:
    """Units, or with ``docker`` containers, in the order of their start. Raises SystemdError or DockerError for one that cannot be stopped or started."""

    names: tuple[str, ...]
    run: Runner
    docker: Docker | None = None

    def stop(self) -> None:
        for name in reversed(self.names):
            if self.docker:
                self.docker.stop(name)
            else:
                systemctl(self.run, "stop", name)

    def start(self) -> None:
        for name in self.names:
            if self.docker:
                self.docker.start(name)
            else:
                systemctl(self.run, "start", name)
