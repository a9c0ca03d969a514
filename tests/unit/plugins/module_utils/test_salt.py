# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of the database; the real one is asked in Molecule."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _salt

OLD, NEW = "o" * 64, "n" * 64


def answering(monkeypatch: pytest.MonkeyPatch, facts: list[tuple[str]] | None, rows: dict[str, int] | None = None) -> None:
    rows = rows or {}

    def ask(statement: str) -> list[tuple[t.Any, ...]]:
        if "to_regclass('baremetal_llm.facts')" in statement:
            return [("there" if facts is not None else None,)]
        if "to_regclass" in statement:
            return [("there" if any(table in statement for table in rows) else None,)]
        if "count(*)" in statement:
            return [(next(number for table, number in rows.items() if table in statement),)]
        return list(facts or [])

    @contextlib.contextmanager
    def asking(_address: str) -> t.Iterator[_salt.Ask]:
        yield ask

    monkeypatch.setattr(_salt, "asking", asking)


@pytest.mark.parametrize("facts", [None, [], [(_salt.fingerprint(NEW),)]])
def test_a_database_without_a_memory_takes_any_and_one_with_takes_its_own(monkeypatch: pytest.MonkeyPatch, facts: list[tuple[str]] | None) -> None:
    answering(monkeypatch, facts)
    assert _salt.check("postgresql://x", NEW) is bool(facts)


def test_another_is_refused_with_what_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [(_salt.fingerprint(OLD),)], {"LiteLLM_CredentialsTable": 2, "LiteLLM_ProxyModelTable": 0})
    with pytest.raises(_salt.SaltError, match="could not read any more: 2 credentials. Keys, budgets") as refused:
        _salt.check("postgresql://x", NEW)
    assert OLD not in str(refused.value)
    assert NEW not in str(refused.value)


class Cursor:
    def __init__(self) -> None:
        self.told: list[str] = []

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_what: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        self.told.append(statement)

    def fetchall(self) -> list[tuple[int]]:
        return [(1,)]


def test_somebody_elses_server_is_asked_with_its_password_and_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, t.Any] = {}
    cursor = Cursor()

    class Connection:
        def cursor(self) -> Cursor:
            return cursor

        def close(self) -> None:
            words["closed"] = True

    def connect(**given: t.Any) -> Connection:
        words.update(given)
        return Connection()

    monkeypatch.setattr(_salt, "connect", connect)
    with _salt.asking("postgresql://litellm:p%2Fw@db.example.org:6543/litellm?sslmode=require&sslaccept=strict&sslcert=/ca") as ask:
        assert ask("SELECT 1") == [(1,)]
    assert words == {
        **{"host": "db.example.org", "port": "6543", "dbname": "litellm", "user": "litellm", "password": "p/w"},
        **{"sslmode": "verify-full", "sslrootcert": "/ca", "closed": True},
    }


def test_our_own_server_is_asked_by_its_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[t.Any, ...]] = []

    class Administrator:
        def __init__(self, port: int) -> None:
            asked.append((port,))

        def __call__(self, database: str, statement: str) -> list[tuple[t.Any, ...]]:
            asked.append((database, statement))
            return [(1,)]

        def close(self) -> None:
            asked.append(("closed",))

    monkeypatch.setattr(_salt, "Administrator", Administrator)
    with _salt.asking("postgresql://litellm@%2Fvar%2Frun%2Fpostgresql:5433/litellm?host=/var/run/postgresql") as ask:
        ask("SELECT 1")
    assert asked == [(5433,), ("litellm", "SELECT 1"), ("closed",)]
