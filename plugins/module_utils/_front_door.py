# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the front door's settings mean for Nginx, and what is wrong with them."""

from __future__ import annotations

import ipaddress
import math
import re
import typing as t

_CLIENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MAP_WORDS = ("default", "hostnames", "include", "volatile")  # an Nginx `map` takes them for its own parameters
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{32,200}")  # a bearer token, and nothing that Nginx could take for more than text
_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_BACKEND = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+/?")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_LIMITS = {"requests_per_minute": 1, "burst": 0, "parallel": 1}  # each with its least value

Settings = t.Mapping[str, t.Any]


def errors(settings: Settings, host: str) -> list[str]:
    """One sentence for everything in the role's inputs (``settings``, without their prefix) that cannot work."""
    found = [
        *_client_errors(settings["api_keys"]),
        *_limit_errors(settings),
        *_key_errors("nginx_backend_key", settings["backend_key"]),
        *(
            f"nginx_server_names contains {name!r}, which is neither a DNS name nor an IP address."
            for name in settings["server_names"]
            if not _is_address(name) and not _DNS_NAME.fullmatch(str(name))
        ),
        *(
            f"nginx_{name} contains {backend!r}: write it as host:port."
            for name in ("backends", "standby_backends")
            for backend in settings[name]
            if not _BACKEND.fullmatch(str(backend))
        ),
        *(message for route in settings["routes"] for message in _route_errors(route)),
    ]
    found += [
        f"nginx_{name} is empty: {remedy}."
        for name, remedy in (
            ("api_keys", "list at least one client, or nobody can use the front door"),
            ("server_names", "list the names and addresses that clients use"),
            ("backends", "list at least one host:port"),
        )
        if not settings[name]
    ]
    given, missing = ("certificate", "private_key") if settings["tls_certificate"] else ("private_key", "certificate")
    if bool(settings["tls_certificate"]) != bool(settings["tls_private_key"]):
        found.append(f"nginx_tls_{given} is set, but nginx_tls_{missing} is not: set both, or neither for a certificate of our own CA.")
    return [f"{host}: {message}" for message in found]


def limit_groups(settings: Settings) -> list[dict[str, t.Any]]:
    """The clients by equal limits, since a zone of Nginx has one rate for all of its keys."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for client in settings["api_keys"]:
        limits = tuple(int(client.get(name) if client.get(name) is not None else settings[name]) for name in _LIMITS)
        groups.setdefault(limits, []).append(client["name"])
    return [
        {**dict(zip(_LIMITS, limits)), "clients": names, "retry_after": math.ceil(60 / limits[0])} for limits, names in groups.items()
    ]


def subject_alt_names(names: t.Iterable[str]) -> list[str]:
    """The names as a certificate writes them, sorted."""
    return sorted({f"IP:{ipaddress.ip_address(name)}" if _is_address(name) else f"DNS:{name.lower()}" for name in names})


def _client_errors(clients: t.Sequence[Settings]) -> t.Iterator[str]:
    names: set[str] = set()
    owners: dict[str, str] = {}
    for client in clients:
        name = str(client.get("name", ""))
        if not _CLIENT.fullmatch(name) or name in _MAP_WORDS:
            yield (
                f"nginx_api_keys has a client named {name!r}: use up to 63 lower-case letters, digits, '.', '_' and '-', "
                f"and none of the words {', '.join(_MAP_WORDS)}."
            )
        if name in names:
            yield f"nginx_api_keys names the client {name!r} twice: the log could not tell them apart."
        names.add(name)
        key = client.get("key", "")
        yield from _key_errors(f"nginx_api_keys: the key of {name!r}", key)
        other = owners.setdefault(str(key).lower(), name)
        if other != name:
            yield f"nginx_api_keys: {other!r} and {name!r} have the same key, as Nginx compares keys without regard to case."
        yield from _limit_errors(client, f"{name}.")


def _key_errors(what: str, key: t.Any) -> t.Iterator[str]:
    if not _KEY.fullmatch(str(key)):
        yield f"{what} must have 32 to 200 letters, digits or characters of ._~+/=- (it has {len(str(key))} characters)."


def _limit_errors(settings: Settings, prefix: str = "") -> t.Iterator[str]:
    for name, least in _LIMITS.items():
        value = settings.get(name)
        if value is not None and not (str(value).isdecimal() and int(value) >= least):
            yield f"nginx_{'api_keys: ' if prefix else ''}{prefix}{name} is {value!r}, but must be a whole number of at least {least}."


def _route_errors(route: Settings) -> t.Iterator[str]:
    if not _PATH.fullmatch(str(route.get("path", ""))):
        yield f"nginx_routes has the path {route.get('path')!r}: use a plain path such as /v1/models, with a '/' at its end to allow all below it."
    for method in route.get("methods", []) or ["none"]:
        if method not in _METHODS:
            yield f"nginx_routes allows {route.get('path')} the method {method!r}: use {', '.join(_METHODS)}."


def _is_address(name: t.Any) -> bool:
    try:
        ipaddress.ip_address(str(name))
    except ValueError:
        return False
    return True
