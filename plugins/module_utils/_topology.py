# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the inventory to what runs where: catalogue and placement -> plan of a host -> endpoints -> LiteLLM's models.

Everything here expects an inventory in which ``_inventory.inventory_errors`` finds nothing.
"""

from __future__ import annotations

import ipaddress
import posixpath
import typing as t
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._llama import ENGINE_OPTIONS, FILES, preset_options
from ansible_collections.baremetal.llm.plugins.module_utils._model_store import STATE_FILE
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import VLLM_OPTIONS, spread, vllm_gpus, vllm_options

Variables = Mapping[str, t.Any]
HostVariables = Mapping[str, Variables]
Groups = Mapping[str, Sequence[str]]

SERVERS = "inference_servers"
GATEWAYS = "gateways"
MONITORING = "monitoring"
MODEL_ROOT = "/var/lib/llm/models"
# Under this name playbooks/tasks/plan.yml keeps the answer of module vram_plan with each host.
PLAN = "__llm_vram"
SEEN = ("nvml", "ram")
# Of a server over several hosts: where its hosts find each other, where else its processes may listen (the kernel's own range, which
# net.ipv4.ip_local_port_range changes), and what its hosts must agree on.
PART = "-part"  # what follows the name of the service where it is not the head
MASTER_PORT = 29500
NODE_PORTS = "32768-60999"
LEAST = ("context", "parallel", "max_batched_tokens", "kv_cache_memory", "gpu_memory_utilization")
TOKENS_OF_A_PRICE = 1_000_000
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - behind a key, and only where no address of the host is known


class Engine(t.NamedTuple):
    name: str  # in the catalogue
    service: str  # name of its service; with a port of its own a deployment has one of its own, called <service>-<port>
    port: int
    shared: bool  # whether the deployments of a host share that service
    suffixes: tuple[str, ...]  # of the files that it serves
    whole: bool  # whether it takes a hub's repository as it is, so that no file has to be named
    options: frozenset[str]
    files: tuple[str, ...]  # those of its options that name files of the model
    render: Callable[[Variables, Variables, str, Variables], dict[str, t.Any]]


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("llama_router", "llama-router", 8081, True, (".gguf",), False, ENGINE_OPTIONS, FILES, preset_options),
        Engine("vllm", "vllm", 8100, False, (".safetensors", ".gguf"), True, VLLM_OPTIONS, ("chat_template_file",), vllm_options),
    )
}


class Span(t.NamedTuple):
    """The hosts of one server that is larger than a machine; the first is the head, which alone answers requests."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...]
    rank: int  # of this host among them
    port: int  # of the head, at which the hosts find each other; the next one is theirs too


class Deployment(t.NamedTuple):
    """One model on one host, or the part of it there."""

    host: str
    model: str
    engine: Engine
    port: int
    service: str
    entry: Variables  # of the catalogue
    placed: Variables  # of llm_serve
    planned: Variables  # what the ledger decided; empty as long as there is no plan
    span: Span | None = None  # None: the host is enough for it

    @property
    def is_endpoint(self) -> bool:
        return self.span is None or self.span.rank == 0

    @property
    def options(self) -> dict[str, t.Any]:
        return {**self.entry, **self.placed, **self.planned}


def host_plan(
    catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str, root: str = MODEL_ROOT
) -> dict[str, t.Any]:
    """What a host has to have: the models in its store, the engines that serve them, and who may reach those.

    Every entry of ``engines`` has ``engine``, ``service``, ``bind`` and ``port``, and beside these what its task file in playbooks/tasks takes.
    ``parts`` are such entries too: of servers that begin on other hosts, and wait for these parts.
    """
    served = parts(catalogue, hostvars, groups, host)
    _all_are_planned(served, hostvars, host)
    limits = models_max(served, hostvars[host])
    bind = bind_address(hostvars, groups, host)
    engines: dict[str, dict[str, t.Any]] = {}
    for deployment in served:
        shared = {"engine": deployment.engine.name, "service": deployment.service, "bind": bind, "port": deployment.port}
        if deployment.engine.shared:
            router = engines.setdefault(deployment.service, {**shared, "models_max": limits[deployment.service], "models": {}})
            router["models"][deployment.model] = preset(deployment, root)
        else:
            engines[deployment.service] = {**shared, **server(deployment, root)}
    # Threads that are bound to cores get in the way of those of the next engine.
    alone = len(engines) == 1
    names = dict.fromkeys(deployment.model for deployment in served)
    return {
        "models": [store_item(name, served) for name in names],
        "parts": [{**engine, "alone": alone} for engine in engines.values() if engine.get("node_rank")],
        "engines": [{**engine, "alone": alone} for engine in engines.values() if not engine.get("node_rank")],
        "firewall": [
            *guarded(hostvars, groups, host, sorted({deployment.port for deployment in served if deployment.is_endpoint})),
            *among_nodes(served, host, hostvars[host]),
        ],
    }


def guarded(hostvars: HostVariables, groups: Groups, host: str, ports: Sequence[int]) -> list[dict[str, t.Any]]:
    """The rules of role firewall: engines that can be reached from elsewhere answer the gateways and the monitoring alone.

    An address that is only known by name is looked up where the rules are made.
    """
    if bind_address(hostvars, groups, host) == LOOPBACK or not ports:
        return []
    others = [other for group in (GATEWAYS, MONITORING) for other in groups.get(group, []) if other != host]
    sources = {host_address(hostvars[other], other) for other in others} | set(hostvars[host].get("llm_firewall_sources") or [])
    return [{"ports": list(ports), "sources": sorted(sources)}]


def _all_are_planned(served: Sequence[Deployment], hostvars: HostVariables, host: str) -> None:
    """A run with ``--limit`` knows nothing of what the other hosts of a server decided, and would give this one other options."""
    for deployment in served:
        others = [one for one in (deployment.span.hosts if deployment.span else ()) if not hostvars[one].get(PLAN)]
        if others and hostvars[host].get(PLAN):
            raise InputError(f"{deployment.model} runs on {host} and {', '.join(others)} together: run the playbook for all of them.")


def among_nodes(served: Sequence[Deployment], host: str, variables: Variables) -> list[dict[str, t.Any]]:
    """The hosts of one server reach each other, and nobody else does: Gloo, NCCL and vLLM's queues ask for no key.

    They listen where the kernel gives them a port.
    """
    spans = [deployment.span for deployment in served if deployment.span]
    own = [port for span in spans if span.rank == 0 for port in (span.port, span.port + 1)]
    others = sorted({address for span in spans for name, address in zip(span.hosts, span.addresses) if name != host})
    return [{"ports": [*own, variables.get("llm_node_ports", NODE_PORTS)], "sources": others}] if spans else []


def endpoints(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, gateway: str) -> list[dict[str, t.Any]]:
    """Every deployment of every inference server, at the address under which ``gateway`` reaches it."""
    return [
        {
            "model": deployment.model,
            "host": host,
            "port": deployment.port,
            "engine": deployment.engine.name,
            "mode": _mode(deployment.options),
            "url": f"http://{_in_url(address_seen_from(gateway, hostvars, groups, host))}:{deployment.port}",
            "max_input_tokens": _tokens(deployment.options.get("context")),
            "price": deployment.entry.get("price"),
            "heard": PLAN in hostvars[host],  # whether the host has answered in this run
        }
        for host in groups.get(SERVERS, [])
        for deployment in parts(catalogue, hostvars, groups, host)
        if deployment.is_endpoint
    ]


def litellm_models(found: Sequence[Variables], credential: str = "engine") -> list[dict[str, t.Any]]:
    """LiteLLM's ``model_list``: equal names share the load, and every deployment has an id of its own that stays."""
    return [
        {
            "model_name": endpoint["model"],
            "litellm_params": {
                "model": f"{_provider(endpoint)}/{endpoint['model']}",
                "api_base": f"{endpoint['url']}/v1",
                "litellm_credential_name": credential,
                **_costs(endpoint.get("price")),
            },
            "model_info": {
                "id": f"{endpoint['model']}@{endpoint['host']}:{endpoint['port']}",
                "mode": endpoint["mode"],
                **({"max_input_tokens": endpoint["max_input_tokens"]} if endpoint["max_input_tokens"] else {}),
            },
        }
        for endpoint in found
    ]


def _costs(price: Variables | None) -> dict[str, float]:
    """What LiteLLM counts of each token. It takes an unknown model for free."""
    return {f"{kind}_cost_per_token": price[kind] / TOKENS_OF_A_PRICE for kind in ("input", "output")} if price else {}


def parts(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str, decided: bool = True) -> list[Deployment]:
    """What runs on a host: its parts of servers that begin on others, and what ``llm_serve`` places on it."""
    found = []
    for head in [*(other for other in groups.get(SERVERS, []) if other != host), host]:
        port = MASTER_PORT
        for deployment in deployments(catalogue, head, hostvars[head], decided):
            hosts = (head, *(deployment.placed.get("hosts") or ()))
            if len(hosts) == 1:
                found += [deployment] if head == host else []
                continue
            if host in hosts:
                addresses = tuple(host_address(hostvars[one], one) for one in hosts)
                part = _part(deployment, Span(hosts, addresses, hosts.index(host), port))
                found.append(part._replace(planned=_agreed(part, hostvars)) if decided else part)
            port += 2
    return found


def _part(deployment: Deployment, span: Span) -> Deployment:
    """The part of a deployment on one of its hosts. All parts have the same options."""
    options = {**deployment.entry, **deployment.placed}
    return deployment._replace(
        host=span.hosts[span.rank],
        service=_service_of(deployment.service, span.rank),
        placed={**spread(options, len(span.hosts)), **deployment.placed},
        span=span,
    )


def _agreed(part: Deployment, hostvars: HostVariables) -> Variables:
    """What the ledgers of all hosts of one server decided: the GPUs of each are its own, of the figures the least counts."""
    span = t.cast(Span, part.span)
    service = part.service.removesuffix(PART)
    plans = [_planned(hostvars[host]).get((_service_of(service, rank), part.model)) for rank, host in enumerate(span.hosts)]
    if not all(plans):
        return {}
    known = t.cast("list[Variables]", plans)
    return {**known[span.rank], **{word: min(plan[word] for plan in known) for word in LEAST if all(word in plan for plan in known)}}


def _service_of(service: str, rank: int) -> str:
    return f"{service}{PART}" if rank else service


def deployments(catalogue: HostVariables, host: str, variables: Variables, decided: bool = True) -> list[Deployment]:
    """What ``llm_serve`` places on a host, with or without what the ledger decided. A port of its own means a service of its own."""
    found = []
    planned = _planned(variables) if decided else {}
    for placed in variables.get("llm_serve") or []:
        entry = catalogue.get(placed["model"])
        engine = ENGINES.get(entry.get("engine", "")) if entry else None
        if entry is None or engine is None:
            raise InputError(f"{host} cannot serve {placed['model']}: playbooks/preflight.yml says what is wrong.")
        port = placed.get("port", engine.port)
        service = f"{engine.service}-{port}" if "port" in placed else engine.service
        found.append(Deployment(host, placed["model"], engine, port, service, entry, placed, planned.get((service, placed["model"]), {})))
    return found


def _planned(variables: Variables) -> dict[tuple[str, str], Variables]:
    """The options that the ledger decided, by service and model.

    An engine is told nothing of a plan for GPUs that nobody has seen yet, nor of one that does not fit: it tries to fit by itself then.
    """
    plan = (variables.get(PLAN) or {}).get("plan") or {}
    holds = plan.get("source") in SEEN and plan["fits"]
    return {(one["service"], one["model"]): one["options"] for one in plan["deployments"]} if holds else {}


def models_max(served: Sequence[Deployment], variables: Variables) -> dict[str, int]:
    """How many models each router holds at once: all of its own, unless the host's ``llm_models_max`` says otherwise of the shared one."""
    services = [deployment.service for deployment in served if deployment.engine.shared]
    return {
        service: variables.get("llm_models_max", services.count(service)) if is_shared(service) else services.count(service)
        for service in dict.fromkeys(services)
    }


def is_shared(service: str) -> bool:
    return any(service == engine.service and engine.shared for engine in ENGINES.values())


def preset(deployment: Deployment, root: str = MODEL_ROOT) -> dict[str, str]:
    """The options of a deployment as its engine reads them. Of a split model the engine is given the first file."""
    directory = posixpath.join(root, deployment.model)
    options = deployment.engine.render(deployment.entry, deployment.placed, directory, deployment.planned)
    weights = sorted(weight_files(deployment.engine, deployment.options))
    return {"model": posixpath.join(directory, weights[0]), **options}


def server(deployment: Deployment, root: str = MODEL_ROOT) -> dict[str, t.Any]:
    """What a service of its own serves. A GGUF is a file, any other model a directory; whatever changes in it is written down in one place."""
    directory = posixpath.join(root, deployment.model)
    weights = sorted(path for path in weight_files(deployment.engine, deployment.options) if path.endswith(".gguf"))
    layers = (deployment.entry, deployment.placed)
    return {
        "model": deployment.model,
        "path": posixpath.join(directory, weights[0]) if weights else directory,
        "inputs": [posixpath.join(directory, STATE_FILE)],
        "config": deployment.engine.render(*layers, directory, deployment.planned),
        "gpus": vllm_gpus(*layers, deployment.planned) or [],
        "nodes": list(deployment.span.addresses) if deployment.span else [],
        "node_rank": deployment.span.rank if deployment.span else 0,
        "master_port": deployment.span.port if deployment.span else MASTER_PORT,
    }


def store_item(name: str, served: Sequence[Deployment]) -> dict[str, t.Any]:
    """A model as the role model_store takes it, with the files that any of its deployments needs."""
    mine = [deployment for deployment in served if deployment.model == name]
    files = {file["path"]: file for deployment in mine for file in model_files(deployment.options, deployment.engine.files)}
    entry = mine[0].entry
    return {
        "name": name,
        "source": entry["source"],
        "revision": entry.get("revision", ""),
        "files": list(files.values()),
    }


def model_files(entry: Variables, options: Sequence[str] = FILES) -> list[dict[str, str]]:
    """The files of a model: those that are listed, or the one that the source is, and those that ``options`` name.

    None: all that an engine needs of a hub's repository.
    """
    listed = [dict(path=file) if isinstance(file, str) else dict(file) for file in entry.get("files") or []]
    if not listed and not entry["source"].startswith("hf:") and not entry["source"].endswith("/"):
        listed = [{"path": posixpath.basename(unquote(urlsplit(entry["source"]).path))}]
    if len(listed) == 1 and entry.get("sha256"):
        listed[0]["sha256"] = entry["sha256"]
    paths = [file["path"] for file in listed]
    if not listed:
        return []
    named = [entry[option] for option in options if entry.get(option)]
    listed += [{"path": path} for path in dict.fromkeys(named) if path not in paths and not posixpath.isabs(path)]
    return [{"path": file["path"], "sha256": file.get("sha256") or ""} for file in listed]


def weight_files(engine: Engine, entry: Variables) -> list[str]:
    paths = [file["path"] for file in model_files(entry, engine.files)]
    return [path for path in paths if path.endswith(engine.suffixes) and path != entry.get("mmproj")]


def bind_address(hostvars: HostVariables, groups: Groups, host: str) -> str:
    """Where the engines of a host listen: loopback, unless a gateway on another machine has to reach them.

    Then the host's own address, if the inventory says it as an IP; a name may resolve to anything on the host itself,
    so a host that is only known by name listens everywhere.
    """
    if all(gateway == host for gateway in groups.get(GATEWAYS, [])):
        return LOOPBACK
    address = host_address(hostvars[host], host)
    return address if parse_ip(address) else EVERYWHERE


def address_seen_from(gateway: str, hostvars: HostVariables, groups: Groups, host: str) -> str:
    if gateway == host and bind_address(hostvars, groups, host) in (LOOPBACK, EVERYWHERE):
        return LOOPBACK
    return host_address(hostvars[host], host)


def host_address(variables: Variables, host: str) -> str:
    """The name or address under which other machines reach a host."""
    return str(variables.get("llm_address") or variables.get("ansible_host") or host)


def parse_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _provider(endpoint: Variables) -> str:
    """LiteLLM's word for an engine that speaks OpenAI's language, which has no word for reranking."""
    return "hosted_vllm" if endpoint["mode"] == "rerank" else "openai"


def _mode(options: Variables) -> str:
    if options.get("embeddings"):
        return "embedding"
    return "rerank" if options.get("reranking") else "chat"


def _tokens(context: t.Any) -> int | None:
    return context if isinstance(context, int) else None
