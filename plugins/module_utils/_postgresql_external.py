# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A PostgreSQL server that somebody else runs: can we reach it, is it the right one, may we do there what we must? Only asks."""

from __future__ import annotations

import re
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ConnectError, connect
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_cluster import NEWEST, OLDEST
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database

TLS_MODES = ("verify-full", "require", "disable")
# What libpq says, and what to do about it; the first match counts.
_ADVICE = (
    (r"could not translate host name", "This host does not know that name: correct postgresql_external.host."),
    (r"Connection refused", "Nothing listens there: is the server running, is postgresql_external.port right, does its listen_addresses let this host in?"),
    (r"timeout expired|timed out|No route to host|unreachable", "No answer: does a firewall on the way drop packets to it?"),
    (r"does not support SSL", "The server has no TLS: turn on ssl there, or set postgresql_external.tls to disable if the network between is trusted."),
    (r"certificate verify failed|root certificate", "Its certificate is not of the CA given: give the right one as postgresql_external.ca."),
    (r"server certificate for", "Its certificate is for another name: use that name as postgresql_external.host, or have a certificate made for this one."),
    (r"no pg_hba\.conf entry", "Its pg_hba.conf does not let this user in from this host: add a line for it there, and reload."),
    (r"password authentication failed", "The password, or the name of the user, is wrong: they are owner and password in postgresql_databases."),
    (r'database "[^"]*" does not exist', "Create it there, owned by that user, or correct its name in postgresql_databases."),
    (r'role "[^"]*" does not exist', "Create the role there, or correct owner in postgresql_databases."),
    (r"too many connections|remaining connection slots", "All its connections are taken: raise the limit there."),
)
_FACTS = """
SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery(), pg_encoding_to_char(encoding),
       (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
       has_database_privilege(current_database(), 'CONNECT'), coalesce(has_schema_privilege(to_regnamespace('public')::oid, 'CREATE'), false),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
FROM pg_database WHERE datname = current_database()
"""


class ExternalError(LLMError):
    """The server is not fit for use; the message says why and what to do there."""


@dataclass(frozen=True)
class External:
    """``tls`` is one of TLS_MODES; ``ca`` is a certificate in PEM form, empty for those that the system trusts."""

    host: str
    port: int
    tls: str
    ca: str = ""


@dataclass(frozen=True)
class Answer:
    """``powerful`` are the users that could do more than they need."""

    version: str
    encrypted: bool
    powerful: tuple[str, ...]


def ask(server: External, databases: t.Sequence[Database]) -> Answer:
    """Log in as every database's owner. Raises ExternalError for the first thing that does not fit."""
    if not server.host:
        raise InputError("postgresql_external: host is missing: give the name or the address of the server.")
    if server.ca and server.tls != "verify-full":
        raise InputError(f"postgresql_external: ca is given, but with tls: {server.tls} no certificate is looked at. Use tls: verify-full, or take ca out.")
    facts = [_facts(server, one) for one in databases]
    powerful = tuple(one.owner for one, (*_rest, superuser) in zip(databases, facts) if superuser)
    return Answer(str(facts[0][0]), all(row[3] for row in facts), powerful)


def _facts(server: External, one: Database) -> tuple[t.Any, ...]:
    where = f"PostgreSQL at {server.host}:{server.port}, database {one.name} as {one.owner}"
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca:
        ca.write(server.ca)
        ca.flush()
        try:
            connection = connect(
                host=server.host,
                port=server.port,
                dbname=one.name,
                user=one.owner,
                password=one.password,
                sslmode=server.tls,
                sslrootcert=_authorities(server, ca.name),
            )
        except ConnectError as exc:
            raise ExternalError(f"{where}: {_without(one.password, str(exc))}{_advice(str(exc))}") from None
    try:
        with connection.cursor() as cursor:
            cursor.execute(_FACTS)
            row: tuple[t.Any, ...] = cursor.fetchone()
    finally:
        connection.close()
    _refuse(where, one, row)
    return row


def _refuse(where: str, one: Database, row: tuple[t.Any, ...]) -> None:
    version, replica, encoding, _encrypted, _connect, create, _superuser = row
    if version < OLDEST:
        raise ExternalError(f"{where}: it is version {version}, but at least {OLDEST} is needed (and up to {NEWEST} known).")
    if replica:
        raise ExternalError(f"{where}: it is a replica, which only reads: give the address of the server that writes.")
    if encoding != "UTF8":
        raise ExternalError(f"{where}: its encoding is {encoding}: create the database there with ENCODING 'UTF8' TEMPLATE template0.")
    if not create:
        raise ExternalError(
            f"{where}: {one.owner} may not create tables in the schema public, which it must: make it the owner of the database there "
            f"(ALTER DATABASE {one.name} OWNER TO {one.owner}) and, before PostgreSQL 15, of the schema (ALTER SCHEMA public OWNER TO {one.owner})."
        )


def _advice(said: str) -> str:
    return next((f" {advice}" for pattern, advice in _ADVICE if re.search(pattern, said)), "")


def _without(secret: str, text: str) -> str:
    return text.replace(secret, "********").replace("\n", " ")


def _authorities(server: External, given: str) -> str:
    """libpq itself would look into a home directory, and with a file verify where it was told only to encrypt."""
    if server.tls != "verify-full":
        return "/nonexistent"
    return given if server.ca else "/etc/ssl/certs/ca-certificates.crt"
