# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One PostgreSQL database as a file and back: dumped in one snapshot, restored into a new database beside the old, swapped by their names.

The standard library, psycopg2 and PostgreSQL's own programs are enough. A password is never in an argument or the environment: the system user's
own right at the socket, or a file that libpq reads.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ADMINISTRATOR, SOCKETS, ConnectError, client, connect

PROGRAMS = Path("/usr/lib/postgresql")
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
MAINTENANCE = "postgres"  # where one stands to rename or drop another
_TRIES = 3
_IN_USE = "55006"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
# So that a row's text is the same on every server.
_SAME_TEXT = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'"
_TABLES = """
SELECT n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1
"""
# The sum of the rows' hashes needs no order and no memory: two tables have the same if they have the same rows.
_SUM = """
SELECT count(*), coalesce(sum(('x' || substr(hash, 1, 15))::bit(60)::bigint), 0)::text || ':'
    || coalesce(sum(('x' || substr(hash, 16, 15))::bit(60)::bigint), 0)::text
FROM (SELECT encode(sha256(convert_to((r.*)::text, 'UTF8')), 'hex') AS hash FROM {table} AS r) AS rows
"""
_MIGRATIONS = "SELECT migration_name FROM public._prisma_migrations WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL ORDER BY 1"
# Of who asks: whether it may make databases, and whether the one named is its own; one that is not there is nobody else's.
_RIGHTS = """
SELECT rolsuper OR rolcreatedb, rolsuper OR coalesce((SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database WHERE datname = %s), true)
FROM pg_roles WHERE rolname = current_user
"""
_CONNECTIONS = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


class DumpError(LLMError):
    """PostgreSQL, or a program of its own, refused; the message is theirs."""


class BusyError(DumpError):
    """Somebody is connected."""


class NoServer(DumpError):
    """PostgreSQL is not installed on this host."""


@dataclass(frozen=True)
class Server:
    """Where it is and as whom to come: the administrator of this machine's server, or with ``passfile`` a user of somebody else's.

    ``system_user`` is who knocks at the socket; empty for a server that wants a password. ``passfile`` is a file in libpq's format that only its
    owner can read.
    """

    host: str = SOCKETS
    port: int = 5432
    user: str = ADMINISTRATOR
    system_user: str = ADMINISTRATOR
    passfile: str = ""
    tls: str = ""
    ca: str = ""

    @property
    def foreign(self) -> bool:
        """Somebody else's; our own is only reached through its socket."""
        return bool(self.tls)

    def words(self, database: str) -> dict[str, str]:
        """What libpq is told; there is no secret in it."""
        words = {"host": self.host, "port": str(self.port), "user": self.user, "dbname": database}
        # In a home directory, where libpq looks for a certificate of ours, our unit may not even look.
        own = "/nonexistent" if self.foreign else ""
        more = {"passfile": self.passfile, "sslmode": self.tls, "sslrootcert": self._authorities(), "sslcert": own}
        return {**words, **{name: value for name, value in more.items() if value}}

    def _authorities(self) -> str:
        """libpq itself would look into a home directory, and with a file verify where it was told only to encrypt."""
        if self.tls == "verify-full":
            return self.ca or TRUSTED
        return "/nonexistent" if self.tls else ""


@dataclass(frozen=True)
class Table:
    """So many rows, and the sum of their hashes: the same in two databases if every row is the same."""

    rows: int
    sum: str


@dataclass(frozen=True)
class Contents:
    """What a database holds, seen in one snapshot."""

    postgresql: str
    tables: dict[str, Table] = field(default_factory=dict)
    migrations: tuple[str, ...] = ()


def dump(server: Server, database: str, file: Path, through: t.Sequence[str] = ()) -> Contents:
    """Write the database to a new file that only we can read, and tell what is in it, both of one and the same snapshot.

    ``through`` is a command that turns the dump (standard input) into what is written, such as one that encrypts: no plain text is on the disk then.
    """
    with _snapshot(server, database) as (connection, snapshot):
        major = _version(connection).split(".", maxsplit=1)[0]
        command = [_program("pg_dump", major), "--format=custom", "--no-password", f"--snapshot={snapshot}", f"--dbname={_conninfo(server, database)}"]
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            _pipeline(server, command, through, handle)
            os.fsync(descriptor)
        return _contents(connection)


def contents(server: Server, database: str) -> Contents:
    """What is in it now."""
    with _snapshot(server, database) as (connection, _name):
        return _contents(connection)


def counts(server: Server, database: str) -> dict[str, Table]:
    """Rows and sums of every table."""
    return contents(server, database).tables


def restore(server: Server, file: Path, database: str, owner: str, through: t.Sequence[str] = ()) -> Contents:
    """Make ``database`` anew out of a dump, all of it ``owner``'s; returns what is in it. A restore that fails leaves no database behind.

    ``through`` is a command that turns the file (standard input) into the dump, such as one that decrypts: no plain text is on the disk then.
    """
    create(server, database, owner)
    try:
        with contextlib.closing(_connect(server, database)) as connection:
            major = _version(connection).split(".", maxsplit=1)[0]
        role = [f"--role={owner}"] if owner != server.user else []
        command = [_program("pg_restore", major), "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", "--no-password", *role]
        with open(file, "rb") as handle:
            _feed(server, handle, through, [*command, f"--dbname={_conninfo(server, database)}"])
        return contents(server, database)
    except BaseException:
        drop(server, database)
        raise


def create(server: Server, database: str, owner: str) -> None:
    """An empty database, into which nobody but its owner and the administrator is let."""
    for name in (database, owner):
        _check_name(name)
    with contextlib.closing(_connect(server, MAINTENANCE)) as connection:
        _do(connection, f"CREATE DATABASE {database} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8'")
        _do(connection, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    with contextlib.closing(_connect(server, database)) as connection:
        # Before PostgreSQL 15 the schema public is the administrator's, and everybody's to write to; on somebody else's server it has to stay so.
        if not server.foreign and _ask(connection, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'")[0][0] == ADMINISTRATOR:
            _do(connection, f"ALTER SCHEMA public OWNER TO {owner}")
        _do(connection, "REVOKE ALL ON SCHEMA public FROM PUBLIC")


def drop(server: Server, database: str) -> None:
    """Remove a database, whoever is connected; one that is not there is no error."""
    _check_name(database)
    with contextlib.closing(_connect(server, MAINTENANCE)) as connection:
        _ask(connection, _CONNECTIONS, (database,))
        _do(connection, f"DROP DATABASE IF EXISTS {database}")


def exists(server: Server, database: str) -> bool:
    with contextlib.closing(_connect(server, MAINTENANCE)) as connection:
        return bool(_ask(connection, "SELECT FROM pg_database WHERE datname = %s", (database,)))


def databases(server: Server) -> list[str]:
    with contextlib.closing(_connect(server, MAINTENANCE)) as connection:
        return [str(name) for (name,) in _ask(connection, "SELECT datname FROM pg_database ORDER BY 1")]


def lacking(server: Server, database: str) -> str:
    """What somebody else's server has to allow before ``database`` can be replaced there, as its administrator says it; empty if nothing is missing."""
    try:
        connection = _connect(server, MAINTENANCE)
    except ConnectError as exc:
        return f"{server.user} must be let in to its database {MAINTENANCE} as well, where one database takes the place of another ({exc})"
    with contextlib.closing(connection):
        creates, owns = _ask(connection, _RIGHTS, (database,))[0]
    if not creates:
        return f"ALTER ROLE {server.user} CREATEDB (and NOCREATEDB when the restore is done)"
    return "" if owns else f"ALTER DATABASE {database} OWNER TO {server.user}"


@contextlib.contextmanager
def passfile(user: str, password: str) -> t.Iterator[str]:
    """A file in libpq's format that only we can read, for as long as it is needed; it is in memory where the system has such a place."""
    fields = [re.sub(r"([\\:])", r"\\\1", word) for word in (user, password)]
    with tempfile.NamedTemporaryFile("w", prefix="llm-pgpass-", dir="/run" if os.access("/run", os.W_OK) else None) as file:
        file.write(f"*:*:*:{':'.join(fields)}\n")
        file.flush()
        yield file.name


def swap(server: Server, database: str, new: str, old: str) -> None:
    """``database`` becomes ``old`` and ``new`` becomes ``database``, both or neither. Who is connected to one of the two is cut off."""
    for name in (database, new, old):
        _check_name(name)
    with contextlib.closing(_connect(server, MAINTENANCE)) as connection:
        present = {str(name) for (name,) in _ask(connection, "SELECT datname FROM pg_database")}
        if new not in present:
            raise DumpError(f"There is no database {new} that could take the place of {database}.")
        steps = [(source, target) for source, target in ((database, old), (new, database)) if source in present]
        for attempt in range(_TRIES):
            try:
                _rename(connection, steps)
                return
            except BusyError:
                # Who was cut off is back within the moment.
                if attempt == _TRIES - 1:
                    raise


def _rename(connection: t.Any, steps: t.Sequence[tuple[str, str]]) -> None:
    _do(connection, "BEGIN")
    try:
        for source, target in steps:
            _ask(connection, _CONNECTIONS, (source,))
            _do(connection, f"ALTER DATABASE {source} RENAME TO {target}")
        _do(connection, "COMMIT")
    except DumpError:
        _do(connection, "ROLLBACK")
        raise


def differences(wanted: t.Mapping[str, Table], found: t.Mapping[str, Table]) -> list[str]:
    """A sentence for each table that is not the same."""
    said = []
    for name in sorted({*wanted, *found}):
        one, other = wanted.get(name), found.get(name)
        if one is None or other is None:
            said.append(f"{name} is {'missing' if other is None else 'not in the backup'}")
        elif one.rows != other.rows:
            said.append(f"{name} has {other.rows} rows instead of {one.rows}")
        elif one.sum != other.sum:
            said.append(f"{name} has {one.rows} rows as it shall, but not the same ones")
    return said


@contextlib.contextmanager
def _snapshot(server: Server, database: str) -> t.Iterator[tuple[t.Any, str]]:
    """A connection that sees the database as it is now, however long it takes, and a name under which a program sees the same."""
    with contextlib.closing(_connect(server, database)) as connection:
        _do(connection, _SAME_TEXT)
        _do(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield connection, str(_ask(connection, "SELECT pg_export_snapshot()")[0][0])


def _contents(connection: t.Any) -> Contents:
    tables = {}
    for name, quoted in _ask(connection, _TABLES):
        rows, total = _ask(connection, _SUM.format(table=quoted))[0]
        tables[str(name)] = Table(int(rows), str(total))
    migrations = tuple(str(name) for (name,) in _ask(connection, _MIGRATIONS)) if "public._prisma_migrations" in tables else ()
    return Contents(_version(connection), tables, migrations)


def _version(connection: t.Any) -> str:
    """Such as 15.14; of Debian's only the first word."""
    return str(_ask(connection, "SHOW server_version")[0][0]).split()[0]


def _connect(server: Server, database: str) -> t.Any:
    """PostgreSQL asks the kernel whose process it is that knocks at its socket."""
    if not server.system_user or os.geteuid() != 0:
        return connect(**server.words(database))
    user = os.geteuid()
    os.seteuid(_user(server).pw_uid)
    try:
        return connect(**server.words(database))
    finally:
        os.seteuid(user)


def _ask(connection: t.Any, statement: str, values: tuple[t.Any, ...] | None = None) -> list[tuple[t.Any, ...]]:
    with connection.cursor() as cursor, _own_words():
        cursor.execute(statement, values)
        rows: list[tuple[t.Any, ...]] = cursor.fetchall()
        return rows


def _do(connection: t.Any, statement: str) -> None:
    with connection.cursor() as cursor, _own_words():
        cursor.execute(statement)


@contextlib.contextmanager
def _own_words() -> t.Iterator[None]:
    """The server's errors as ours."""
    try:
        yield
    except client().Error as exc:
        kind = BusyError if exc.pgcode == _IN_USE else DumpError
        raise kind(f"PostgreSQL: {str(exc).strip()}") from exc


def _program(name: str, major: str) -> str:
    """That of the server's version, or the oldest that is newer: an older one refuses the server."""
    found = sorted((path for path in PROGRAMS.glob(f"*/bin/{name}") if path.parts[-3].isdigit()), key=lambda path: int(path.parts[-3]))
    fitting = [path for path in found if int(path.parts[-3]) >= int(major)]
    program = str(fitting[0]) if fitting else None if found else shutil.which(name)
    if not program:
        raise DumpError(f"{name} for PostgreSQL {major} or newer is not there: install the package postgresql-client-{major} on this host.")
    return program


def _pipeline(server: Server, command: t.Sequence[str], through: t.Sequence[str], target: t.IO[bytes]) -> None:
    """Like a shell's ``command | through > target``; a failure of either counts."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as also_said:
        first = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if through else target, stderr=said, **_as(server))
        if through:
            with subprocess.Popen(through, stdin=first.stdout, stdout=target, stderr=also_said, env=_ENVIRONMENT, cwd="/") as second:
                t.cast(t.IO[bytes], first.stdout).close()  # so that the first hears of the second's end
                second.wait()
        first.wait()
        if through and second.returncode != 0:
            raise DumpError(f"{Path(through[0]).name} failed: {_read(also_said)}")
        if first.returncode != 0:
            raise DumpError(f"{Path(command[0]).name} failed: {_read(said)}")


def _feed(server: Server, source: t.IO[bytes], through: t.Sequence[str], command: t.Sequence[str]) -> None:
    """Like a shell's ``through < source | command``; a failure of either counts."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as also_said:
        first = None
        if through:
            first = subprocess.Popen(through, stdin=source, stdout=subprocess.PIPE, stderr=said, env=_ENVIRONMENT, cwd="/")
            source = t.cast(t.IO[bytes], first.stdout)
        done = subprocess.run(command, stdin=source, stdout=subprocess.DEVNULL, stderr=also_said, check=False, **_as(server))
        if first:
            source.close()  # so that the first hears of the second's end
            # The second's end is its reason to be cut off, and no failure of its own.
            if first.wait() not in (0, -signal.SIGPIPE):
                raise DumpError(f"{Path(through[0]).name} failed: {_read(said)}")
        if done.returncode != 0:
            raise DumpError(f"{Path(command[0]).name} failed: {_read(also_said)}")


def _read(said: t.IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace").strip()[-2000:]


def _as(server: Server) -> dict[str, t.Any]:
    """As whom a program runs."""
    words: dict[str, t.Any] = {"env": _ENVIRONMENT, "cwd": "/"}
    if server.system_user and os.geteuid() == 0:
        user = _user(server)
        words.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    return words


def _user(server: Server) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(server.system_user)
    except KeyError:
        raise NoServer(f"There is no system user {server.system_user} on this host: PostgreSQL is not installed here.") from None


def _conninfo(server: Server, database: str) -> str:
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in server.words(database).items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be the name of a database or role of ours: use lower-case letters, digits and _, at most 63 of them.")
