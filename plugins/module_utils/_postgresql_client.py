# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections to PostgreSQL, through the distribution's psycopg2."""

from __future__ import annotations

import importlib
import os
import pwd
import sys
import typing as t
from importlib.machinery import FileFinder

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

ADMINISTRATOR = "postgres"
SOCKETS = "/var/run/postgresql"
PACKAGE = "python3-psycopg2"
_SECONDS = 10


class ConnectError(LLMError):
    """The server let nobody in, or is not there; the message is libpq's."""


class NoClient(LLMError):
    """There is no psycopg2."""


def client() -> t.Any:
    """psycopg2, also if it was installed a moment ago."""
    # Not importlib.invalidate_caches(): it makes Python forget the archive that a module of Ansible's is imported from.
    for finder in sys.path_importer_cache.values():
        if isinstance(finder, FileFinder):
            finder.invalidate_caches()
    try:
        return importlib.import_module("psycopg2")
    except ImportError as exc:
        raise NoClient(f"{PACKAGE} is not there for {sys.executable}: is ansible_python_interpreter the distribution's python3?") from exc


def connect(**words: t.Any) -> t.Any:
    """A connection in which each statement stands for itself. ``words`` are libpq's."""
    psycopg2 = client()
    try:
        connection = psycopg2.connect(connect_timeout=_SECONDS, application_name="baremetal.llm", **words)
    except psycopg2.OperationalError as exc:
        raise ConnectError(str(exc).strip()) from exc
    connection.autocommit = True
    return connection


class Administrator:
    """The administrator of the server on this machine, through its socket: called with a database and a statement, it returns the rows."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[str, t.Any] = {}

    def __call__(self, database: str, statement: str) -> list[tuple[t.Any, ...]]:
        if database not in self._connections:
            self._connections[database] = self._connect(database)
        with self._connections[database].cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _connect(self, database: str) -> t.Any:
        """PostgreSQL asks the kernel whose process it is that knocks at its socket."""
        client()
        user = os.geteuid()
        os.seteuid(pwd.getpwnam(ADMINISTRATOR).pw_uid)
        try:
            return connect(host=SOCKETS, port=self._port, dbname=database, user=ADMINISTRATOR)
        finally:
            os.seteuid(user)
