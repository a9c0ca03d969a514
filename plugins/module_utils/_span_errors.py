# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with a server over several hosts: ``hosts`` of a placement in ``llm_serve``."""

from __future__ import annotations

import difflib
import typing as t
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._topology import (
    SERVERS,
    Groups,
    HostVariables,
    Variables,
    host_address,
    parse_ip,
    parts,
)
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import spread


def span_errors(entry: Variables, placed: Variables, hostvars: HostVariables, groups: Groups, host: str) -> Iterator[str]:
    """Of a placement that names ``hosts``, and is right otherwise."""
    further = placed["hosts"]
    where = f"llm_serve of {host}: {placed['model']}"
    if entry["engine"] != "vllm":
        yield f"{where} has hosts, but the engine {entry['engine']} runs on one host: use the engine vllm, or place the model on each host by itself."
        return
    if not isinstance(further, list) or not further or not all(isinstance(one, str) for one in further):
        yield f"{where} has hosts {further!r}: it must be a list of further inference servers, such as [gpu02]."
        return
    hosts = [host, *further]
    if len(set(hosts)) != len(hosts):
        yield f"{where} has hosts {further!r}: name each further host once, and not {host} itself, which is the head."
        return
    strangers = [one for one in further if one not in groups.get(SERVERS, [])]
    for one in strangers:
        near = difflib.get_close_matches(one, [other for other in groups.get(SERVERS, []) if other != host], 1)
        known = "it is in the inventory, but not there" if one in hostvars else f"did you mean {near[0]}?" if near else "the inventory has no such host"
        yield f"{where} has the host {one!r}, which must be in the group {SERVERS}: {known}."
    if strangers:
        return
    for one in hosts:
        address = parse_ip(host_address(hostvars[one], one))
        if address is None or address.is_loopback:
            yield (
                f"{where} runs on {', '.join(hosts)}, and of {one} only {host_address(hostvars[one], one)} is known: give it an IP address, at which"
                " the others reach it, in llm_address."
            )
    yield from _division_errors(where, {**entry, **placed}, hosts)
    yield from _board_errors(where, entry, placed, hostvars, hosts)


def part_errors(catalogue: HostVariables, hostvars: HostVariables, groups: Groups) -> Iterator[str]:
    """Parts are called after the port of their server; expects that the inventory is right otherwise."""
    for host in groups.get(SERVERS, []):
        known: dict[str, str] = {}
        for part in parts(catalogue, hostvars, groups, host):
            if part.span and not part.is_endpoint:
                head = part.span.hosts[0]
                if part.service in known:
                    yield (
                        f"{host} has parts of two servers with the port {part.port}, {known[part.service]} and {part.model} of {head}: give one of them"
                        " another port in llm_serve."
                    )
                known[part.service] = f"{part.model} of {head}"


def _division_errors(where: str, options: Variables, hosts: Sequence[str]) -> Iterator[str]:
    if options.get("data_parallel") not in (None, "auto", 1):
        yield f"{where} has hosts and data_parallel: whole copies need not know of each other, so place the model on each host by itself."
    extra = options.get("extra") or {}
    ways = [name for name in extra if str(name).replace("_", "-") in ("tensor-parallel-size", "pipeline-parallel-size")]
    if ways:
        yield f"{where} has hosts and extra: {ways[0]}: write tensor_parallel and pipeline_parallel, which the plan of the memory reads."
        return
    gpus = options.get("gpus")
    each = len(gpus) if isinstance(gpus, list) and gpus else 1
    words = {**options, **spread(options, len(hosts))}
    degrees = {name: words.get(name) for name in ("tensor_parallel", "pipeline_parallel")}
    sizes = {name: 1 if value in (None, "auto") else value for name, value in degrees.items()}
    if not all(isinstance(value, int) for value in sizes.values()):
        return  # the engine's own check has said so
    tensor, pipeline = sizes.values()
    if tensor * pipeline != len(hosts) * each:
        what = f"GPUs {', '.join(map(str, gpus))}" if isinstance(gpus, list) and gpus else "one part each, because gpus is not given"
        yield (
            f"{where} has tensor_parallel {tensor} x pipeline_parallel {pipeline} = {tensor * pipeline} parts, but {len(hosts)} hosts"
            f" ({', '.join(hosts)}) with {what} make {len(hosts) * each}: correct them, or leave both out."
        )


def _board_errors(where: str, entry: Variables, placed: Variables, hostvars: HostVariables, hosts: Sequence[str]) -> Iterator[str]:
    """As far as ``llm_gpus`` tells; what else differs, the plan of each host finds."""
    gpus = placed.get("gpus", entry.get("gpus"))
    if not isinstance(gpus, list) or not all(isinstance(gpu, int) for gpu in gpus):
        return
    boards = {host: _boards(hostvars[host].get("llm_gpus")) for host in hosts}
    told = {host: [found[gpu] for gpu in gpus] for host, found in boards.items() if found and max(gpus, default=-1) < len(found)}
    first = min(told, key=list(hosts).index, default="")
    for host, found in told.items():
        if found != told[first]:
            yield f"{where} runs on {', '.join(told[first])} of {first} and on {', '.join(found)} of {host}: all its hosts need the same GPUs."


def _boards(given: t.Any) -> list[str]:
    entries = given if isinstance(given, list) else []
    return [str(entry.get("name")) for entry in entries if isinstance(entry, Mapping) for _each in range(_count(entry))]


def _count(entry: Variables) -> int:
    count = entry.get("count", 1)
    return count if isinstance(count, int) else 1
