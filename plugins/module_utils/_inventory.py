# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with an inventory: every error at once, each a sentence with the variable, the value, the host and the remedy."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterator, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_errors import keys_errors, shared_database_errors
from ansible_collections.baremetal.llm.plugins.module_utils._routes import route_errors
from ansible_collections.baremetal.llm.plugins.module_utils._span_errors import part_errors, span_errors
from ansible_collections.baremetal.llm.plugins.module_utils._topology import (
    ENGINES,
    GATEWAYS,
    SERVERS,
    Engine,
    Groups,
    HostVariables,
    Variables,
    endpoints,
    host_address,
    model_files,
    parse_ip,
    weight_files,
)
from ansible_collections.baremetal.llm.plugins.module_utils._virtual_address import gateway_errors
from ansible_collections.baremetal.llm.plugins.module_utils._words import one_of

CATALOGUE_KEYS = frozenset({"source", "revision", "files", "sha256", "engine", "price"})
PLACEMENT_KEYS = frozenset({"model", "gpus", "hosts", "port"})
VRAM_POLICIES = ("enforce", "warn")
MINIMAL_KEY_LENGTH = 32
KNOWN_KEYS = frozenset({"sk-1234", "sk-local-prod"})
_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(hf:[^/\s]+/[^/\s]+|https?://\S+|file:/\S+)")


def inventory_errors(catalogue: HostVariables, hostvars: HostVariables, groups: Groups) -> list[str]:
    """Everything that would stop or mislead a run, in the order in which the inventory says it."""
    found = list(_catalogue_errors(catalogue))
    broken = {name for name in catalogue if any(True for _error in _model_errors(name, catalogue[name]))}
    placed = 0
    for host in groups.get(SERVERS, []):
        serve = hostvars[host].get("llm_serve") or []
        placed += len(serve)
        found += _placement_errors(catalogue, broken, hostvars, groups, host)
        found += _port_errors(catalogue, hostvars, groups, host, serve)
        if not isinstance(drain := hostvars[host].get("llm_drain", False), bool):
            found.append(f"llm_drain of {host} is {drain!r}: it must be true or false.")
        policy = hostvars[host].get("llm_vram_policy", "enforce")
        if policy not in VRAM_POLICIES:
            found.append(f"llm_vram_policy of {host} is {policy!r}: {one_of(policy, VRAM_POLICIES)}.")
    found += _address_errors(hostvars, groups)
    if groups.get(GATEWAYS) and not placed:
        found.append("No host of inference_servers has an llm_serve: place at least one model of llm_models on one of them.")
    for host in groups.get(GATEWAYS, []):
        found += keys_errors(host, hostvars[host], catalogue)
        found += _gateway_errors(host, hostvars[host])
    found += shared_database_errors(hostvars, groups.get(GATEWAYS, []))
    found += gateway_errors(hostvars, groups.get(GATEWAYS, []))
    if not found:
        found += part_errors(catalogue, hostvars, groups)
    if not found:  # what follows derives from an inventory that makes sense
        for host in groups.get(GATEWAYS, []):
            found += route_errors(hostvars[host].get("llm_routes") or {}, endpoints(catalogue, hostvars, groups, host), planned=False)
    return list(dict.fromkeys(found))


def _catalogue_errors(catalogue: HostVariables) -> Iterator[str]:
    for name, entry in catalogue.items():
        yield from _model_errors(name, entry)


def _model_errors(name: str, entry: t.Any) -> Iterator[str]:
    where = f"llm_models.{name}"
    if not _MODEL_ID.fullmatch(str(name)):
        yield f"{where}: {name!r} is no model id: use at most 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit."
    if not isinstance(entry, Mapping):
        yield f"{where} is {entry!r}: it must be a mapping with at least source and engine."
        return
    engine = ENGINES.get(entry.get("engine", ""))
    if engine is None:
        yield f"{where}.engine is {entry.get('engine')!r}: {one_of(entry.get('engine'), ENGINES)}."
    elif unknown := set(entry) - CATALOGUE_KEYS - engine.options:
        for key in sorted(unknown):
            yield f"{where}.{key} is not an option: {one_of(key, CATALOGUE_KEYS | engine.options, listed=False)}; what only the engine knows goes into extra."
    yield from _price_errors(where, entry.get("price"))
    source = entry.get("source")
    if not isinstance(source, str) or not _SOURCE.fullmatch(source):
        yield f"{where}.source is {source!r}: it must be hf:<owner>/<repository>, https://<address> or file:/<path on the host>."
    else:
        yield from _file_errors(where, entry, engine)


def _price_errors(where: str, price: t.Any) -> Iterator[str]:
    if price is None:
        return
    amounts = list(price.values()) if isinstance(price, Mapping) and set(price) == {"input", "output"} else [None]
    if not all(isinstance(amount, (int, float)) and not isinstance(amount, bool) and amount >= 0 for amount in amounts):
        yield f"{where}.price is {price!r}: it must be what a million tokens cost, such as {{input: 0.5, output: 1.5}}."


def _file_errors(where: str, entry: Variables, engine: Engine | None) -> Iterator[str]:
    if entry["source"].startswith("hf:") and not entry.get("files"):
        if engine and engine.whole:
            return
        yield f"{where}.files is empty: a hub repository holds many files, name the ones to fetch."
        return
    if not isinstance(entry.get("files", []), list) or not all(isinstance(file, (str, Mapping)) for file in entry.get("files", [])):
        yield f"{where}.files is {entry['files']!r}: it must be a list of file names or of mappings with path and sha256."
        return
    for file in model_files(entry, engine.files if engine else ()):
        if file["path"].startswith("/") or ".." in file["path"].split("/") or not file["path"]:
            yield f"{where}.files: {file['path']!r} leaves the model's directory: name files relative to the source."
        if file["sha256"] and not _SHA256.fullmatch(file["sha256"]):
            yield f"{where}: sha256 of {file['path']} is {file['sha256']!r}: it must be 64 lower-case hexadecimal digits."
    if engine and not weight_files(engine, entry):
        yield f"{where} has no {' or '.join(engine.suffixes)} file, which is what engine {engine.name} serves: name one in files."


def _placement_errors(
    catalogue: HostVariables, broken: t.Container[str], hostvars: HostVariables, groups: Groups, host: str
) -> Iterator[str]:
    serve = hostvars[host].get("llm_serve") or []
    if not isinstance(serve, list) or not all(isinstance(placed, Mapping) for placed in serve):
        yield f"llm_serve of {host} is {serve!r}: it must be a list of mappings, such as [{{model: chat, gpus: [0]}}]."
        return
    for placed in serve:
        name = placed.get("model")
        where = f"llm_serve of {host}: {name}"
        if name not in catalogue:
            yield f"llm_serve of {host} places the model {name!r}, which is not in llm_models: {one_of(name, catalogue)}."
            continue
        if name in broken:
            continue
        entry = catalogue[name]
        engine = ENGINES[entry["engine"]]
        if unknown := set(placed) - PLACEMENT_KEYS - engine.options:
            for key in sorted(unknown):
                yield f"{where} has the unknown option {key!r}: {one_of(key, PLACEMENT_KEYS | engine.options, listed=False)}."
            continue
        gpus = placed.get("gpus", [])
        if not isinstance(gpus, list) or not all(_whole(gpu) and gpu >= 0 for gpu in gpus) or len(set(gpus)) != len(gpus):
            yield f"{where} has gpus {gpus!r}: it must be a list of different GPU numbers, such as [0, 1]."
            continue
        if "hosts" in placed and (wrong := list(span_errors(entry, placed, hostvars, groups, host))):
            yield from wrong
            continue
        try:
            engine.render(entry, placed, "/", {})
        except LLMError as exc:
            yield f"{where}: {exc}"


def _port_errors(
    catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str, serve: t.Any
) -> Iterator[str]:
    """Two things on one port, and one model twice on one router."""
    taken: dict[int, str] = {}
    if host in groups.get(GATEWAYS, []):
        taken[_port(hostvars[host].get("nginx_port", 443))] = "nginx (nginx_port)"
        taken[_port(hostvars[host].get("litellm_port", 4000))] = "LiteLLM (litellm_port)"
        if hostvars[host].get("litellm_standby", True):
            taken[_port(hostvars[host].get("litellm_standby_port", 4001))] = "LiteLLM (litellm_standby_port)"
    shared: dict[int, set[str]] = {}
    for placed in serve if isinstance(serve, list) else []:
        entry = catalogue.get(placed.get("model", ""), {}) if isinstance(placed, Mapping) else {}
        engine = ENGINES.get(entry.get("engine", "")) if isinstance(entry, Mapping) else None
        if engine is None:
            continue
        own, name = "port" in placed or not engine.shared, placed["model"]
        port = _port(placed.get("port", engine.port))
        if not 1 <= port <= 65535:
            yield f"llm_serve of {host}: {name} has port {placed['port']!r}: it must be a number from 1 to 65535."
            continue
        if not own and name in shared.setdefault(port, set()):
            yield f"llm_serve of {host} places {name} twice on port {port}: remove one, or raise its parallel."
        elif port in taken and (own or taken[port] != engine.service):
            yield f"llm_serve of {host}: port {port} of {name} is already taken by {taken[port]}: give {name} another port, such as {_free(port, taken)}."
        taken[port] = f"{name}" if own else engine.service
        if not own:
            shared[port].add(name)


def _free(port: int, taken: t.Container[int]) -> int:
    while port in taken:
        port += 1
    return port


def _address_errors(hostvars: HostVariables, groups: Groups) -> Iterator[str]:
    """Two servers behind one address would be one server that gets the requests of both."""
    known: dict[str, str] = {}
    for host in dict.fromkeys(host for group in (SERVERS, GATEWAYS) for host in groups.get(group, [])):
        address = host_address(hostvars[host], host)
        if address in known and not _is_local(address):
            yield f"{host} and {known[address]} have the same address, {address}: correct llm_address or ansible_host of one of them."
        known.setdefault(address, host)


def _is_local(address: str) -> bool:
    """Of itself a host may say so, but then nobody else reaches it."""
    found = parse_ip(address)
    return address == "localhost" or bool(found and found.is_loopback)


def _gateway_errors(host: str, variables: Variables) -> Iterator[str]:
    key = variables.get("llm_master_key")
    if key is not None and (len(str(key)) < MINIMAL_KEY_LENGTH or key in KNOWN_KEYS):
        yield (
            f"llm_master_key of {host} has {len(str(key))} characters: it guards every model, give it at least {MINIMAL_KEY_LENGTH} random"
            " ones, or leave it out, and one is made."
        )
    certificate, private_key = variables.get("nginx_tls_certificate"), variables.get("nginx_tls_private_key")
    if bool(certificate) != bool(private_key):
        given, missing = ("nginx_tls_certificate", "nginx_tls_private_key")[:: 1 if certificate else -1]
        yield f"{given} of {host} is set but {missing} is not: set both, or neither, and a certificate is made."


def _whole(value: t.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _port(value: t.Any) -> int:
    return int(value) if _whole(value) or (isinstance(value, str) and value.isdigit()) else 0
