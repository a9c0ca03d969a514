# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is made of a server's answers; a real one refuses in Molecule."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _postgresql_external as external
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ConnectError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_external import External, ExternalError, ask

PASSWORD = "correct horse battery staple"
ONE = Database("litellm", "gateway", PASSWORD)
SERVER = External("db.example.org", 5432, "verify-full", "(a certificate)")
# version, replica, encoding, encrypted, connect, create, superuser
FIT = (17, False, "UTF8", True, True, True, False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., list[dict[str, t.Any]]]:
    """Sets what a connection answers, or what it says instead; returns what was asked for."""

    def prepare(row: tuple[t.Any, ...] = FIT, said: str = "") -> list[dict[str, t.Any]]:
        seen: list[dict[str, t.Any]] = []

        class Connection:
            def __enter__(self) -> t.Any:
                return self

            def __exit__(self, *_raised: t.Any) -> None:
                pass

            def cursor(self) -> t.Any:
                return self

            close = cursor

            def execute(self, _statement: str) -> None:
                pass

            def fetchone(self) -> tuple[t.Any, ...]:
                return row

        def connect(**words: t.Any) -> Connection:
            seen.append(words)
            if said:
                raise ConnectError(said)
            return Connection()

        monkeypatch.setattr(external, "connect", connect)
        return seen

    return prepare


def test_a_fit_server_is_told_of(server: t.Callable[..., list[dict[str, t.Any]]]) -> None:
    seen = server()
    answer = ask(SERVER, [ONE])
    assert (answer.version, answer.encrypted, answer.powerful) == ("17", True, ())
    assert (seen[0]["sslmode"], seen[0]["user"], seen[0]["dbname"]) == ("verify-full", "gateway", "litellm")


def test_which_authorities_count(server: t.Callable[..., list[dict[str, t.Any]]]) -> None:
    seen = server()
    for tls, ca in (("verify-full", ""), ("require", ""), ("verify-full", "(a certificate)")):
        ask(External("db.example.org", 5432, tls, ca), [ONE])
    assert [words["sslrootcert"] for words in seen[:2]] == ["/etc/ssl/certs/ca-certificates.crt", "/nonexistent"]
    assert seen[2]["sslrootcert"].endswith(".pem")


def test_a_superuser_is_named(server: t.Callable[..., list[dict[str, t.Any]]]) -> None:
    server((*FIT[:6], True))
    assert ask(SERVER, [ONE]).powerful == ("gateway",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((12, *FIT[1:]), "it is version 12, but at least 13"),
        ((17, True, *FIT[2:]), "a replica"),
        ((17, False, "LATIN1", *FIT[3:]), "its encoding is LATIN1"),
        ((*FIT[:5], False, False), "ALTER DATABASE litellm OWNER TO gateway"),
    ],
)
def test_what_does_not_fit_is_refused(server: t.Callable[..., list[dict[str, t.Any]]], row: tuple[t.Any, ...], said: str) -> None:
    server(row)
    with pytest.raises(ExternalError, match=re.escape(said)) as refused:
        ask(SERVER, [ONE])
    assert "PostgreSQL at db.example.org:5432, database litellm as gateway" in str(refused.value)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('could not translate host name "db" to address', "does not know that name"),
        ("connection to server failed: Connection refused", "Nothing listens there"),
        ("timeout expired", "firewall"),
        ("server does not support SSL, but SSL was required", "no TLS"),
        ("SSL error: certificate verify failed", "not of the CA given"),
        ('server certificate for "a" does not match host name "b"', "another name"),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.1"', "pg_hba.conf"),
        (f'FATAL:  password authentication failed for "{PASSWORD}"', "The password"),
        ('FATAL:  database "litellm" does not exist', "Create it there"),
        ("FATAL:  sorry, too many connections already", "All its connections are taken"),
    ],
)
def test_what_libpq_says_comes_with_advice(server: t.Callable[..., list[dict[str, t.Any]]], said: str, advice: str) -> None:
    server(said=said)
    with pytest.raises(ExternalError, match=re.escape(advice)) as refused:
        ask(SERVER, [ONE])
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(("wish", "said"), [(External("", 5432, "verify-full"), "host is missing"), (External("db", 5432, "require", "x"), "take ca out")])
def test_bad_input(wish: External, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ask(wish, [ONE])
