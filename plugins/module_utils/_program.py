# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A program out of an image, run once: to ask which options it has, or whether it accepts a file."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, has_cdi

_SECONDS = 300.0  # a large program on a slow disk


def run_program(
    docker: Docker,
    image: str,
    command: t.Sequence[str],
    *,
    read: t.Sequence[str] = (),
    environment: t.Mapping[str, str] | None = None,
    gpus: bool = False,
    user: str = "0:0",
    seconds: float = _SECONDS,
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error. ``read`` are directories of the host that it sees at their own place.

    It has no network but its own loopback, and writes nowhere but to /tmp. Unless told otherwise it is root without a capability, so that it can read
    what a module has staged, and nothing else of another user.
    """
    access = _all_gpus(has_cdi(docker.engine_version())) if gpus else {}
    variables = {"HOME": "/tmp", **(environment or {}), **({"NVIDIA_VISIBLE_DEVICES": "all"} if "Runtime" in access else {})}  # noqa: S108 - its own
    container = docker.create(
        {
            "Image": image,
            "Entrypoint": [command[0]],
            "Cmd": list(command[1:]),
            "User": user,
            "WorkingDir": "/",
            "Env": [f"{name}={value}" for name, value in variables.items()],
            "HostConfig": {
                "Binds": [f"{directory}:{directory}:ro" for directory in read],
                "CapDrop": ["ALL"],
                # So that its output can be read back, whatever the engine does with logs otherwise.
                "LogConfig": {"Type": "json-file"},
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "SecurityOpt": ["no-new-privileges:true"],
                "Tmpfs": {"/tmp": ""},  # noqa: S108 - the same
                **access,
            },
        }
    )
    try:
        return docker.run_once(container, seconds)
    finally:
        docker.remove(container)


def _all_gpus(cdi: bool) -> dict[str, t.Any]:
    return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]} if cdi else {"Runtime": "nvidia"}
