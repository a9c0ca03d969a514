# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._database_url import database_url

HOST: dict[str, t.Any] = {"host": "db.example.org"}


@pytest.mark.parametrize(
    ("external", "password", "port", "expected"),
    [
        ({}, "", 5432, "postgresql://litellm@%2Fvar%2Frun%2Fpostgresql:5432/litellm?host=/var/run/postgresql"),
        ({}, "", 5433, "postgresql://litellm@%2Fvar%2Frun%2Fpostgresql:5433/litellm?host=/var/run/postgresql"),
        (HOST, "a/b@c?d:e%", 5432, "postgresql://litellm:a%2Fb%40c%3Fd%3Ae%25@db.example.org:5432/litellm?sslmode=require&sslaccept=strict"),
        (
            HOST | {"port": 6543, "ca": "-----BEGIN"},
            "p",
            5432,
            "postgresql://litellm:p@db.example.org:6543/litellm?sslmode=require&sslaccept=strict&sslcert=/etc/llm/postgresql/ca.crt",
        ),
        (HOST | {"tls": "require"}, "p", 5432, "postgresql://litellm:p@db.example.org:5432/litellm?sslmode=require"),
        ({"host": "2001:db8::1", "tls": "disable"}, "p", 5432, "postgresql://litellm:p@[2001:db8::1]:5432/litellm?sslmode=disable"),
    ],
)
def test_the_address(external: dict[str, t.Any], password: str, port: int, expected: str) -> None:
    assert database_url(external, password, port) == expected
