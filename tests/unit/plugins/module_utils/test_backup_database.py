# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is told to a server and to PostgreSQL's programs; the real ones are asked in Molecule."""

from __future__ import annotations

import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_database as database_of
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import (
    BusyError,
    DumpError,
    Server,
    Table,
    differences,
    dump,
    lacking,
    passfile,
    restore,
    swap,
)
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ConnectError

OURS = Server(system_user="")  # the programs here run as whoever tests


class Refusal(Exception):
    def __init__(self, said: str, pgcode: str) -> None:
        super().__init__(said)
        self.pgcode = pgcode


class Psycopg:
    Error = Refusal


class Connection:
    """Answers as a server with one table would, keeps what changes something, and refuses once for each of ``busy``."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.databases = ["litellm", "litellm_restoring", "postgres"]
        self.busy: list[str] = []
        self.rights = (True, True)
        self._rows: list[tuple[t.Any, ...]] = []

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def close(self) -> None:
        pass

    def execute(self, statement: str, _values: t.Any = None) -> None:
        answers: dict[str, list[tuple[t.Any, ...]]] = {
            "rolcreatedb": [self.rights],
            "SHOW server_version": [("15.14 (Debian 15.14-0+deb12u1)",)],
            "pg_export_snapshot": [("00000003-1",)],
            "relkind": [("public.keys", "public.keys"), ("public._prisma_migrations", "public._prisma_migrations")],
            "SELECT count(*)": [(2, "1:2")],
            "migration_name": [("1_init",)],
            "pg_database": [(name,) for name in self.databases],
            "nspowner": [("postgres",)],
            "pg_terminate_backend": [(1,)],
        }
        self._rows = next((rows for word, rows in answers.items() if word in statement), [])
        if statement.split(maxsplit=1)[0] in ("CREATE", "DROP", "ALTER", "REVOKE", "BEGIN", "COMMIT", "ROLLBACK"):
            self.told.append(statement)
        if "RENAME" in statement and self.busy:
            raise Refusal("database is being accessed by other users", self.busy.pop())

    def fetchall(self) -> list[tuple[t.Any, ...]]:
        return self._rows


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    made = Connection()
    monkeypatch.setattr(database_of, "client", lambda: Psycopg)
    monkeypatch.setattr(database_of, "connect", lambda **_words: made)
    return made


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[str, str], None]:
    """Puts a program of PostgreSQL's in place, as a few lines of shell."""
    monkeypatch.setattr(database_of, "PROGRAMS", tmp_path / "postgresql")

    def make(name: str, lines: str, version: str = "15") -> None:
        path = tmp_path / "postgresql" / version / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)

    return make


def test_a_dump_is_of_the_snapshot_that_was_counted(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_dump", 'echo "too old"', "13")
    program("pg_dump", 'echo "$@"')
    found = dump(OURS, "litellm", tmp_path / "x.dump")
    said = (tmp_path / "x.dump").read_text()
    assert "--snapshot=00000003-1" in said
    assert "dbname='litellm'" in said
    assert stat.S_IMODE((tmp_path / "x.dump").stat().st_mode) == 0o600
    assert (found.postgresql, found.migrations) == ("15.14", ("1_init",))
    assert found.tables == {"public.keys": Table(2, "1:2"), "public._prisma_migrations": Table(2, "1:2")}


def test_a_dump_goes_through_a_command_and_either_failure_counts(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_dump", "echo plain")
    dump(OURS, "litellm", tmp_path / "a", ["tr", "a-z", "A-Z"])
    assert (tmp_path / "a").read_text() == "PLAIN\n"
    with pytest.raises(DumpError, match="^sh failed: no such key"):
        dump(OURS, "litellm", tmp_path / "b", ["sh", "-c", "echo no such key >&2; exit 1"])
    program("pg_dump", "echo half; echo server went away >&2; exit 1")
    with pytest.raises(DumpError, match="^pg_dump failed: server went away"):
        dump(OURS, "litellm", tmp_path / "c", ["cat"])
    with pytest.raises(DumpError, match="^pg_dump failed: server went away"):
        dump(OURS, "litellm", tmp_path / "d")


def test_without_a_program_the_package_is_named(
    connection: Connection, program: t.Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DumpError, match="pg_dump for PostgreSQL 15 or newer is not there: install"):
        monkeypatch.setattr(database_of.shutil, "which", lambda _name: None)
        dump(OURS, "litellm", tmp_path / "x")
    # What lies in the path is the newest of those that are there.
    monkeypatch.setattr(database_of.shutil, "which", lambda _name: "/usr/bin/pg_dump")
    program("pg_dump", "exit 0", "13")
    with pytest.raises(DumpError, match="install the package postgresql-client-15"):
        dump(OURS, "litellm", tmp_path / "x")


def test_a_restore_that_fails_leaves_no_database(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_restore", "cat >/dev/null; echo could not read >&2; exit 1")
    (tmp_path / "x.dump").touch()
    with pytest.raises(DumpError, match="pg_restore failed: could not read"):
        restore(OURS, tmp_path / "x.dump", "litellm_restoring", "litellm")
    assert connection.told[0] == "CREATE DATABASE litellm_restoring OWNER litellm TEMPLATE template0 ENCODING 'UTF8'"
    assert connection.told[-1] == "DROP DATABASE IF EXISTS litellm_restoring"


def test_what_is_restored_is_its_owners_and_nobody_elses(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_restore", f'cat >/dev/null; echo "$@" >{tmp_path}/said')
    (tmp_path / "x.dump").touch()
    assert restore(OURS, tmp_path / "x.dump", "litellm_restoring", "litellm").migrations == ("1_init",)
    assert "--role=litellm" in (tmp_path / "said").read_text()
    assert connection.told[1:] == [
        "REVOKE ALL ON DATABASE litellm_restoring FROM PUBLIC",
        "ALTER SCHEMA public OWNER TO litellm",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    ]


def test_a_sealed_dump_is_opened_on_its_way_and_either_failure_counts(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_restore", f"cat >{tmp_path}/got")
    (tmp_path / "x.dump").write_text("SEALED")
    restore(OURS, tmp_path / "x.dump", "litellm_restoring", "litellm", ["tr", "A-Z", "a-z"])
    assert (tmp_path / "got").read_text() == "sealed"
    with pytest.raises(DumpError, match="^sh failed: no such key"):
        restore(OURS, tmp_path / "x.dump", "litellm_restoring", "litellm", ["sh", "-c", "echo no such key >&2; exit 1"])
    assert connection.told[-1] == "DROP DATABASE IF EXISTS litellm_restoring"
    program("pg_restore", "echo disk full >&2; exit 1")
    with pytest.raises(DumpError, match="^pg_restore failed: disk full"):
        restore(OURS, tmp_path / "x.dump", "litellm_restoring", "litellm", ["yes"])


def test_what_somebody_elses_server_does_not_allow_is_named(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Server("db.example.org", user="litellm", system_user="", tls="verify-full")
    assert lacking(theirs, "litellm") == ""
    connection.rights = (True, False)
    assert lacking(theirs, "litellm") == "ALTER DATABASE litellm OWNER TO litellm"
    connection.rights = (False, False)
    assert lacking(theirs, "litellm").startswith("ALTER ROLE litellm CREATEDB (and NOCREATEDB when")

    def refused(**words: t.Any) -> t.NoReturn:
        raise ConnectError(f"no pg_hba.conf entry for database {words['dbname']}")

    monkeypatch.setattr(database_of, "connect", refused)
    assert lacking(theirs, "litellm") == (
        "litellm must be let in to its database postgres as well, where one database takes the place of another (no pg_hba.conf entry for database postgres)"
    )


def test_a_password_is_in_a_file_that_only_we_can_read_and_only_for_a_while() -> None:
    with passfile("litellm", "a:b\\c") as path:
        assert Path(path).read_text() == "*:*:*:litellm:a\\:b\\\\c\n"
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert not Path(path).exists()


def test_on_somebody_elses_server_the_schema_public_is_left_to_its_owner(connection: Connection, program: t.Callable[..., None], tmp_path: Path) -> None:
    program("pg_restore", "cat >/dev/null")
    (tmp_path / "x.dump").touch()
    restore(Server(system_user="", tls="require"), tmp_path / "x.dump", "litellm_restoring", "litellm")
    assert "ALTER SCHEMA public OWNER TO litellm" not in connection.told


RENAMES = ["ALTER DATABASE litellm RENAME TO litellm_before", "ALTER DATABASE litellm_restoring RENAME TO litellm"]


def test_a_swap_is_one_transaction(connection: Connection) -> None:
    swap(OURS, "litellm", "litellm_restoring", "litellm_before")
    assert connection.told == ["BEGIN", *RENAMES, "COMMIT"]


def test_a_swap_that_meets_somebody_is_tried_again(connection: Connection) -> None:
    connection.busy = ["55006"]
    swap(OURS, "litellm", "litellm_restoring", "litellm_before")
    assert connection.told == ["BEGIN", RENAMES[0], "ROLLBACK", "BEGIN", *RENAMES, "COMMIT"]
    connection.busy = ["55006"] * 3
    with pytest.raises(BusyError, match="PostgreSQL: database is being accessed by other users"):
        swap(OURS, "litellm", "litellm_restoring", "litellm_before")
    connection.told, connection.busy = [], ["42501"]
    with pytest.raises(DumpError):
        swap(OURS, "litellm", "litellm_restoring", "litellm_before")
    assert connection.told == ["BEGIN", RENAMES[0], "ROLLBACK"]


def test_a_swap_needs_the_new_one_and_not_the_old(connection: Connection) -> None:
    with pytest.raises(DumpError, match="There is no database litellm_other"):
        swap(OURS, "litellm", "litellm_other", "litellm_before")
    connection.databases.remove("litellm")
    swap(OURS, "litellm", "litellm_restoring", "litellm_before")
    assert connection.told == ["BEGIN", RENAMES[1], "COMMIT"]


def test_names_that_could_be_statements_are_refused(connection: Connection) -> None:
    for name in ("x; DROP DATABASE litellm", "", "Litellm", "a" * 64):
        with pytest.raises(InputError, match="cannot be the name of a database"):
            database_of.drop(OURS, name)
    assert connection.told == []


def test_differences_name_the_table() -> None:
    one = {"keys": Table(2, "1:2"), "spend": Table(9, "3:4"), "teams": Table(1, "5:6")}
    assert differences(one, one) == []
    assert differences(one, {"keys": Table(2, "1:3"), "spend": Table(8, "3:4"), "more": Table(0, "0:0")}) == [
        "keys has 2 rows as it shall, but not the same ones",
        "more is not in the backup",
        "spend has 8 rows instead of 9",
        "teams is missing",
    ]


def test_what_libpq_is_told_has_no_password_and_is_quoted() -> None:
    server = Server("db.example.org", 5433, "litellm", "", "/etc/it's", "verify-full", "/ca.crt")
    assert database_of._conninfo(server, "litellm") == (
        "host='db.example.org' port='5433' user='litellm' dbname='litellm' passfile='/etc/it\\'s' sslmode='verify-full' sslrootcert='/ca.crt' "
        "sslcert='/nonexistent'"
    )


@pytest.mark.parametrize(
    ("tls", "ca", "authorities"),
    [
        ("verify-full", "/ca.crt", "/ca.crt"),
        ("verify-full", "", "/etc/ssl/certs/ca-certificates.crt"),
        ("require", "/ca.crt", "/nonexistent"),  # with a file libpq would verify
        ("disable", "", "/nonexistent"),
        ("", "", None),
    ],
)
def test_whose_certificates_are_taken(tls: str, ca: str, authorities: str | None) -> None:
    assert Server(tls=tls, ca=ca).words("litellm").get("sslrootcert") == authorities
