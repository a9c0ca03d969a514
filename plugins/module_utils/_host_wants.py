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
from ansible_collections.baremetal.llm.plugins.module_utils._topology import (
    GATEWAYS,
    MODEL_ROOT,
    SERVERS,
    Deployment,
    Groups,
    HostVariables,
    Variables,
    deployments,
)

# LiteLLM alone keeps 340 MiB resident with a small model list, and Nginx and the system want their part.
GATEWAY_RAM = 2**30


def host_wants(catalogue: HostVariables, hostvars: HostVariables, groups: Groups, host: str) -> dict[str, t.Any]:
    """What the inventory wants of a host, whatever groups it is in.

    Returns ``engines`` (name, method, backend), ``gpus`` (indices), ``disk`` (path, bytes), ``ports`` (port, unit) and ``ram`` (bytes).
    """
    variables = hostvars[host]
    served = deployments(catalogue, host, variables) if host in groups.get(SERVERS, []) else []
    ports = {deployment.port: f"llm-{deployment.service}" for deployment in served}
    if host in groups.get(GATEWAYS, []):
        ports |= {_port(variables, "nginx_port", 443): "llm-nginx", _port(variables, "litellm_port", 4000): "llm-litellm"}
    return {
        "engines": [_engine(name, variables) for name in dict.fromkeys(deployment.entry["engine"] for deployment in served)],
        "gpus": sorted({gpu for deployment in served for gpu in deployment.options.get("gpus") or []}),
        "disk": _disk(served, variables),
        "ports": [{"port": port, "unit": unit} for port, unit in ports.items()],
        "ram": GATEWAY_RAM if host in groups.get(GATEWAYS, []) else 0,
    }


def _engine(name: str, variables: Variables) -> dict[str, str]:
    """How the host's own variables install an engine; what they do not say is the engine's usual way."""
    return {"name": name, "method": variables.get(f"{name}_method", ""), "backend": variables.get(f"{name}_backend", "auto")}


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
