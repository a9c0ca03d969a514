# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a service in a container needs of its host: a user, files, a directory for its data, no unit of the same name; and when it must restart."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import time
import typing as t
from calendar import timegm
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _system_user
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import listeners
from ansible_collections.baremetal.llm.plugins.module_utils._program import run_program
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import absent as unit_absent

_HOME_MODE = 0o750
_OPEN_FILES = 65536  # as many as a unit of ours


@dataclass(frozen=True)
class ContainerApp:
    """A service: its container and its user are called ``name``. ``validate`` of its files runs in ``image``.

    ``inputs`` are further paths that it reads at its start, ``ports`` must be free before it; ``units`` and ``leftovers`` belong to the other way to run it.
    """

    name: str
    image: str
    home: Path
    files: tuple[FileSpec, ...] = ()
    inputs: tuple[Path, ...] = ()
    ports: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    leftovers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """``restart`` says that a running container is older than what it has read; ``engine`` is the engine's version, empty if there is none."""

    changed: bool
    diff: dict[str, str]
    restart: bool = False
    engine: str = ""
    user: tuple[int, int] = (-1, -1)


@dataclass(frozen=True)
class Host:
    """What we act through: the engine and commands."""

    docker: Docker
    run: Runner


def prepare(app: ContainerApp, host: Host, check: bool) -> Outcome:
    """Everything but the container itself.

    As with a unit, an input that is newer than the running process makes a restart due, not a change in this very run: so an interrupted
    run is mended by the next one.
    """
    difference = Difference()
    engine, started = _engine(app.name, host.docker, check)
    lacks_user = difference.add(f"user {app.name}", "present" if _system_user.find(app.name) else None, "present")
    changed = {spec.path for spec in app.files if compare(spec, difference)}
    if not check:
        if lacks_user:
            _system_user.create(app.name, str(app.home), host.run)
        write(app.files, changed, _validator(app, host))
    lacks_home = difference.add(str(app.home), _shown(app.home), f"{app.name}:{app.name} {_HOME_MODE:04o}")
    if lacks_home and not check:
        _make_home(app)
    units = [unit_absent(name, host.run, check) for name in app.units]
    left = [path for path in app.leftovers if difference.add(str(path), "present" if os.path.lexists(path) else None, None)]
    if not check:
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if started is None:
            _refuse_taken_ports(app)
    restart = started is not None and any(path in changed or _modified(path) > started for path in {*app.inputs, *(spec.path for spec in app.files)})
    diff = {key: "".join(unit.diff[key] for unit in units) + text for key, text in difference.as_dict().items()}
    return Outcome(difference.changed or any(unit.changed for unit in units), diff, restart, engine, _system_user.find(app.name) or (-1, -1))


def absent(name: str, docker: Docker, check: bool, image: bool = False) -> Outcome:
    """Stop and remove the container, with ``image`` its image too unless another one uses it. Without an engine there is neither."""
    difference = Difference()
    try:
        found = docker.inspect(name)
    except NoDocker:
        return Outcome(False, difference.as_dict())
    difference.add(f"container {name}", "present" if found else None, None)
    if found and not check:
        docker.stop(found["Id"])
        docker.remove(found["Id"])
        if image:
            docker.remove_image(found["Image"])
    return Outcome(difference.changed, difference.as_dict())


def open_files() -> int:
    """How many files a container may have open: no more than the machine's first process, or the engine cannot start it."""
    most = resource.prlimit(1, resource.RLIMIT_NOFILE)[1]
    return _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)


def started_at(state: t.Mapping[str, t.Any]) -> float | None:
    """When a running container was started, after the engine's clock, which is the host's; ``None`` if it does not run."""
    if not state.get("Running"):
        return None
    moment, _dot, fraction = state["StartedAt"].rstrip("Z").partition(".")
    return timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def _engine(name: str, docker: Docker, check: bool) -> tuple[str, float | None]:
    try:
        version = docker.engine_version()
    except NoDocker as exc:
        if check:
            return "", None  # the first run has not installed it yet
        raise LLMError(f"{exc} Run the role container_toolkit, which installs one, or run this service natively (llm_deployment: native).") from exc
    found = docker.inspect(name)
    return version, started_at(found["State"]) if found else None


def _validator(app: ContainerApp, host: Host) -> Runner:
    """Staged files lie beside the ones that they replace: the directories are shown to the program at their own place."""
    directories = sorted({str(spec.path.parent) for spec in app.files})
    return lambda command: run_program(host.docker, app.image, command, read=directories)


def _make_home(app: ContainerApp) -> None:
    user, group = _system_user.find(app.name) or (-1, -1)
    app.home.mkdir(parents=True, exist_ok=True)
    os.chown(app.home, user, group)
    app.home.chmod(_HOME_MODE)


def _shown(path: Path) -> str | None:
    try:
        return f"{path.owner()}:{path.group()} {stat.S_IMODE(path.stat().st_mode):04o}"
    except FileNotFoundError:
        return None
    except KeyError:
        return "of a user who is no more"


def _refuse_taken_ports(app: ContainerApp) -> None:
    for found in listeners() if app.ports else ():
        if found.port in app.ports:
            program = found.program or "another program"
            raise LLMError(f"{app.name} cannot start: port {found.port} is already taken by {program}. Stop it, or give {app.name} another port.")


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
