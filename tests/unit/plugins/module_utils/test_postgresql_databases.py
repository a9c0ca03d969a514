# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of a server and what is then told to it; the real one is asked in Molecule."""

from __future__ import annotations

import base64
import re
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import (
    Database,
    DatabaseError,
    check_input,
    check_owners,
    ensure,
    foresee,
    is_verifier_of,
    verifier,
)

PASSWORD = "correct horse battery staple"
ONE = Database("litellm", "gateway", PASSWORD, connection_limit=40)
# login, limit, no end, verifier, superuser, createdb, createrole, replication, bypassrls
AS_IT_SHALL_BE = (True, 40, True, verifier(PASSWORD, b"salt"), False, False, False, False, False)


class Server:
    """Has roles, and databases with (owner, open to everybody)."""

    def __init__(self, roles: dict[str, tuple[t.Any, ...]] | None = None, databases: dict[str, tuple[str, bool]] | None = None) -> None:
        self.roles = roles or {}
        self.databases = {"postgres": ("postgres", False), **(databases or {})}
        self.schema = ("pg_database_owner", False)
        self.told: list[str] = []

    def __call__(self, database: str, statement: str) -> list[tuple[t.Any, ...]]:
        if "FROM pg_authid" in statement:
            return [(name, *row) for name, row in self.roles.items()]
        if "FROM pg_database" in statement:
            return [(name, *row) for name, row in self.databases.items()]
        if "FROM pg_namespace" in statement:
            return [self.schema]
        if not statement.startswith("SET "):
            self.told.append(statement if database == "postgres" else f"{database}: {statement}")
        return []


def test_the_verifier_is_the_one_of_rfc_7677() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    found = verifier("pencil", salt)
    keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    assert found == f"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"
    assert is_verifier_of(found, "pencil")
    assert not is_verifier_of(found, "pencils")
    assert not is_verifier_of("md5c4ca4238a0b923820dcc509a6f75849b", "pencil")
    assert is_verifier_of(verifier("pencil", salt, 10000), "pencil")


def test_everything_is_made_and_closed() -> None:
    server, difference = Server(databases={"template1": ("postgres", True)}), Difference()
    ensure([ONE], server, difference, check=False)
    role = server.told[1]
    assert [server.told[0], *server.told[2:]] == [
        "REVOKE ALL ON DATABASE template1 FROM PUBLIC",
        "CREATE DATABASE litellm OWNER gateway TEMPLATE template0 ENCODING 'UTF8'",
        "REVOKE ALL ON DATABASE litellm FROM PUBLIC",
    ]
    assert role.startswith("CREATE ROLE gateway LOGIN CONNECTION LIMIT 40 NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD ")
    assert is_verifier_of(role.split("'")[1], PASSWORD)
    assert PASSWORD not in " ".join(server.told) + str(difference.as_dict())


def test_what_is_right_is_left_alone() -> None:
    server, difference = Server({"gateway": AS_IT_SHALL_BE}, {"litellm": ("gateway", False)}), Difference()
    ensure([ONE], server, difference, check=False)
    assert (server.told, difference.changed) == ([], False)


def test_drift_is_mended() -> None:
    mighty = (True, -1, False, verifier("another one", b"salt"), True, False, False, False, True)
    server, difference = Server({"gateway": mighty}, {"litellm": ("gateway", True)}), Difference()
    server.schema = ("postgres", True)
    ensure([ONE], server, difference, check=False)
    assert server.told[0].startswith("ALTER ROLE gateway LOGIN CONNECTION LIMIT 40 NOSUPERUSER")
    assert server.told[0].endswith("VALID UNTIL 'infinity'")
    assert server.told[1:] == [
        "REVOKE ALL ON DATABASE litellm FROM PUBLIC",
        "litellm: ALTER SCHEMA public OWNER TO gateway",
        "litellm: REVOKE ALL ON SCHEMA public FROM PUBLIC",
    ]
    assert "SUPERUSER BYPASSRLS" in difference.as_dict()["before"]


def test_check_mode_tells_and_does_nothing() -> None:
    server, difference = Server({"gateway": (*AS_IT_SHALL_BE[:1], 3, *AS_IT_SHALL_BE[2:])}), Difference()
    ensure([ONE], server, difference, check=True)
    assert server.told == []
    assert "CONNECTION LIMIT 3" in difference.as_dict()["before"]
    empty = Difference()
    foresee([ONE], empty)
    assert "database litellm: of gateway" in empty.as_dict()["after"]


def test_a_role_without_a_password_gets_none() -> None:
    keyless = Database("litellm", "gateway", system_user="llm-litellm")
    server = Server({"gateway": AS_IT_SHALL_BE}, {"litellm": ("gateway", False)})
    ensure([keyless], server, Difference(), check=False)
    assert " PASSWORD NULL " in server.told[0]
    server = Server({"gateway": (*AS_IT_SHALL_BE[:3], "", *AS_IT_SHALL_BE[4:])}, {"litellm": ("gateway", False)})
    ensure([keyless], server, Difference(), check=False)
    assert server.told == []


def test_somebody_elses_database_is_refused() -> None:
    with pytest.raises(DatabaseError, match="belongs to other, not to gateway"):
        check_owners([ONE], Server(databases={"litellm": ("other", False)}))
    check_owners([ONE], Server(databases={"litellm": ("gateway", True), "more": ("other", False)}))


@pytest.mark.parametrize(
    ("databases", "said"),
    [
        ([Database("Litellm", "gateway", PASSWORD)], "'Litellm' cannot be the name"),
        ([Database("litellm", "pg_x", PASSWORD)], "'pg_x' cannot be the owner"),
        ([Database("a; DROP", "gateway", PASSWORD)], "cannot be the name"),
        ([ONE, Database("other", "gateway", PASSWORD)], "the owner gateway is there twice"),
        ([Database("litellm", "gateway", "short")], "has 5 characters"),
        ([Database("litellm", "gateway", "ä" * 20)], "printable ASCII"),
        ([Database("litellm", "gateway")], "or name the system_user"),
        ([Database("litellm", "gateway", system_user="a b")], "no name of a system user"),
        ([Database("litellm", "gateway", PASSWORD, connection_limit=0)], "must be 1 or more"),
        ([Database("litellm", "gateway", PASSWORD, connection_limit=91)], "raise it to 101"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(databases: list[Database], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        check_input(databases, 100)
    assert PASSWORD not in str(refused.value)


def test_a_database_does_not_show_its_password() -> None:
    assert PASSWORD not in repr(ONE)
