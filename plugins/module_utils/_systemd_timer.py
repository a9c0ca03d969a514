# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Work that systemd starts by the clock: a service that ends, its timer and its files."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import UNIT_DIRECTORY, SystemdError, systemctl


@dataclass(frozen=True)
class Timer:
    """``schedule`` are OnCalendar expressions, which systemd itself checks before anything is written."""

    name: str
    service: str
    timer: str
    schedule: tuple[str, ...] = ()
    files: tuple[FileSpec, ...] = ()


def present(wish: Timer, run: Runner, check: bool) -> Difference:
    """The service is not started; it reads its files whenever it is."""
    for one in wish.schedule:
        status, _out, err = run(["systemd-analyze", "calendar", one])
        if status != 0:
            raise InputError(f"{wish.name}: systemd does not understand the time {one!r} ({err.strip()}). It is written like '*-*-* 02:30:00' or 'daily'.")
    units = (_file(f"{wish.name}.service", wish.service), _file(f"{wish.name}.timer", wish.timer))
    difference = Difference()
    changed = {spec.path for spec in (*units, *wish.files) if compare(spec, difference)}
    state = _state(wish.name, run)
    enable = difference.add("timer enabled", state["UnitFileState"] == "enabled", True)
    start = difference.add("timer running", state["ActiveState"] == "active", True)
    if check or not difference.changed:
        return difference
    write((*units, *wish.files), changed, run)
    if changed & {spec.path for spec in units} or state["NeedDaemonReload"] == "yes":
        systemctl(run, "daemon-reload")
    if enable:
        systemctl(run, "enable", f"{wish.name}.timer")
    if start or units[1].path in changed:
        systemctl(run, "restart", f"{wish.name}.timer")
    return difference


def absent(name: str, run: Runner, check: bool) -> Difference:
    """Its files are the caller's to remove."""
    difference = Difference()
    paths = [UNIT_DIRECTORY / f"{name}.timer", UNIT_DIRECTORY / f"{name}.service"]
    there = [path for path in paths if difference.add(str(path), "present" if path.exists() else None, None)]
    if there and not check:
        systemctl(run, "disable", "--now", *(path.name for path in there))
        run(["systemctl", "clean", "--what=state", f"{name}.timer"])  # when it ran last; one that never did answers 1: nothing to remove
        for path in there:
            path.unlink()
        systemctl(run, "daemon-reload")
        run(["systemctl", "reset-failed", *(path.name for path in there)])  # units that had not failed answer 1: nothing to mend
    return difference


def _file(name: str, content: str) -> FileSpec:
    return FileSpec(UNIT_DIRECTORY / name, content)


def _state(name: str, run: Runner) -> dict[str, str]:
    keys = ("ActiveState", "UnitFileState", "NeedDaemonReload")
    status, out, err = run(["systemctl", "show", f"{name}.timer", *(f"--property={key}" for key in keys)])
    if status != 0:
        raise SystemdError(f"systemctl show {name}.timer failed: {err.strip() or out.strip()}. Is systemd this machine's service manager?")
    found = dict(line.partition("=")[::2] for line in out.splitlines())
    return {key: found.get(key, "") for key in keys}
