# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A PostgreSQL server of our own beside whatever others there are: the distribution's packages, a Debian cluster called llm.

Debian keeps several clusters on a machine apart by version and name. One of our own is never in the way of a user's, and goes as a whole.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _apt
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import listeners
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import PACKAGE
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Query
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import UNIT_DIRECTORY, systemctl, unit_state

NAME = "llm"
OLDEST, NEWEST = 13, 18
CONFIG = Path("/etc/postgresql")
DATA = Path("/var/lib/postgresql")
LOGS = Path("/var/log/postgresql")
PROGRAMS = Path("/usr/lib/postgresql")
# Read by Debian's tools whenever they make a cluster.
NO_MAIN_CLUSTER = Path("/etc/postgresql-common/createcluster.d/llm.conf")
# Containers that use it are stopped before it, so that they write what they still have.
_DROP_IN = """\
# Managed by the Ansible collection baremetal.llm.
[Unit]
Before=docker.service
StartLimitIntervalSec=0

[Service]
Restart=on-failure
RestartSec=2
"""
_RELOAD_SECONDS = 10.0


class ServerError(LLMError):
    """The server does not do what it shall; the message says what it says."""


@dataclass(frozen=True)
class Server:
    """``settings``, ``access`` and ``identities`` are the texts of its files."""

    port: int
    settings: str
    access: str
    identities: str


def installed(wanted: str, run: Runner, check: bool) -> tuple[str, Difference]:
    """Install the server. Returns its major version, empty if check mode cannot know it yet."""
    version = _existing(wanted) or wanted
    packages = _apt.Packages((f"postgresql-{version}" if version else "postgresql", PACKAGE))
    if check:
        difference = _apt.ensure(packages, run, True)
    else:
        with _without_main_cluster():
            difference = _apt.ensure(packages, run, False)
    version = version or _of_the_distribution(run)
    if version and not OLDEST <= int(version) <= NEWEST:
        raise ServerError(
            f"This is PostgreSQL {version}, but this role knows {OLDEST} to {NEWEST}: choose one with postgresql_version, or use postgresql_external."
        )
    return version, difference


def configured(server: Server, version: str, run: Runner, difference: Difference, check: bool) -> bool:
    """Make the cluster and write its files. Returns whether it is there, which in check mode it may not be."""
    place = CONFIG / (version or "(version)") / NAME
    exists = (place / "postgresql.conf").exists()
    difference.add(f"cluster {version or '(version)'}/{NAME}", "present" if exists else None, "present")
    if not exists:
        if check:
            return False
        _create(version, server.port, run)
    if not check and live_port(version) != server.port:
        _refuse_taken_port(server.port)
    program = PROGRAMS / version / "bin/postgres"
    drop_in = UNIT_DIRECTORY / f"{unit(version)}.service.d" / "llm.conf"
    files = [
        # It reads the staged file alone, with the data of the real server, and says what it does not understand.
        FileSpec(place / "conf.d/llm.conf", server.settings, validate=(str(program), "-C", "port", "-D", str(DATA / version / NAME), "-c", "config_file=%s")),
        FileSpec(place / "pg_hba.conf", server.access, 0o640, "postgres"),
        FileSpec(place / "pg_ident.conf", server.identities, 0o640, "postgres"),
        FileSpec(place / "start.conf", "auto\n"),  # with the machine
        FileSpec(drop_in, _DROP_IN),
    ]
    changed = {spec.path for spec in files if compare(spec, difference)}
    if not check:
        write(files, changed, run)
        if changed & {drop_in, place / "start.conf"}:
            systemctl(run, "daemon-reload")
    return True


def running(server: Server, version: str, run: Runner, difference: Difference, check: bool) -> bool:
    """Start it if it does not run. Returns whether it runs."""
    name = unit(version)
    runs = is_running(version, run)
    difference.add("running", runs, True)
    if runs or check:
        return runs
    _refuse_taken_port(server.port)
    systemctl(run, "start", name)
    if not is_running(version, run):
        raise ServerError(f"{name} does not start. The end of its log:\n{_end_of_log(version)}")
    return True


def is_running(version: str, run: Runner) -> bool:
    return unit_state(unit(version), run)["ActiveState"] == "active"


def reloaded(version: str, query: Query, run: Runner, difference: Difference, check: bool) -> bool:
    """Let a running server read its files if they are newer than what it has read. Returns whether it must be restarted for that.

    The files are looked at, not this very run, so that an interrupted one is mended by the next.
    """
    place = CONFIG / version / NAME
    newest = max(path.stat().st_mtime for path in (*place.glob("*.conf"), *place.glob("conf.d/*.conf")))
    if difference.add("configuration that it runs with", "older than its files" if _load_time(query) < newest else "", ""):
        if check:
            return False
        systemctl(run, "reload", unit(version))
        deadline = time.monotonic() + _RELOAD_SECONDS
        while _load_time(query) < newest:
            if time.monotonic() > deadline:
                raise ServerError(f"{unit(version)} does not take its configuration: {_complaints(query)}")
            time.sleep(0.1)
    pending = [name for (name,) in query("postgres", "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")]
    return difference.add("settings that wait for a restart", ", ".join(pending), "") and not check


def live_port(version: str) -> int:
    """The port that it listens on now, which may not be that of its files yet; 0 if it does not run."""
    try:
        return int((DATA / version / NAME / "postmaster.pid").read_text().splitlines()[3])
    except FileNotFoundError:
        return 0


def absent(purge: bool, run: Runner, check: bool) -> Difference:
    """Stop it for good; its data and its configuration, without which Debian's tools do not find the data, stay unless purged. Packages stay too."""
    difference = Difference()
    stale = False
    for version in _versions():
        name, place = unit(version), CONFIG / version / NAME
        logs = sorted(LOGS.glob(f"postgresql-{version}-{NAME}.log*"))
        paths = [UNIT_DIRECTORY / f"{name}.service.d", *([place, DATA / version / NAME, *logs] if purge else [])]
        runs = difference.add(name, "running" if is_running(version, run) else None, None)
        there = [path for path in paths if difference.add(str(path), "present" if path.exists() else None, None)]
        off = FileSpec(place / "start.conf", "disabled\n")
        enabled = not purge and place.exists() and compare(off, difference)
        stale = stale or runs or enabled or bool(there)
        if not check:
            if runs:
                systemctl(run, "stop", name)
            for path in there:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if enabled:
                write([off], {off.path}, run)
    if stale and not check:
        systemctl(run, "daemon-reload")
    return difference


def unit(version: str) -> str:
    return f"postgresql@{version}-{NAME}"


@contextlib.contextmanager
def _without_main_cluster() -> t.Iterator[None]:
    """The package would make a cluster of its own, main, and start it: nobody has asked for that one."""
    NO_MAIN_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_MAIN_CLUSTER.write_text("create_main_cluster = false\n")
    try:
        yield
    finally:
        NO_MAIN_CLUSTER.unlink()


def _versions() -> list[str]:
    """Versions of which there is a cluster of ours: its configuration, or only its data."""
    return sorted({path.parent.name for root in (CONFIG, DATA) for path in root.glob(f"[0-9]*/{NAME}")}, key=int)


def _existing(wanted: str) -> str:
    """The version of our cluster, empty if there is none."""
    found = _versions()
    if not found or wanted in found:
        return wanted if found else ""
    if wanted:
        raise InputError(
            f"postgresql_version is {wanted}, but the data is in a cluster of version {', '.join(found)}. Take it along with pg_upgradecluster "
            f"{found[-1]} {NAME} (after a backup; it asks for the package postgresql-{wanted}), or set postgresql_version to {found[-1]}."
        )
    if len(found) > 1:
        raise InputError(f"There are clusters {NAME} of the versions {', '.join(found)}: say with postgresql_version which one counts.")
    return found[0]


def _of_the_distribution(run: Runner) -> str:
    """What the package postgresql depends on."""
    _status, out, _err = run(["dpkg-query", "--show", "--showformat", "${Depends}", "postgresql"])
    found = re.search(r"postgresql-(\d+)", out)
    return found[1] if found else ""


def _create(version: str, port: int, run: Runner) -> None:
    """With checksums, so that a broken disk is noticed. C.UTF-8 sorts the same in every release of the C library, so that no index breaks by an upgrade."""
    data = DATA / version / NAME
    if data.exists() and any(data.iterdir()):
        raise ServerError(
            f"{data} is there, but {CONFIG / version / NAME}, without which Debian's tools do not know it, is not: bring that back from a backup, "
            f"or move the data away and a new server is made."
        )
    options = ["--port", str(port), "--locale", "C.UTF-8", "--encoding", "UTF8"]
    status, out, err = run(["pg_createcluster", *options, version, NAME, "--", "--data-checksums"])
    if status != 0:
        raise ServerError(f"pg_createcluster cannot make the cluster {version}/{NAME}: {err.strip() or out.strip()}")


def _refuse_taken_port(port: int) -> None:
    for found in listeners():
        if found.port == port:
            program = found.program or "another program"
            raise ServerError(
                f"Port {port} is already taken by {program}{f' ({found.unit})' if found.unit else ''}. Give our server another one with postgresql_port, "
                "or let it be the one that is used: postgresql_external."
            )


def _load_time(query: Query) -> float:
    return float(query("postgres", "SELECT extract(epoch FROM pg_conf_load_time())::float8")[0][0])


def _complaints(query: Query) -> str:
    settings = query("postgres", "SELECT sourcefile, sourceline, error FROM pg_file_settings WHERE error IS NOT NULL")
    access = query("postgres", "SELECT 'pg_hba.conf', line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL")
    return "; ".join(f"{file}:{line}: {error}" for file, line, error in settings + access) or "it does not say why"


def _end_of_log(version: str) -> str:
    try:
        return "\n".join((LOGS / f"postgresql-{version}-{NAME}.log").read_text(errors="replace").splitlines()[-20:])
    except OSError:
        return "(none)"
