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
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")

Settings = t.Mapping[str, t.Any]


def errors(settings: Settings, host: str) -> list[str]:
    """One sentence for everything in the role's inputs (``settings``, without their prefix) that cannot work."""
    found = [
        *_client_errors(settings["api_keys"]),
        *_limit_errors(settings),
        *(_key_errors("nginx_backend_key", settings["backend_key"]) if settings["backend_key"] else ()),
        *(message for key in settings["refused_keys"] for message in _key_errors("nginx_refused_keys: each", key)),
        *_admin_errors(settings["admin_names"], settings["admin_sources"], settings["server_names"]),
        *_acme_errors(settings),
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
            *((("api_keys", "list at least one client, or nobody can use the front door"),) if not settings["unlisted_keys"] else ()),
            ("server_names", "list the names and addresses that clients use"),
            ("backends", "list at least one host:port"),
        )
        if not settings[name]
    ]
    if settings["unlisted_keys"] and settings["backend_key"]:
        found.append(
            "nginx_unlisted_keys is true, but nginx_backend_key is set: Nginx would vouch for keys that nobody has checked. "
            "Leave nginx_backend_key empty, so that LiteLLM gets the client's own key and checks it."
        )
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
    return [{**dict(zip(_LIMITS, limits)), "clients": names, "retry_after": math.ceil(60 / limits[0])} for limits, names in groups.items()]


def key_errors(api_keys: t.Sequence[Settings], limits: Settings, host: str) -> list[str]:
    """What is wrong with the clients alone, for a run that changes nothing else."""
    return [f"{host}: {message}" for message in (*_client_errors(api_keys), *_limit_errors(limits))]


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
        for which in ("key", "previous_key"):
            key = client.get(which, "")
            if which == "previous_key" and not key:
                continue
            yield from _key_errors(f"nginx_api_keys: the {which} of {name!r}", key)
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


def _admin_errors(names: t.Sequence[t.Any], sources: t.Sequence[t.Any], server_names: t.Sequence[t.Any]) -> t.Iterator[str]:
    if bool(names) != bool(sources):
        given, missing = ("names", "sources") if names else ("sources", "names")
        yield f"nginx_admin_{given} is set, but nginx_admin_{missing} is empty: LiteLLM's administration needs a name of its own and a range of addresses."
    clients = {str(name).lower() for name in server_names}
    for name in names:
        if _is_address(name) or not _DNS_NAME.fullmatch(str(name)):
            yield f"nginx_admin_names contains {name!r}: use a DNS name, because an address does not tell it from the clients' door."
        elif str(name).lower() in clients:
            yield f"nginx_admin_names contains {name!r}, which is in nginx_server_names too: give the administration a name that clients do not use."
    for source in sources:
        if not _is_network(source):
            yield f"nginx_admin_sources contains {source!r}: write an address or a range such as 10.0.5.0/24."
        elif str(source).endswith("/0"):
            yield f"nginx_admin_sources contains {source}, which is everybody: name the range of the administrators."


def _acme_errors(settings: Settings) -> t.Iterator[str]:
    acme = settings["acme"]
    if not acme:
        return
    if settings["tls_certificate"]:
        yield "nginx_acme and nginx_tls_certificate are both set: take one of them."
    if not _ADDRESS.fullmatch(str(acme.get("email", ""))):
        yield f"nginx_acme.email is {acme.get('email', '')!r}: the authority wants an address that it can write to."
    if not str(acme.get("server", "https://")).startswith("https://"):
        yield f"nginx_acme.server is {acme['server']!r}: write the address of the authority's directory, which begins with https://."
    if "webroot" in acme and "port" in acme:
        yield "nginx_acme has both webroot and port: with webroot, the web server that has it answers, on its own port."
    for name in (*settings["server_names"], *settings["admin_names"]):
        if _is_address(name) or "." not in str(name):
            yield f"nginx_server_names contains {name!r}, but an authority certifies public DNS names only: leave it out, or nginx_acme."


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


def _is_network(name: t.Any) -> bool:
    try:
        ipaddress.ip_network(str(name))
    except ValueError:
        return False
    return True
