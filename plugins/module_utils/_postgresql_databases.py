# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Databases, each with a role that owns it and can do nothing else.

Passwords never reach the server: it is given the verifier that it would have made of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_settings import RESERVED_CONNECTIONS

#: Runs a statement in a database and returns its rows.
Query = t.Callable[..., "list[tuple[t.Any, ...]]"]

_LEAST_PASSWORD = 16
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SYSTEM_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_TAKEN = re.compile(r"postgres|public|template[01]|all|replication|sameuser|samerole|samegroup|pg_.*")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$\S+")
# What a role could do beside logging in; it shall do none of it.
_POWERS = ("superuser", "createdb", "createrole", "replication", "bypassrls")
_COLUMN = {"superuser": "super"}
_PUBLIC_IN = "SELECT {columns}, EXISTS (SELECT FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) WHERE grantee = 0) FROM {catalog}"
_DATABASES = _PUBLIC_IN.format(columns="datname, pg_get_userbyid(datdba)", acl="datacl", kind="d", owner="datdba", catalog="pg_database")
_SCHEMA = _PUBLIC_IN.format(columns="pg_get_userbyid(nspowner)", acl="nspacl", kind="n", owner="nspowner", catalog="pg_namespace")


class DatabaseError(LLMError):
    """What is there is not ours to change."""


@dataclass(frozen=True)
class Database:
    """The owner logs in with its password or, through the socket, as a system user whom the kernel vouches for. It may have both ways."""

    name: str
    owner: str
    password: str = field(default="", repr=False)
    system_user: str = ""
    connection_limit: int = 40


def check_input(databases: t.Sequence[Database], max_connections: int) -> None:
    """Raises InputError for what cannot work, before anything is asked or changed."""
    for what, values in (("name", [one.name for one in databases]), ("owner", [one.owner for one in databases])):
        for value in values:
            if not _NAME.fullmatch(value) or _TAKEN.fullmatch(value):
                raise InputError(
                    f"postgresql_databases: {value!r} cannot be the {what} of a database of ours: use lower-case letters, digits and _, "
                    "and no word that PostgreSQL keeps for itself."
                )
            if values.count(value) > 1:
                raise InputError(f"postgresql_databases: the {what} {value} is there twice: each database has a name and an owner of its own.")
    for one in databases:
        if one.system_user and not _SYSTEM_USER.fullmatch(one.system_user):
            raise InputError(f"postgresql_databases: system_user {one.system_user!r} of {one.owner} is no name of a system user.")
        if (one.password or not one.system_user) and not _is_good(one.password):
            raise InputError(
                f"postgresql_databases: the password of {one.owner} has {len(one.password)} characters: give it at least {_LEAST_PASSWORD} random "
                "ones, printable ASCII only, or name the system_user who comes without."
            )
        if one.connection_limit < 1:
            raise InputError(f"postgresql_databases: {one.name} has connection_limit {one.connection_limit}: it must be 1 or more.")
    wanted = sum(one.connection_limit for one in databases) + RESERVED_CONNECTIONS
    if wanted > max_connections:
        raise InputError(
            f"postgresql_max_connections is {max_connections}, but the databases may take {wanted - RESERVED_CONNECTIONS} and {RESERVED_CONNECTIONS} are "
            f"kept for backup and the administrator: raise it to {wanted}, or lower a connection_limit."
        )


def _is_good(password: str) -> bool:
    return len(password) >= _LEAST_PASSWORD and password.isascii() and password.isprintable()


def ensure(databases: t.Sequence[Database], query: Query, difference: Difference, check: bool) -> None:
    """Make it so, through a connection of the administrator's."""
    # A statement that fails would be logged, verifiers and all.
    query("postgres", "SET log_statement = 'none'")
    query("postgres", "SET log_min_error_statement = 'panic'")
    roles = {row[0]: row[1:] for row in query("postgres", _roles_query())}
    found = {name: (owner, public) for name, owner, public in query("postgres", _DATABASES)}
    statements = [_closed(name, difference) for name in ("postgres", "template1") if found.get(name, ("", False))[1]]
    for one in databases:
        statements += _role(one, roles.get(one.owner), difference)
        statements += _database(one, found.get(one.name), difference)
    if not check:
        for statement in statements:
            query("postgres", statement)
    for one in databases:
        inside = _inside(one, query, difference) if one.name in found or not check else []
        for statement in inside if not check else []:
            query(one.name, statement)


def check_owners(databases: t.Iterable[Database], query: Query) -> None:
    """Raises DatabaseError for a database that is there and another's. Only asks."""
    owners = {name: owner for name, owner, _public in query("postgres", _DATABASES)}
    for one in databases:
        owner = owners.get(one.name, one.owner)
        if owner != one.owner:
            raise DatabaseError(
                f"postgresql_databases: the database {one.name} belongs to {owner}, not to {one.owner}. Its tables would stay {owner}'s: rename the "
                f"database, or give it and all that is in it to {one.owner} yourself (REASSIGN OWNED)."
            )


def foresee(databases: t.Iterable[Database], difference: Difference) -> None:
    """What ensure() will do on a server that is not there yet."""
    for one in databases:
        _role(one, None, difference)
        _database(one, None, difference)


def verifier(password: str, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL keeps of a password (RFC 5803)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored)}:{_base64(server)}"


def is_verifier_of(found: str, password: str) -> bool:
    parts = _VERIFIER.fullmatch(found)
    return parts is not None and hmac.compare_digest(found, verifier(password, base64.b64decode(parts[2]), int(parts[1])))


def _roles_query() -> str:
    powers = ", ".join(f"rol{_COLUMN.get(power, power)}" for power in _POWERS)
    return f"SELECT rolname, rolcanlogin, rolconnlimit, coalesce(rolvaliduntil = 'infinity', true), coalesce(rolpassword, ''), {powers} FROM pg_authid"  # noqa: S608 - our own words


def _role(one: Database, found: t.Sequence[t.Any] | None, difference: Difference) -> list[str]:
    wanted = f"LOGIN CONNECTION LIMIT {one.connection_limit}"
    nothing_else = " ".join(f"NO{power.upper()}" for power in _POWERS)
    before, same_password = None, False
    if found:
        can_login, limit, unlimited, known, *powers = found
        words = ["LOGIN" if can_login else "NOLOGIN", f"CONNECTION LIMIT {limit}", *([] if unlimited else ["VALID UNTIL some day"])]
        before = " ".join([*words, *(name.upper() for name, has in zip(_POWERS, powers) if has)])
        same_password = is_verifier_of(known, one.password) if one.password else not known
    differs = difference.add(f"role {one.owner}", before, wanted)
    password_differs = difference.add(f"role {one.owner} (password)", same_password if found else None, True, secret=True)
    if not differs and not password_differs:
        return []
    kept = f"'{verifier(one.password, os.urandom(16))}'" if one.password else "NULL"
    password = f" PASSWORD {kept}" if password_differs else ""
    return [f"{'ALTER' if found else 'CREATE'} ROLE {one.owner} {wanted} {nothing_else}{password} VALID UNTIL 'infinity'"]


def _database(one: Database, found: tuple[str, bool] | None, difference: Difference) -> list[str]:
    statements = []
    if difference.add(f"database {one.name}", f"of {found[0]}" if found else None, f"of {one.owner}"):
        statements.append(f"CREATE DATABASE {one.name} OWNER {one.owner} TEMPLATE template0 ENCODING 'UTF8'")
    if not found or found[1]:
        statements.append(_closed(one.name, difference))
    return statements


def _closed(name: str, difference: Difference) -> str:
    difference.add(f"database {name} (everybody else)", "may connect", "may not")
    return f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"


def _inside(one: Database, query: Query, difference: Difference) -> list[str]:
    """Before PostgreSQL 15 the schema public is the administrator's, and everybody's to write to."""
    statements = []
    for owner, public in query(one.name, f"{_SCHEMA} WHERE nspname = 'public'"):
        if owner != "pg_database_owner" and difference.add(f"schema public of {one.name}", f"of {owner}", f"of {one.owner}"):
            statements.append(f"ALTER SCHEMA public OWNER TO {one.owner}")
        if public:
            difference.add(f"schema public of {one.name} (everybody else)", "may use it", "may not")
            statements.append("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    return statements


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
