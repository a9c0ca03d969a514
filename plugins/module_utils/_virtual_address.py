# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One address for several gateways: what is wrong with its settings, and on which interface it goes."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._topology import host_address

Settings = t.Mapping[str, t.Any]


def errors(settings: Settings, host: str) -> list[str]:
    """One sentence for everything in the role's inputs (``settings``, without their prefix) that cannot work."""
    found = []
    shared = _interface(settings["virtual_address"]) if "/" in str(settings["virtual_address"]) else None
    own = _interface(settings["address"])
    if shared is None:
        found.append(
            f"keepalived_virtual_address (llm_virtual_address in an inventory) is {settings['virtual_address']!r}: write an address with the length "
            "of its network, such as 10.0.0.100/24."
        )
    if own is None:
        found.append(
            f"keepalived_address is {settings['address']!r}: the gateways talk to each other by addresses, give this one's own (in an inventory llm_address)."
        )
    elif shared is not None and shared.ip == own.ip:
        found.append(f"keepalived_address is {own.ip}, which is the virtual address: that one belongs to no gateway, give this one another.")
    elif shared is not None and own.ip not in shared.network:
        found.append(f"keepalived_virtual_address {shared} is not in the network of this gateway, {own.ip}: no client would find it there.")
    for peer in settings["peers"]:
        if _interface(peer) is None:
            found.append(f"keepalived_peers contains {peer!r}: give the address of that gateway (in an inventory its llm_address).")
        elif own is not None and peer == str(own.ip):
            found.append(f"keepalived_peers contains {peer}, which is this gateway itself: list the others.")
    if not settings["peers"]:
        found.append("keepalived_peers is empty: one gateway needs no virtual address. List the others, or leave it out.")
    for name, least, most in (("priority", 1, 254), ("router_id", 1, 255)):
        if not least <= int(settings[name]) <= most:
            found.append(f"keepalived_{name} is {settings[name]}, but must be between {least} and {most}.")
    if len(settings["password"]) < 8:
        found.append(f"keepalived_password has {len(settings['password'])} characters, but the gateways use the first 8: give it at least so many.")
    return [f"{host}: {message}" for message in found]


def gateway_errors(hostvars: t.Mapping[str, Settings], gateways: t.Sequence[str]) -> list[str]:
    """The same of an inventory, before anything is changed: ``llm_virtual_address`` must make sense for all gateways together."""
    wanted = {host: str(hostvars[host].get("llm_virtual_address") or "") for host in gateways}
    if not any(wanted.values()):
        return []
    if len(set(wanted.values())) > 1:
        told = ", ".join(f"{address or 'none'} on {host}" for host, address in wanted.items())
        return [f"llm_virtual_address differs between the gateways ({told}): they share one, set it for all of them in group_vars."]
    addresses = {host: host_address(hostvars[host], host) for host in gateways}
    rest = {"priority": 1, "router_id": 1, "password": "x" * 8}  # the role's own, looked at when it runs
    return [
        message
        for host in gateways
        for message in errors(
            {"virtual_address": wanted[host], "address": addresses[host], "peers": [addresses[peer] for peer in gateways if peer != host], **rest}, host
        )
    ]


def interface(facts: Settings, address: str) -> str:
    """The name of the interface that has the address, out of Ansible's facts; empty if none has."""
    for name in facts.get("interfaces", []):
        found = facts.get(name.replace("-", "_"), {})
        held = [found.get("ipv4", {}), *found.get("ipv4_secondaries", []), *found.get("ipv6", [])]
        if any(one.get("address") == address for one in held):
            return str(found.get("device", name))
    return ""


def _interface(text: t.Any) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    try:
        return ipaddress.ip_interface(str(text))
    except ValueError:
        return None
