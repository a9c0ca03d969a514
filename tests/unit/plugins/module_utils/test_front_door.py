# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the front door's settings mean, and what is wrong with them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._front_door import errors, key_errors, limit_groups, subject_alt_names

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
        "unlisted_keys": False,
        "refused_keys": [],
        "admin_names": [],
        "admin_sources": [],
        "acme": {},
        "routes": [{"path": "/v1/models/", "methods": ["GET"]}],
        "tls_certificate": "",
        "tls_private_key": "",
        **changes,
    }


def clients(*entries: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"api_keys": list(entries)}


def admin(*names: str, sources: tuple[str, ...] = ("10.0.5.0/24",)) -> dict[str, t.Any]:
    return {"admin_names": list(names), "admin_sources": list(sources)}


def acme(**changes: t.Any) -> dict[str, t.Any]:
    return {"acme": {"email": "ops@example.org", **changes}, "server_names": ["llm.example.com"]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backend_key": ""},
        {"backend_key": "", "unlisted_keys": True, "api_keys": []},
        {"api_keys": [{"name": "laptop", "key": KEY, "previous_key": OTHER_KEY}]},
        {"api_keys": [{"name": "laptop", "key": KEY, "previous_key": ""}]},
        admin("admin.example.org", sources=("10.0.5.0/24", "fd00::/8", "192.168.0.9")),
        acme(),
        acme(server="https://ca.example.org/directory", webroot="/var/www/html"),
        acme(port=8080),
    ],
)
def test_sound_settings_have_no_errors(changes: dict[str, t.Any]) -> None:
    assert errors(settings(**changes), "gw") == []


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
        ({"backend_key": "short"}, ["nginx_backend_key", "5 characters"]),
        ({"refused_keys": ["sk-1234"]}, ["nginx_refused_keys", "7 characters"]),
        ({"unlisted_keys": True}, ["nginx_unlisted_keys is true", "Leave nginx_backend_key empty"]),
        (clients({"name": "a", "key": KEY, "previous_key": "short"}), ["previous_key of 'a'", "5 characters"]),
        (clients({"name": "a", "key": KEY}, {"name": "b", "key": OTHER_KEY, "previous_key": KEY}), ["'a' and 'b'", "same key"]),
        ({"admin_names": ["admin.example.org"]}, ["nginx_admin_names is set", "nginx_admin_sources is empty"]),
        ({"admin_sources": ["10.0.5.0/24"]}, ["nginx_admin_sources is set", "nginx_admin_names is empty"]),
        (admin("192.168.0.51"), ["nginx_admin_names", "'192.168.0.51'", "DNS name"]),
        (admin("LLM.example.com"), ["'LLM.example.com'", "in nginx_server_names too"]),
        (admin("admin.example.org", sources=("everybody",)), ["nginx_admin_sources", "'everybody'", "10.0.5.0/24"]),
        (admin("admin.example.org", sources=("10.0.5.7/24",)), ["nginx_admin_sources", "'10.0.5.7/24'"]),
        (admin("admin.example.org", sources=("0.0.0.0/0",)), ["nginx_admin_sources contains 0.0.0.0/0", "everybody"]),
        (acme(email="nobody"), ["nginx_acme.email is 'nobody'"]),
        (acme(server="http://ca.example.org"), ["nginx_acme.server is 'http://ca.example.org'", "https://"]),
        (acme(webroot="/var/www", port=80), ["both webroot and port"]),
        ({**acme(), "server_names": ["10.0.0.1"]}, ["'10.0.0.1'", "public DNS names only"]),
        ({**acme(), "tls_certificate": "PEM", "tls_private_key": "PEM"}, ["nginx_acme and nginx_tls_certificate"]),
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


def test_the_clients_alone_are_checked_alike() -> None:
    assert key_errors(settings()["api_keys"], settings(), "gw") == []
    (message,) = key_errors([{"name": "a", "key": "short"}], settings(), "gw")
    assert message.startswith("gw: nginx_api_keys: the key of 'a'")
    assert key_errors([], settings(), "gw") == []  # the last client is gone


def test_names_are_written_as_certificates_write_them() -> None:
    names = ["LLM.example.com", "192.168.0.50", "fd00:0:0::1", "llm.example.com"]
    assert subject_alt_names(names) == ["DNS:llm.example.com", "IP:192.168.0.50", "IP:fd00::1"]
