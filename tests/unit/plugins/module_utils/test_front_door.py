# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the front door's settings mean, and what is wrong with them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._front_door import errors, limit_groups, subject_alt_names

KEY = "a" * 64
OTHER_KEY = "b" * 64


def settings(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "api_keys": [{"name": "laptop", "key": KEY}],
        "requests_per_minute": 300,
        "burst": 60,
        "parallel": 32,
        "server_names": ["llm.example.com", "192.168.0.50"],
        "backends": ["127.0.0.1:4000"],
        "standby_backends": ["127.0.0.1:4001"],
        "backend_key": "sk-" + "c" * 64,
        "routes": [{"path": "/v1/models/", "methods": ["GET"]}],
        "tls_certificate": "",
        "tls_private_key": "",
        **changes,
    }


def clients(*entries: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"api_keys": list(entries)}


def test_sound_settings_have_no_errors() -> None:
    assert errors(settings(), "gw") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (clients(), ["nginx_api_keys is empty"]),
        (clients({"name": "Laptop!", "key": KEY}), ["'Laptop!'", "lower-case"]),
        (clients({"name": "default", "key": KEY}), ["'default'", "none of the words"]),
        (clients({"name": "a", "key": KEY}, {"name": "a", "key": OTHER_KEY}), ["'a' twice"]),
        (clients({"name": "a", "key": KEY}, {"name": "b", "key": KEY.upper()}), ["'a' and 'b'", "same key"]),
        (clients({"name": "a", "key": "short"}), ["key of 'a'", "5 characters"]),
        (clients({"name": "a", "key": '"; return 200 "' + KEY}), ["key of 'a'"]),
        (clients({"name": "a", "key": KEY, "burst": -1}), ["a.burst is -1", "at least 0"]),
        (clients({"name": "a", "key": KEY, "parallel": "many"}), ["a.parallel is 'many'"]),
        ({"requests_per_minute": 0}, ["nginx_requests_per_minute is 0", "at least 1"]),
        ({"backend_key": ""}, ["nginx_backend_key", "0 characters"]),
        ({"server_names": []}, ["nginx_server_names is empty"]),
        ({"server_names": ["two words"]}, ["nginx_server_names", "'two words'"]),
        ({"backends": ["http://127.0.0.1:4000"]}, ["nginx_backends", "host:port"]),
        ({"standby_backends": ["4001"]}, ["nginx_standby_backends", "host:port"]),
        ({"routes": [{"path": "/v1/../key", "methods": ["GET"]}]}, ["nginx_routes", "'/v1/../key'"]),
        ({"routes": [{"path": "/v1/models", "methods": ["get"]}]}, ["nginx_routes", "'get'"]),
        ({"routes": [{"path": "/v1/models", "methods": []}]}, ["nginx_routes", "/v1/models"]),
        ({"tls_certificate": "PEM"}, ["nginx_tls_certificate is set", "nginx_tls_private_key is not"]),
        ({"tls_private_key": "PEM"}, ["nginx_tls_private_key is set", "nginx_tls_certificate is not"]),
    ],
)
def test_each_error_names_the_host_the_variable_and_the_value(changes: dict[str, t.Any], words: list[str]) -> None:
    (message,) = errors(settings(**changes), "gw")
    assert message.startswith("gw: ")
    assert all(word in message for word in words), message


def test_no_message_shows_a_key() -> None:
    wrong = settings(**clients({"name": "a", "key": KEY + "!"}, {"name": "a", "key": KEY + "!"}), backend_key=KEY + "?")
    found = errors(wrong, "gw")
    assert len(found) == 4
    assert KEY not in str(found)


def test_clients_with_equal_limits_share_a_group() -> None:
    entries = [
        {"name": "laptop", "key": KEY},
        {"name": "slow", "key": OTHER_KEY, "requests_per_minute": 7, "burst": 0},
        {"name": "desk", "key": "d" * 64, "burst": 60, "parallel": None},
    ]
    assert limit_groups(settings(api_keys=entries)) == [
        {"requests_per_minute": 300, "burst": 60, "parallel": 32, "retry_after": 1, "clients": ["laptop", "desk"]},
        {"requests_per_minute": 7, "burst": 0, "parallel": 32, "retry_after": 9, "clients": ["slow"]},
    ]


def test_names_are_written_as_certificates_write_them() -> None:
    names = ["LLM.example.com", "192.168.0.50", "fd00:0:0::1", "llm.example.com"]
    assert subject_alt_names(names) == ["DNS:llm.example.com", "IP:192.168.0.50", "IP:fd00::1"]
