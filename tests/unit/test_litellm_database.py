# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role litellm asks of its database before LiteLLM starts, and while it runs. With the real ones: molecule/gateway."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import types
import typing as t
import urllib.error
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _salt
from ansible_collections.baremetal.llm.plugins.module_utils._database_url import database_url

FILES = Path(__file__).resolve().parents[2] / "roles/litellm/files"
Said = list[str]


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """As the host has it: each finds the others beside itself."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setattr(loaded("llm_engines", monkeypatch), "guarded", lambda: True)
    return loaded("llm_database", monkeypatch)


class Connection:
    """Answers as PostgreSQL would: tables that are there, the migrations it has had, and the fact it remembers."""

    def __init__(self, migrations: t.Sequence[str] | None = None, salt: str = "") -> None:
        self.migrations, self.salt, self.told = migrations, salt, []  # type: ignore[var-annotated]

    def execute(self, statement: str) -> Connection:
        self.told.append(statement)
        if "to_regclass('_prisma_migrations')" in statement:
            self.rows: list[tuple[t.Any, ...]] = [("there",) if self.migrations is not None else (None,)]
        elif "to_regclass" in statement:
            self.rows = [("there",) if self.salt else (None,)]
        elif "FROM _prisma_migrations" in statement:
            self.rows = [(name,) for name in self.migrations or ()]
        else:
            self.rows = [(self.salt,)]
        return self

    def fetchone(self) -> tuple[t.Any, ...]:
        return self.rows[0]

    def fetchall(self) -> list[tuple[t.Any, ...]]:
        return self.rows


@pytest.mark.parametrize(
    ("external", "expected"),
    [
        ({}, {"host": "/var/run/postgresql", "port": "5432", "user": "litellm", "dbname": "litellm"}),
        (
            {"host": "db.example.org", "ca": "pem"},
            {"sslmode": "verify-full", "sslrootcert": "/etc/llm/postgresql/ca.crt", "password": "p/w", "host": "db.example.org"},
        ),
        ({"host": "db.example.org"}, {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/certs/ca-certificates.crt"}),
        ({"host": "db.example.org", "tls": "require"}, {"sslmode": "require"}),
        ({"host": "db.example.org", "tls": "disable", "port": 6543}, {"sslmode": "disable", "port": "6543"}),
    ],
)
def test_libpq_is_told_the_same_address_as_prisma(database: types.ModuleType, external: dict[str, t.Any], expected: dict[str, str]) -> None:
    assert expected.items() <= database.libpq(database_url(external, "p/w" if external else "")).items()


def test_what_is_missing_is_asked_of_the_database(database: types.ModuleType, tmp_path: Path) -> None:
    for name in ("2_b", "1_a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "migration.sql").touch()
    (tmp_path / "migration_lock.toml").touch()
    assert database.missing(Connection(), tmp_path) == ["1_a", "2_b"]
    assert database.missing(Connection(["1_a", "0_of_a_newer_version"]), tmp_path) == ["2_b"]
    assert database.missing(Connection(["1_a", "2_b"]), tmp_path) == []


def test_another_salt_key_is_refused(database: types.ModuleType) -> None:
    database.check_salt(Connection(), "any")
    database.check_salt(Connection(salt=database.fingerprint("mine")), "mine")
    with pytest.raises(database.Unready, match="not the one with which this database was written"):
        database.check_salt(Connection(salt=database.fingerprint("mine")), "yours")


def test_the_key_itself_is_not_remembered_and_modules_know_the_same_hash(database: types.ModuleType) -> None:
    connection = Connection()
    database.remember_salt(connection, "the-key-itself")
    assert "the-key-itself" not in connection.told[0]
    assert _salt.fingerprint("the-key-itself") in connection.told[0]


def test_a_server_that_comes_late_is_waited_for(database: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([OSError("nobody there"), OSError("starting up"), "connection"])

    def connect(_url: str) -> str:
        found = next(tries)
        if isinstance(found, OSError):
            raise found
        return str(found)

    monkeypatch.setattr(database, "connect", connect)
    monkeypatch.setattr(database.time, "sleep", lambda _seconds: None)
    assert database.connection("url", 60) == "connection"
    tries = iter([OSError("nobody there")])
    with pytest.raises(database.Unready, match="nobody there"):
        database.connection("url", -1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"status": "healthy", "db": "connected"}', "connected"),
        (b'{"status": "healthy", "db": "Not connected"}', "Not connected"),
        (503, "503"),
        (OSError("refused"), ""),
        (b"no JSON", ""),
    ],
)
def test_what_litellm_says_of_itself(database: types.ModuleType, monkeypatch: pytest.MonkeyPatch, answer: t.Any, expected: str) -> None:
    start = loaded("start", monkeypatch)

    class Opener:
        def open(self, url: str, timeout: float) -> t.Any:
            if isinstance(answer, int):
                raise urllib.error.HTTPError(url, answer, "", t.cast(t.Any, None), io.BytesIO())
            if isinstance(answer, OSError):
                raise answer
            return io.BytesIO(answer)

    monkeypatch.setattr(start.urllib.request, "build_opener", lambda *_handlers: Opener())
    assert start.readiness("http://127.0.0.1:4000/health/readiness") == expected


@pytest.mark.parametrize(
    ("said", "answers", "expected"),
    [("connected", True, False), ("", True, False), ("Not connected", True, True), ("503", True, True), ("503", False, False), ("Not connected", False, False)],
)
def test_it_is_lost_if_it_does_without_a_database_that_answers(
    database: types.ModuleType, monkeypatch: pytest.MonkeyPatch, said: str, answers: bool, expected: bool
) -> None:
    start = loaded("start", monkeypatch)

    class Open:
        def close(self) -> None:
            pass

    def connect(_url: str) -> Open:
        if not answers:
            raise OSError("nobody there")
        return Open()

    monkeypatch.setattr(database, "connect", connect)
    assert start.has_lost(said, "url") is expected


class Ended(Exception):
    pass


@pytest.mark.parametrize(
    ("looks", "expected"),
    [([True] * 4 + [False] * 2, ["engine"]), ([True, True, True, False] * 3, []), ([True] * 8, ["engine", "SIGTERM", "exit"])],
)
def test_first_its_engine_is_ended_and_only_then_itself(
    database: types.ModuleType, monkeypatch: pytest.MonkeyPatch, looks: list[bool], expected: list[str]
) -> None:
    start = loaded("start", monkeypatch)
    seen: list[str] = []
    left = iter(looks)

    def has_lost(_said: str, _database: str) -> bool:
        try:
            return next(left)
        except StopIteration:
            raise Ended from None

    def leave(_status: int) -> t.NoReturn:
        seen.append("exit")
        raise Ended

    monkeypatch.setattr(start, "readiness", lambda _url: "Not connected")
    monkeypatch.setattr(start, "has_lost", has_lost)
    monkeypatch.setattr(start, "end_engines", lambda: seen.append("engine"))
    monkeypatch.setattr(start.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(start.os, "kill", lambda _process, how: seen.append(how.name))
    monkeypatch.setattr(start.os, "_exit", leave)
    with pytest.raises(Ended):
        start.watch("url", "database")
    assert seen == expected


def test_the_engine_that_is_ended_is_its_own(database: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    start = loaded("start", monkeypatch)
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "query-engine"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    kill = os.kill
    ended: list[int] = []

    def end(process: int, how: int) -> None:
        ended.append(process)
        if process == engine.pid:  # and nobody else's on this machine
            kill(process, how)

    monkeypatch.setattr(start.os, "kill", end)
    try:
        start.end_engines()
        assert engine.wait(10) == -signal.SIGKILL
        assert engine.pid in ended
        assert other.pid not in ended
        assert other.poll() is None
    finally:
        for process in (engine, other):
            process.kill()
            process.wait()
