# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the inventory to what it wants of a host: the inputs of role preflight, without their prefix.

Expects an inventory in which ``_inventory.inventory_errors`` finds nothing. Asks no network: a file counts with the ``size`` (bytes) that
its entry in the catalogue has, and with nothing if it has none.
"""

from __future__ import annotations

import posixpath
import typing as t
from collections.abc import Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._llama import PLACEMENT
from ansible_collections.baremetal.llm.plugins.module_utils._topology import (
    GATEWAYS,
    MODEL_ROOT,
    SERVERS,
    Deployment,
    Groups,
    HostVariables,
    Variables,
    model_files,
    models_max,
    parts,
)

# Each of LiteLLM's two processes keeps 340 MiB resident with a small model list, and Nginx and the system want their part.
GATEWAY_RAM = 3 * 2**29


def host_wants(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str) -> dict[str, t.Any]:
    """What the inventory wants of a host, whatever groups it is in.

    Returns ``engines`` (name, method, backend), ``gpus`` (indices), ``disk`` (path, bytes), ``ports`` (port, unit) and ``ram`` (bytes).
    """
    variables = hostvars[host]
    served = parts(catalogue, hostvars, groups, host) if host in groups.get(SERVERS, []) else []
    ports = {port: f"llm-{deployment.service}" for deployment in served for port in _ports(deployment)}
    if host in groups.get(GATEWAYS, []):
        ports |= {_port(variables, "nginx_port", 443): "llm-nginx", _port(variables, "litellm_port", 4000): "llm-litellm"}
        if variables.get("litellm_standby", True):
            ports[_port(variables, "litellm_standby_port", 4001)] = "llm-litellm-standby"
    return {
        "engines": [_engine(name, variables) for name in dict.fromkeys(deployment.entry["engine"] for deployment in served)],
        "gpus": sorted({gpu for deployment in served for gpu in deployment.options.get("gpus") or []}),
        "disk": _disk(served, variables),
        "ports": [{"port": port, "unit": unit} for port, unit in ports.items()],
        "ram": GATEWAY_RAM if host in groups.get(GATEWAYS, []) else 0,
    }


def vram_wants(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str) -> dict[str, t.Any]:
    """What the inventory wants to be planned on a host, as module vram_plan takes it.

    Returns ``deployments``, ``models_max`` and ``budgets``: those of the inventory, and the gateway's part of main memory.
    """
    variables = hostvars[host]
    # The options as the user wrote them: what an earlier plan decided is no input of this one.
    served = parts(catalogue, hostvars, groups, host, decided=False) if host in groups.get(SERVERS, []) else []
    gateway = [{"name": "gateway", "memory": GATEWAY_RAM // 2**20}] if host in groups.get(GATEWAYS, []) else []
    return {
        "deployments": [
            {
                "model": deployment.model,
                "engine": deployment.entry["engine"],
                "service": deployment.service,
                "source": deployment.entry["source"],
                "revision": deployment.entry.get("revision", ""),
                "files": _described(deployment),
                "options": {key: value for key, value in deployment.options.items() if key not in PLACEMENT},
            }
            for deployment in served
        ],
        "models_max": models_max(served, variables),
        "budgets": [*(variables.get("llm_vram_budgets") or []), *gateway],
    }


def _ports(deployment: Deployment) -> list[int]:
    """Where it listens as a server, and where its other hosts find it."""
    if not deployment.is_endpoint:
        return []
    return [deployment.port, *((deployment.span.port, deployment.span.port + 1) if deployment.span else ())]


def _described(deployment: Deployment) -> list[str]:
    """The files that tell the shape of a model: its weights, and its projector."""
    files = [file["path"] for file in model_files(deployment.options)]
    return [path for path in files if path.endswith((".gguf", ".safetensors", ".json"))]


def _engine(name: str, variables: Variables) -> dict[str, str]:
    """How the host's own variables install an engine; what they do not say is the engine's usual way."""
    contained = variables.get(f"{name}_deployment", variables.get("llm_deployment", "native")) == "container"
    return {"name": name, "method": "container" if contained else variables.get(f"{name}_method", ""), "backend": variables.get(f"{name}_backend", "auto")}


def _disk(served: Sequence[Deployment], variables: Variables) -> list[dict[str, t.Any]]:
    root = variables.get("model_store_dir", MODEL_ROOT)
    sizes: dict[str, dict[str, int]] = {}
    for deployment in served:
        sizes.setdefault(deployment.model, {}).update(_sizes(deployment.options))
    return [{"path": posixpath.join(root, model), "bytes": sum(files.values())} for model, files in sizes.items()]


def _sizes(entry: Variables) -> dict[str, int]:
    return {file["path"]: int(file["size"]) for file in entry.get("files") or [] if isinstance(file, Mapping) and file.get("size")}


def _port(variables: Variables, name: str, default: int) -> int:
    value = variables.get(name, default)
    if isinstance(value, bool) or not str(value).isdecimal():
        raise InputError(f"{name} is {value!r}: it must be a port number from 1 to 65535.")
    return int(value)
