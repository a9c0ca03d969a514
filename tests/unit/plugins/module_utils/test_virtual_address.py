# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One address for several gateways: what is refused, and on which interface it goes."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._virtual_address import errors, gateway_errors, interface


def settings(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "virtual_address": "10.0.0.100/24",
        "address": "10.0.0.11",
        "peers": ["10.0.0.12"],
        "priority": 200,
        "router_id": 51,
        "password": "p" * 64,
        **changes,
    }


@pytest.mark.parametrize("changes", [{}, {"virtual_address": "fd00::100/64", "address": "fd00::11", "peers": ["fd00::12"]}])
def test_sound_settings_have_no_errors(changes: dict[str, t.Any]) -> None:
    assert errors(settings(**changes), "gw1") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"virtual_address": "10.0.0.100"}, ["llm_virtual_address", "'10.0.0.100'", "10.0.0.100/24"]),
        ({"virtual_address": "llm.example.org"}, ["'llm.example.org'"]),
        ({"address": "gw1"}, ["keepalived_address is 'gw1'", "llm_address"]),
        ({"address": "10.0.0.100"}, ["which is the virtual address"]),
        ({"address": "10.9.0.11"}, ["not in the network of this gateway, 10.9.0.11"]),
        ({"peers": ["gw2"]}, ["keepalived_peers contains 'gw2'", "llm_address"]),
        ({"peers": ["10.0.0.11"]}, ["this gateway itself"]),
        ({"peers": []}, ["keepalived_peers is empty"]),
        ({"priority": 255}, ["keepalived_priority is 255"]),
        ({"router_id": 0}, ["keepalived_router_id is 0"]),
        ({"password": "short"}, ["keepalived_password has 5 characters"]),
    ],
)
def test_each_error_names_the_host_and_the_value(changes: dict[str, t.Any], words: list[str]) -> None:
    (message,) = errors(settings(**changes), "gw1")
    assert message.startswith("gw1: ")
    assert all(word in message for word in words), message


def test_no_message_shows_the_password() -> None:
    assert "secret!" not in str(errors(settings(password="secret!"), "gw1"))


def test_the_interface_is_the_one_that_has_the_address() -> None:
    facts = {
        "interfaces": ["lo", "br-lan", "eth1"],
        "lo": {"device": "lo", "ipv4": {"address": "127.0.0.1"}},
        "br_lan": {"device": "br-lan", "ipv4": {"address": "10.1.0.1"}, "ipv4_secondaries": [{"address": "10.0.0.11"}]},
        "eth1": {"device": "eth1", "ipv6": [{"address": "fd00::11"}]},
    }
    assert interface(facts, "10.0.0.11") == "br-lan"
    assert interface(facts, "fd00::11") == "eth1"
    assert interface(facts, "10.0.0.99") == ""


def gateways(*addresses: str, shared: t.Sequence[str] = ("10.0.0.100/24", "10.0.0.100/24")) -> list[str]:
    hosts = {f"gw{number}": {"ansible_host": address, "llm_virtual_address": one} for number, (address, one) in enumerate(zip(addresses, shared), 1)}
    return gateway_errors(hosts, list(hosts))


def test_an_inventory_is_refused_before_anything_is_changed() -> None:
    assert gateways("10.0.0.11", "10.0.0.12") == []
    assert gateways("gw1", "gw2", shared=("", "")) == []
    (found,) = gateways("10.0.0.11", "10.0.0.12", shared=("10.0.0.100/24", ""))
    assert "10.0.0.100/24 on gw1, none on gw2" in found
    (found,) = gateways("10.0.0.11")
    assert found.startswith("gw1: keepalived_peers is empty")
    assert [message.partition(":")[0] for message in gateways("10.0.0.11", "gw2.example.org")] == ["gw1", "gw2"]
