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

Variables = Mapping[str, t.Any]
HostVariables = Mapping[str, Variables]
Groups = Mapping[str, Sequence[str]]

SERVERS = "inference_servers"
GATEWAYS = "gateways"
MODEL_ROOT = "/var/lib/llm/models"
# Under this name playbooks/tasks/plan.yml keeps the answer of module vram_plan with each host.
PLAN = "__llm_vram"
SEEN = ("nvml", "ram")
LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - behind a key, and only where no address of the host is known


class Engine(t.NamedTuple):
    service: str  # name of the service that all deployments of a host share
    port: int  # and its port
    suffix: str  # of the files that it serves
    options: frozenset[str]
    render: Callable[[Variables, Variables, str, Variables], dict[str, str]]


ENGINES = {"llama_router": Engine("llama-router", 8081, ".gguf", ENGINE_OPTIONS, preset_options)}


class Deployment(t.NamedTuple):
    """One model on one host."""

    host: str
    model: str
    engine: Engine
    port: int
    service: str
    entry: Variables  # of the catalogue
    placed: Variables  # of llm_serve
    planned: Variables  # what the ledger decided; empty as long as there is no plan

    @property
    def options(self) -> dict[str, t.Any]:
        return {**self.entry, **self.placed, **self.planned}


def host_plan(
    catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str, root: str = MODEL_ROOT
) -> dict[str, t.Any]:
    """What a host has to have: the models in its store and the routers that serve them."""
    served = deployments(catalogue, host, hostvars[host])
    limits = models_max(served, hostvars[host])
    routers: dict[str, dict[str, t.Any]] = {}
    for deployment in served:
        router = routers.setdefault(
            deployment.service,
            {
                "service": deployment.service,
                "bind": bind_address(hostvars, groups, host),
                "port": deployment.port,
                "models_max": limits[deployment.service],
                "models": {},
            },
        )
        router["models"][deployment.model] = preset(deployment, root)
    names = dict.fromkeys(deployment.model for deployment in served)
    return {"models": [store_item(name, served) for name in names], "routers": list(routers.values())}


def endpoints(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, gateway: str) -> list[dict[str, t.Any]]:
    """Every deployment of every inference server, at the address under which ``gateway`` reaches it."""
    return [
        {
            "model": deployment.model,
            "host": host,
            "port": deployment.port,
            "engine": deployment.entry["engine"],
            "mode": _mode(deployment.options),
            "url": f"http://{_in_url(address_seen_from(gateway, hostvars, groups, host))}:{deployment.port}",
            "max_input_tokens": _tokens(deployment.options.get("context")),
        }
        for host in groups.get(SERVERS, [])
        for deployment in deployments(catalogue, host, hostvars[host])
    ]


def litellm_models(found: Sequence[Variables], credential: str = "engine") -> list[dict[str, t.Any]]:
    """LiteLLM's ``model_list``: equal names share the load, and every deployment has an id of its own that stays."""
    return [
        {
            "model_name": endpoint["model"],
            "litellm_params": {
                "model": f"openai/{endpoint['model']}",
                "api_base": f"{endpoint['url']}/v1",
                "litellm_credential_name": credential,
            },
            "model_info": {
                "id": f"{endpoint['model']}@{endpoint['host']}:{endpoint['port']}",
                "mode": endpoint["mode"],
                **({"max_input_tokens": endpoint["max_input_tokens"]} if endpoint["max_input_tokens"] else {}),
            },
        }
        for endpoint in found
    ]


def deployments(catalogue: HostVariables, host: str, variables: Variables, decided: bool = True) -> list[Deployment]:
    """What ``llm_serve`` places on a host, with or without what the ledger decided. A port of its own means a router of its own."""
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
    services = [deployment.service for deployment in served]
    return {
        service: variables.get("llm_models_max", services.count(service)) if is_shared(service) else services.count(service)
        for service in dict.fromkeys(services)
    }


def is_shared(service: str) -> bool:
    return any(service == engine.service for engine in ENGINES.values())


def preset(deployment: Deployment, root: str = MODEL_ROOT) -> dict[str, str]:
    """The options of a deployment as its engine reads them. Of a split model the engine is given the first file."""
    directory = posixpath.join(root, deployment.model)
    options = deployment.engine.render(deployment.entry, deployment.placed, directory, deployment.planned)
    weights = sorted(weight_files(deployment.engine, deployment.options))
    return {"model": posixpath.join(directory, weights[0]), **options}


def store_item(name: str, served: Sequence[Deployment]) -> dict[str, t.Any]:
    """A model as the role model_store takes it, with the files that any of its deployments needs."""
    mine = [deployment for deployment in served if deployment.model == name]
    files = {file["path"]: file for deployment in mine for file in model_files(deployment.options)}
    entry = mine[0].entry
    return {
        "name": name,
        "source": entry["source"],
        "revision": entry.get("revision", ""),
        "files": list(files.values()),
    }


def model_files(entry: Variables) -> list[dict[str, str]]:
    """The files of a model: those that are listed, or the one that the source is, and those that options name."""
    listed = [dict(path=file) if isinstance(file, str) else dict(file) for file in entry.get("files") or []]
    if not listed and not entry["source"].startswith("hf:") and not entry["source"].endswith("/"):
        listed = [{"path": posixpath.basename(unquote(urlsplit(entry["source"]).path))}]
    if len(listed) == 1 and entry.get("sha256"):
        listed[0]["sha256"] = entry["sha256"]
    paths = [file["path"] for file in listed]
    named = [entry[option] for option in FILES if entry.get(option)]
    listed += [{"path": path} for path in dict.fromkeys(named) if path not in paths and not posixpath.isabs(path)]
    return [{"path": file["path"], "sha256": file.get("sha256") or ""} for file in listed]


def weight_files(engine: Engine, entry: Variables) -> list[str]:
    paths = [file["path"] for file in model_files(entry)]
    return [path for path in paths if path.endswith(engine.suffix) and path != entry.get("mmproj")]


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


def _mode(options: Variables) -> str:
    if options.get("embeddings"):
        return "embedding"
    return "rerank" if options.get("reranking") else "chat"


def _tokens(context: t.Any) -> int | None:
    return context if isinstance(context, int) else None
