# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who listens on which TCP port of this machine, from /proc alone."""

from __future__ import annotations

import os
import pwd
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"  # the state in /proc/net/tcp
_UNIT = re.compile(r"([^/\n]+)\.service(?=/|$)", re.MULTILINE)


@dataclass(frozen=True)
class Listener:
    """A port, the user whose it is, and the process that listens on it: its name, its number and its systemd unit (without ``.service``).

    The process is empty (the number 0) where /proc does not tell, as it does not to others than root about processes of others, nor to root
    in a container without CAP_SYS_PTRACE. The user is always known; a number if it has no name.
    """

    port: int
    program: str = ""
    pid: int = 0
    unit: str = ""
    user: str = ""


def listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Every listening socket with its process, by port. Of several processes that share a socket the first one counts."""
    wanted = _sockets(proc)
    found: set[Listener] = set()
    for pid in _processes(proc):
        if not wanted:
            break
        for link in _descriptors(proc / pid / "fd"):
            if link in wanted:
                port, user = wanted.pop(link)
                found.add(Listener(port, _read(proc / pid / "comm").strip(), int(pid), unit_of(proc, int(pid)), user))
    known = {listener.port for listener in found}
    found |= {Listener(port, user=user) for port, user in wanted.values() if port not in known}
    return sorted(found, key=lambda listener: (listener.port, listener.pid))


def unit_of(proc: Path, pid: int) -> str:
    """The systemd service that a process belongs to, or an empty text."""
    units = _UNIT.findall(_read(proc / str(pid) / "cgroup"))
    return units[-1] if units else ""


def _sockets(proc: Path) -> dict[str, tuple[int, str]]:
    """Listening sockets as /proc/<pid>/fd names them, with their ports and users."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in _read(proc / "net" / table).splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN:
                found[f"socket:[{columns[9]}]"] = (int(columns[1].rpartition(":")[2], 16), _name(int(columns[7])))
    return found


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _processes(proc: Path) -> list[str]:
    """All processes, systemd last: it holds the sockets of services that it starts on demand."""
    pids = [name for name in os.listdir(proc) if name.isdigit()]
    return sorted(pids, key=lambda pid: (pid == "1", int(pid)))


def _descriptors(directory: Path) -> t.Iterator[str]:
    try:
        for entry in os.scandir(directory):
            yield os.readlink(entry.path)
    except OSError:
        return  # the process ended while we looked, or it is somebody else's


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
