# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A PostgreSQL server with its databases, from nothing to serving, in one go."""

from __future__ import annotations

import contextlib
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils import _postgresql_cluster as cluster
from ansible_collections.baremetal.llm.plugins.module_utils import _postgresql_databases as databases_of
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import Administrator, NoClient
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_settings import Way, access, configuration, identities, settings
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import systemctl


@dataclass(frozen=True)
class Wish:
    """What the user asks for; ``version`` is empty for the distribution's, ``more`` are further settings."""

    version: str
    port: int
    loopback: bool
    max_connections: int
    more: t.Mapping[str, t.Any]
    databases: tuple[Database, ...]


@dataclass(frozen=True)
class Outcome:
    """``checksums`` is None if the server could not be asked, which happens in check mode alone."""

    changed: bool
    diff: dict[str, str]
    version: str = ""
    checksums: bool | None = None


def present(wish: Wish, run: Runner, check: bool) -> Outcome:
    """Everything at once: packages, cluster, files, process, roles, databases. Bad input is refused before anything else."""
    databases_of.check_input(wish.databases, wish.max_connections)
    wanted = settings(_memory(), wish.port, wish.loopback, wish.max_connections, wish.more)
    ways = [Way(one.name, one.owner, bool(one.password), one.system_user) for one in wish.databases]
    server = cluster.Server(wish.port, configuration(wanted), access(ways, wish.loopback), identities(ways))

    version, packages = cluster.installed(wish.version, run, check)
    if version and cluster.is_running(version, run):
        _refuse_owners(wish, version)
    difference = Difference()
    runs = cluster.configured(server, version, run, difference, check)
    runs = cluster.running(server, version, run, difference, check) if runs else difference.add("running", False, True) and False
    checksums = None
    try:
        if runs:
            checksums = _inside(wish, version, difference, run, check)
        else:
            databases_of.foresee(wish.databases, difference)
    except NoClient:
        if not check:
            raise
        databases_of.foresee(wish.databases, difference)  # check mode has not installed it yet
    diff = {key: packages.as_dict()[key] + text for key, text in difference.as_dict().items()}
    return Outcome(packages.changed or difference.changed, diff, version, checksums)


def absent(purge: bool, run: Runner, check: bool) -> Outcome:
    difference = cluster.absent(purge, run, check)
    return Outcome(difference.changed, difference.as_dict())


def _refuse_owners(wish: Wish, version: str) -> None:
    """Before anything is written."""
    with contextlib.suppress(NoClient), contextlib.closing(Administrator(cluster.live_port(version))) as administrator:
        databases_of.check_owners(wish.databases, administrator)


def _inside(wish: Wish, version: str, difference: Difference, run: Runner, check: bool) -> bool:
    """What only a running server tells and does. Returns whether its data has checksums."""
    with contextlib.closing(Administrator(cluster.live_port(version))) as administrator:
        restart = cluster.reloaded(version, administrator, run, difference, check)
    if restart:
        systemctl(run, "restart", cluster.unit(version))
    with contextlib.closing(Administrator(cluster.live_port(version))) as administrator:
        databases_of.ensure(wish.databases, administrator, difference, check)
        return bool(administrator("postgres", "SHOW data_checksums")[0][0] == "on")


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
