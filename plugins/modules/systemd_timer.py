#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_systemd_timer``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: systemd_timer
short_description: Work that systemd starts by the clock, with its files, in one call
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Writes a service that does something and ends, its timer and its files, atomically, and enables and starts the timer.
  - The service is not started. It reads its files whenever it is.
extends_documentation_fragment: [baremetal.llm.service_files, baremetal.llm.attributes]
options:
  name:
    description: Name of the units, without C(.service) and C(.timer).
    type: str
    required: true
  state:
    description: V(absent) stops and removes both units; O(files) and O(secret_files) are then not looked at.
    type: str
    choices: [present, absent]
    default: present
  service:
    description: Content of the service. Required if O(state=present).
    type: str
  timer:
    description: Content of the timer. Required if O(state=present).
    type: str
  schedule:
    description: The expressions in O(timer) that systemd shall check before anything is written.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look every night
  baremetal.llm.systemd_timer:
    name: llm-look
    service: "{{ lookup('ansible.builtin.template', 'llm-look.service.j2') }}"
    timer: "{{ lookup('ansible.builtin.template', 'llm-look.timer.j2') }}"
    schedule: ['*-*-* 02:30:00']
"""

RETURN = r"""#"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._file_options import file_options, file_specs
from ansible_collections.baremetal.llm.plugins.module_utils._systemd_timer import Timer, absent, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "service": {"type": "str"},
            "timer": {"type": "str"},
            "schedule": {"type": "list", "elements": "str", "default": []},
            **file_options(),
        },
        required_if=[("state", "present", ["service", "timer"])],
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "absent":
            found = absent(params["name"], module.run_command, module.check_mode)
        else:
            found = present(_timer(params), module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=found.changed, diff=found.as_dict())


def _timer(params: dict) -> Timer:
    return Timer(params["name"], params["service"], params["timer"], tuple(params["schedule"]), file_specs(params, "root"))


if __name__ == "__main__":
    main()
