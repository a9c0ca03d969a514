#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_nftables``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_guard
short_description: TCP ports of a host that only given addresses may reach
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Keeps one table of nftables, C(inet llm), that closes ports to everybody but given addresses. To all others such a port looks as if nothing
    listened there. The host itself always reaches its ports.
  - Other tables, their policies and all other ports stay as they are. What another table drops stays dropped.
  - The rules judge the beginning of a connection before destination NAT, so they hold for published ports of containers too. Connections that run
    already are not cut.
  - All rules come into force at once, are loaded at every boot, and again after C(nftables.service) has flushed everything. What somebody flushed or
    added in the table is put right by the next run.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  state:
    description: V(absent) removes the table, the unit and its file; O(rules) and O(unit) are then not looked at.
    type: str
    choices: [present, absent]
    default: present
  rules:
    description: Which ports are guarded. Rules for the same port add up. Port 22 is refused.
    type: list
    elements: dict
    default: []
    suboptions:
      ports:
        description: The ports, and ranges such as V(32768-60999), in which a port with a rule of its own goes by that alone.
        type: list
        elements: str
        required: true
      sources:
        description: IPv4 and IPv6 addresses, networks, and names that the host looks up at every run. Without any only the host itself reaches them.
        type: list
        elements: str
        default: []
  unit:
    description: Content of C(llm-firewall.service), which loads C(/etc/llm/firewall/llm.nft) at boot. Required if O(state=present).
    type: str
"""

EXAMPLES = r"""
- name: The gateway reaches the engines, and the monitoring what they say of themselves
  baremetal.llm.port_guard:
    unit: "{{ lookup('ansible.builtin.template', 'llm-firewall.service.j2') }}"
    rules:
      - {ports: [8000, 8081], sources: [192.0.2.10, 2001:db8::10]}
      - {ports: [8000, 9100], sources: [192.0.2.11]}
"""

RETURN = r"""#"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._nftables import Rule, absent, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "ports": {"type": "list", "elements": "str", "required": True},
                    "sources": {"type": "list", "elements": "str", "default": []},
                },
            },
            "unit": {"type": "str"},
        },
        required_if=[("state", "present", ["unit"])],
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "present":
            rules = [Rule(tuple(one["ports"]), tuple(one["sources"])) for one in params["rules"]]
            outcome = present(rules, params["unit"], module.run_command, module.check_mode)
        else:
            outcome = absent(module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=outcome.changed, diff=outcome.diff)


if __name__ == "__main__":
    main()
