# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Running containers that were given GPUs, and whether they can still open them.

Why they may not: with systemd as cgroup driver a ``systemctl daemon-reload`` writes the device rules of every container anew, from what
systemd was told at its start. A GPU that came in past systemd (the legacy hook) or whose device has no link in /dev/char is not among it,
so the container loses its GPU and CUDA says "Unknown Error" until it is restarted:
https://github.com/NVIDIA/nvidia-container-toolkit/issues/48
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import stat
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

REMEDY = (
    "Restart these containers. So that it does not happen again after the next systemctl daemon-reload: hand GPUs out through CDI"
    " (--device nvidia.com/gpu=all) rather than --gpus; see that /dev/char has links to the NVIDIA devices (sudo nvidia-ctk system"
    ' create-dev-char-symlinks --create-all), or take systemd out of it with {"exec-opts": ["native.cgroupdriver=cgroupfs"]} in daemon.json'
    " (container_toolkit_daemon), which restarts Docker."
)
_DEVICE = re.compile(r"nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)")
_SECONDS = 10.0  # a GPU that wakes up needs some
_NO_GPU = ("", "void", "none")  # values of NVIDIA_VISIBLE_DEVICES that give none


@dataclass(frozen=True)
class Containers:
    """``running`` is false if no engine answers: then there is nothing to lose."""

    running: bool
    containers: list[dict[str, t.Any]]

    @property
    def lost(self) -> list[dict[str, t.Any]]:
        return [container for container in self.containers if container["ok"] is False]

    @property
    def message(self) -> str:
        """What is wrong and what to do, empty if nothing is."""
        if not self.lost:
            return ""
        who = "\n".join(f"- {container['name']}: {container['reason']}" for container in self.lost)
        return f"These containers were given GPUs and cannot use them:\n{who}\n{REMEDY}"


#: Opens device files as a container would: (pid of its first process, names in its /dev) -> name -> errno, 0 if it opens.
Opener = t.Callable[[int, "list[str]"], "dict[str, int]"]


def look(docker: Docker, label: str = "", proc: Path = Path("/proc"), opener: Opener | None = None) -> Containers:
    """All running containers that were given GPUs, with ``name``, ``id``, ``how`` they were, ``devices``, ``ok`` and ``reason``.

    ``ok`` is ``None`` if it could not be tested; ``reason`` is empty if all is well. With a ``label`` only containers that carry it.
    """
    found = []
    try:
        running = docker.running_containers(label)
    except NoDocker:
        return Containers(False, [])
    for identifier in running:
        about = docker.inspect(identifier)
        how = given(about) if about else ""
        if about and how:
            found.append({"name": about["Name"].lstrip("/"), "id": identifier, "how": how, **_test(about, proc, opener or open_inside)})
    return Containers(True, sorted(found, key=lambda container: container["name"]))


def given(about: t.Mapping[str, t.Any]) -> str:
    """How a container was given GPUs: ``cdi``, ``request`` (--gpus), ``runtime``, ``device`` (--device /dev/nvidia0), or empty if it was not."""
    host = about["HostConfig"]
    for request in host.get("DeviceRequests") or ():
        if request.get("Driver") == "cdi":
            if any(str(name).startswith("nvidia.com/") for name in request.get("DeviceIDs") or ()):
                return "cdi"
        elif request.get("Driver") == "nvidia" or any("gpu" in kinds for kinds in request.get("Capabilities") or ()):
            return "request"
    environment = dict(entry.partition("=")[::2] for entry in about["Config"].get("Env") or ())
    if (host.get("Runtime") or "").startswith("nvidia") and environment.get("NVIDIA_VISIBLE_DEVICES", "") not in _NO_GPU:
        return "runtime"
    if any(_DEVICE.fullmatch(Path(device["PathOnHost"]).name) for device in host.get("Devices") or ()):
        return "device"
    return ""


def cgroup_of(pid: int, proc: Path = Path("/proc")) -> Path:
    """The directory of the cgroup that decides which devices a process may open: v1's ``devices`` where it is mounted, else v2's."""
    entries = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
    v1 = [path for _number, controllers, path in entries if "devices" in controllers.split(",")]
    v2 = [path for number, controllers, path in entries if (number, controllers) == ("0", "")]
    mounts = [_mount(line) for line in (proc / "self/mountinfo").read_text().splitlines()]
    for kind, path in [("cgroup", path) for path in v1] + [("cgroup2", path) for path in v2]:
        for filesystem, options, root, place in mounts:
            inside = path == root or path.startswith(root.rstrip("/") + "/")
            if filesystem == kind and inside and (kind == "cgroup2" or "devices" in options):
                return Path(place) / path[len(root.rstrip("/")) :].lstrip("/")
    raise LLMError(f"the cgroup of process {pid} is not mounted in this machine")


def open_inside(pid: int, names: list[str], proc: Path = Path("/proc")) -> dict[str, int]:
    """Open device files of a container, from its cgroup: name -> errno, 0 for one that opens.

    A child process enters the container's cgroup, opens and ends; nothing has to be installed in the container and nothing of it stays there.
    """
    cgroup = cgroup_of(pid, proc)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer: t.Any = "the process that tests it failed"
        try:
            # Should the container be at its memory limit, it is us who are killed.
            Path("/proc/self/oom_score_adj").write_text("1000")
            (cgroup / "cgroup.procs").write_text("0")
            answer = {name: _open(proc / str(pid) / "root/dev" / name) for name in names}
        except OSError as exc:
            answer = f"its cgroup {cgroup} could not be entered: {exc.strerror}"
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    try:
        return _answer(reader, child)
    finally:
        os.close(reader)


def _test(about: t.Mapping[str, t.Any], proc: Path, opener: Opener) -> dict[str, t.Any]:
    pid = about["State"]["Pid"]
    if about["State"].get("Paused"):
        return {"devices": [], "ok": None, "reason": "it is paused, so it was not tested"}
    try:
        devices = _devices(proc / str(pid) / "root/dev")
        answers = opener(pid, devices)
    except (LLMError, OSError) as exc:
        return {"devices": [], "ok": None, "reason": f"it could not be tested: {exc}"}
    refused = {name: code for name, code in answers.items() if code}
    reasons = [f"/dev/{name}: {_reason(code)}" for name, code in refused.items()]
    if not any(name[-1].isdigit() for name in devices):
        reasons.append("it has no GPU in its /dev")
    return {"devices": [f"/dev/{name}" for name in devices], "ok": not reasons, "reason": "; ".join(reasons)}


def _devices(directory: Path) -> list[str]:
    found = []
    for name in sorted(os.listdir(directory)):
        # A link in a container leads to a place in that container, which we would miss: its devices are no links.
        if _DEVICE.fullmatch(name) and stat.S_ISCHR((directory / name).lstat().st_mode):
            found.append(name)
    return found


def _reason(code: int) -> str:
    said = os.strerror(code)
    return f"{said} (its cgroup does not allow the device any more)" if code == errno.EPERM else said


def _open(path: Path) -> int:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def _answer(reader: int, child: int) -> dict[str, int]:
    deadline = time.monotonic() + _SECONDS
    received = b""
    while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 65536)
        if not part:
            os.waitpid(child, 0)
            answer = json.loads(received or b'"the process that tests it was killed"')
            if isinstance(answer, str):
                raise LLMError(answer)
            return answer
        received += part
    # One that hangs in the driver does not even die: it is not waited for.
    os.kill(child, signal.SIGKILL)
    raise LLMError(f"a device did not open within {_SECONDS:.0f} s")


def _mount(line: str) -> tuple[str, list[str], str, str]:
    """Kind of file system, its options, the part of it that is mounted, and where."""
    before, _dash, after = line.partition(" - ")
    fields, kind = before.split(), after.split()
    return kind[0], kind[-1].split(","), fields[3], fields[4]
