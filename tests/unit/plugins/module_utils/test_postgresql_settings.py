# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_settings import Way, access, configuration, identities, settings, tuned

GIB = 2**30


@pytest.mark.parametrize(
    ("memory", "buffers", "cache", "work", "maintenance"),
    [
        (1 * GIB, "128MB", "256MB", "4MB", "64MB"),
        (16 * GIB, "1024MB", "4096MB", "10MB", "256MB"),
        (512 * GIB, "2048MB", "131072MB", "20MB", "512MB"),
    ],
)
def test_sizes_follow_the_memory_within_bounds(memory: int, buffers: str, cache: str, work: str, maintenance: str) -> None:
    found = tuned(memory, 100)
    assert list(found.values()) == [buffers, cache, work, maintenance]


def test_many_connections_leave_less_for_each() -> None:
    assert tuned(16 * GIB, 1000)["work_mem"] == "4MB"
    assert tuned(16 * GIB, 20)["work_mem"] == "32MB"


def test_the_user_wins_over_sizes() -> None:
    found = settings(GIB, 5433, False, 50, {"shared_buffers": "4GB", "log_connections": True, "auto_explain.log_timing": "off"})
    assert (found["shared_buffers"], found["log_connections"], found["auto_explain.log_timing"]) == ("4GB", "on", "off")
    assert (found["port"], found["listen_addresses"], found["max_connections"]) == ("5433", "", "50")
    assert settings(GIB, 5432, True, 50, {})["listen_addresses"] == "localhost"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"port": 1}, "Use postgresql_port"),
        ({"listen_addresses": "*"}, "not this role's"),
        ({"password_encryption": "md5"}, "scram-sha-256"),
        ({"Work Mem": "1MB"}, "no name of a setting"),
    ],
)
def test_what_has_a_variable_of_its_own_is_refused(more: dict[str, t.Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        settings(GIB, 5432, True, 50, more)


def test_values_cannot_leave_their_quotes() -> None:
    assert configuration({"a": "it's \\ odd"}).splitlines()[1] == r"a = 'it''s \\ odd'"
    with pytest.raises(InputError, match="more than one line"):
        configuration({"a": "1\nport = 2"})


def test_each_user_comes_to_its_own_database_alone() -> None:
    ways = [Way("litellm", "gateway", password=True), Way("notes", "writer", password=False, system_user="llm-notes")]
    assert access(ways, loopback=True).splitlines()[1:] == [
        "local all postgres peer",
        "local litellm gateway scram-sha-256",
        "host litellm gateway 127.0.0.1/32 scram-sha-256",
        "host litellm gateway ::1/128 scram-sha-256",
        "local notes writer peer map=llm",
    ]
    assert "host" not in access(ways, loopback=False)
    assert identities(ways).splitlines()[1:] == ["llm llm-notes writer"]
