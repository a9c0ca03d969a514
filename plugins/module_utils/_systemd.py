# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service under systemd that runs with the newest of its inputs."""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _system_user
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import listeners

UNIT_DIRECTORY = Path("/etc/systemd/system")
STAMP_DIRECTORY = Path("/run/llm")
_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "ExecMainStartTimestampMonotonic")


class SystemdError(LLMError):
    """systemctl refused; the message carries what it said."""


@dataclass(frozen=True)
class App:
    """A service: its unit, its files, and what else (``inputs``) it reads at its start.

    ``user`` is a system user without a shell, created with its group if there is none. For a change of a ``reloadable`` path a
    reload is enough, any other change restarts. ``ports`` must be free before a start. One that cannot run yet (``start`` is false) is
    prepared and enabled, and whether it runs is not looked at.
    """

    name: str
    unit: str
    files: tuple[FileSpec, ...] = ()
    inputs: tuple[Path, ...] = ()
    reloadable: frozenset[Path] = frozenset()
    ports: tuple[int, ...] = ()
    user: str = ""
    home: str = "/nonexistent"
    start: bool = True


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be in check mode: ``action`` is start, restart, reload or empty."""

    changed: bool
    action: str
    diff: dict[str, str]


def merged(first: Outcome, second: Outcome) -> Outcome:
    diff = {key: first.diff[key] + second.diff[key] for key in first.diff}
    return Outcome(first.changed or second.changed, first.action or second.action, diff)


@dataclass(frozen=True)
class Plan:
    """How an app differs from what it shall be, and what follows from that."""

    app: App
    changed: frozenset[Path]
    lacks_user: bool
    stale: bool
    enable: bool
    action: str


def present(app: App, run: Runner, check: bool) -> Outcome:
    """Write what differs, then start, restart or reload the service if it does not yet run with it.

    An input that is newer than the running process makes a restart due, not a change in this very run: so an
    interrupted run is mended by the next one.
    """
    difference = Difference()
    found = plan(app, run, difference)
    if not check:
        prepare([found], run)
        act(app, found.action, run)
    return Outcome(difference.changed, found.action, difference.as_dict())


def plan(app: App, run: Runner, difference: Difference, written: frozenset[Path] = frozenset(), label: str = "") -> Plan:
    """Only looks. ``written`` are inputs that somebody else is about to change, ``label`` tells one app's lines from another's."""
    lacks_user = bool(app.user) and difference.add(f"user {app.user}", "present" if _system_user.find(app.user) else None, "present")
    unit = FileSpec(UNIT_DIRECTORY / f"{app.name}.service", app.unit)
    changed = {spec.path for spec in (unit, *app.files) if compare(spec, difference)}
    before = unit_state(app.name, run)
    enable = difference.add(f"{label}enabled", before["UnitFileState"] == "enabled", True)
    running = before["ActiveState"] in ("active", "reloading", "activating")
    action = _due(app, unit.path, changed | written, running, before) if app.start else ""
    difference.add(f"{label}running", running, running or app.start)
    if action in ("restart", "reload"):
        difference.add(f"{label}process", "older than its inputs", f"{action}ed")
    # Any unit: an app may have a second one among its files.
    stale = any(path.parent == UNIT_DIRECTORY for path in changed) or before["NeedDaemonReload"] == "yes"
    return Plan(app, frozenset(changed), lacks_user, stale, enable, action)


def prepare(plans: t.Sequence[Plan], run: Runner) -> None:
    """Everything but the processes: what they need is there afterwards. Before anything is written, their ports are looked at."""
    for found in plans:
        if found.action == "start":
            _refuse_taken_ports(found.app)
    for found in plans:
        app = found.app
        if found.lacks_user:
            _system_user.create(app.user, app.home, run)
        write((FileSpec(UNIT_DIRECTORY / f"{app.name}.service", app.unit), *app.files), found.changed, run)
        if found.stale:
            systemctl(run, "daemon-reload")
        if found.enable:
            systemctl(run, "enable", app.name)


def absent(name: str, run: Runner, check: bool) -> Outcome:
    """Stop and forget the unit; its files are the caller's to remove."""
    difference = Difference()
    path = UNIT_DIRECTORY / f"{name}.service"
    found = unit_state(name, run)
    running = difference.add("running", found["ActiveState"] in ("active", "reloading", "activating", "deactivating"), False)
    exists = difference.add(str(path), "present" if path.exists() else None, None)
    if not check and (running or exists):
        systemctl(run, "disable", "--now", name)
        path.unlink(missing_ok=True)
        systemctl(run, "daemon-reload")
        run(["systemctl", "reset-failed", name])  # a unit that had not failed answers 1: nothing to mend
        (STAMP_DIRECTORY / name).unlink(missing_ok=True)
    return Outcome(difference.changed, "stop" if running else "", difference.as_dict())


def _due(app: App, unit: Path, changed: t.Collection[Path], running: bool, state: t.Mapping[str, str]) -> str:
    if not running:
        return "start"
    started = time.time() - (time.monotonic() - int(state["ExecMainStartTimestampMonotonic"] or 0) / 1e6)
    loaded = max(started, _modified(STAMP_DIRECTORY / app.name))
    paths = {unit, *app.inputs, *(spec.path for spec in app.files)}
    if any(path in changed or _modified(path) > started for path in paths - app.reloadable):
        return "restart"
    if any(path in changed or _modified(path) > loaded for path in paths & app.reloadable):
        return "reload"
    return ""


def act(app: App, action: str, run: Runner) -> None:
    """Raises ``SystemdError`` with the end of the service's log."""
    if action == "reload":
        STAMP_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        systemctl(run, "reload", app.name)
        (STAMP_DIRECTORY / app.name).touch()
    elif action:
        try:
            systemctl(run, action, app.name)
        except SystemdError as exc:
            raise SystemdError(f"{exc}\n{end_of_log(app.name, run)}") from exc


def end_of_log(name: str, run: Runner) -> str:
    _status, log, _err = run(["journalctl", "--no-pager", "--output=cat", "--lines=20", f"--unit={name}"])
    return f"The end of its log:\n{log}"


def _refuse_taken_ports(app: App) -> None:
    for found in listeners() if app.ports else ():
        if found.port in app.ports:
            program = found.program or "another program"
            raise SystemdError(
                f"{app.name} cannot start: port {found.port} is already taken by {program}. Stop that program, or give {app.name} another port."
            )


def _modified(path: Path) -> float:
    """Of the link itself, if it is one: a ``current`` link that was turned to an older version is a new input."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def unit_state(name: str, run: Runner, *further: str) -> dict[str, str]:
    """Properties of a unit as ``systemctl show`` prints them; empty where it does not know one."""
    properties = (*_PROPERTIES, *further)
    status, out, err = run(["systemctl", "show", f"{name}.service", *(f"--property={key}" for key in properties)])
    if status != 0:
        raise SystemdError(f"systemctl show {name} failed: {err.strip() or out.strip()}. Is systemd this machine's service manager?")
    found = dict(line.partition("=")[::2] for line in out.splitlines())
    return {key: found.get(key, "") for key in properties}


def systemctl(run: Runner, *arguments: str) -> None:
    """Raises ``SystemdError`` with what systemctl said."""
    status, out, err = run(["systemctl", *arguments])
    if status != 0:
        raise SystemdError(f"systemctl {' '.join(arguments)} failed: {err.strip() or out.strip()}")
