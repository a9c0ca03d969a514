# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PostgreSQL's settings for a machine of a given size, and who may connect, as the text of its files."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

#: Connections beyond those of the databases: backup, monitoring, the administrator.
RESERVED_CONNECTIONS = 10
_HEAD = "# Managed by the Ansible collection baremetal.llm.\n"
_MAP = "llm"
_MIB = 2**20
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")
# What has a variable of its own, and what would undo the rest.
_OURS = {
    "port": "postgresql_port",
    "listen_addresses": "postgresql_loopback; a server for other machines is not this role's",
    "max_connections": "postgresql_max_connections",
    "password_encryption": "nothing: passwords are kept as scram-sha-256",
    "hba_file": "postgresql_databases, which says who may connect",
    "data_directory": "nothing: the data is where Debian's tools look for it",
    "unix_socket_directories": "nothing: the socket is where Debian's clients look for it",
}


def tuned(memory: int, max_connections: int) -> dict[str, str]:
    """Sizes for a machine with so many bytes of memory, most of which belongs to LiteLLM, to engines and to the page cache."""
    buffers = _clamp(memory // 16, 128, 2048)
    return {
        "shared_buffers": f"{buffers}MB",
        "effective_cache_size": f"{_clamp(memory // 4, 256, 1 << 20)}MB",
        "work_mem": f"{_clamp(buffers * _MIB // max_connections, 4, 32)}MB",
        "maintenance_work_mem": f"{_clamp(memory // 64, 64, 512)}MB",
    }


def settings(memory: int, port: int, loopback: bool, max_connections: int, more: t.Mapping[str, t.Any]) -> dict[str, str]:
    """All that we set. ``more`` is the user's and wins, except over what has a variable of its own."""
    for name in more:
        if not _NAME.fullmatch(name):
            raise InputError(f"postgresql_settings: {name!r} is no name of a setting: they are lower-case words such as work_mem.")
        if name in _OURS:
            raise InputError(f"postgresql_settings: {name} cannot be set there. Use {_OURS[name]}.")
    return {
        "listen_addresses": "localhost" if loopback else "",
        "port": str(port),
        "max_connections": str(max_connections),
        "password_encryption": "scram-sha-256",  # before 14 the default is md5
        **tuned(memory, max_connections),
        "checkpoint_completion_target": "0.9",  # the default since 14
        "random_page_cost": "1.1",  # the data is on an SSD, or in memory
        "wal_compression": "on",
        "jit": "off",  # no query here is long enough to be worth compiling
        **{name: _text(value) for name, value in more.items()},
    }


def configuration(wanted: t.Mapping[str, str]) -> str:
    """The text for conf.d."""
    return _HEAD + "".join(f"{name} = '{_escaped(value)}'\n" for name, value in wanted.items())


@dataclass(frozen=True)
class Way:
    """How a user comes to its database: with a password, or as a system user through the socket."""

    database: str
    user: str
    password: bool
    system_user: str = ""


def access(ways: t.Iterable[Way], loopback: bool) -> str:
    """pg_hba.conf: each user to its own database, nobody else to anything. The administrator is the system user postgres, through the socket."""
    lines = ["local all postgres peer"]
    for way in ways:
        who = f"{way.database} {way.user}"
        lines.append(f"local {who} {f'peer map={_MAP}' if way.system_user else 'scram-sha-256'}")
        if loopback and way.password:
            lines += [f"host {who} {address} scram-sha-256" for address in ("127.0.0.1/32", "::1/128")]
    return _HEAD + "".join(f"{line}\n" for line in lines)


def identities(ways: t.Iterable[Way]) -> str:
    """pg_ident.conf: which system user is which user of the server's."""
    return _HEAD + "".join(f"{_MAP} {way.system_user} {way.user}\n" for way in ways if way.system_user)


def _clamp(size: int, least: int, most: int) -> int:
    """In MiB."""
    return max(least, min(most, size // _MIB))


def _text(value: t.Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _escaped(value: str) -> str:
    if "\n" in value:
        raise InputError(f"postgresql_settings: the value {value!r} has more than one line.")
    return value.replace("\\", "\\\\").replace("'", "''")
