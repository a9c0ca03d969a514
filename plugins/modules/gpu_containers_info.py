#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_gpu_containers``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_containers_info
short_description: Which containers were given GPUs, and whether they can still open them
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Lists Docker's running containers that were given GPUs, and opens their GPU device files from each container's own cgroup, as a program in it
    would. Nothing has to be installed in the container, and nothing is left behind.
  - It finds containers that have lost their GPUs, for example to C(systemctl daemon-reload).
  - Reads only. Needs root.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  label:
    description: Look only at containers with this label, C(name) or C(name=value).
    type: str
    default: ''
  warn:
    description: Say RV(message) as a warning too.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at the GPU containers
  baremetal.llm.gpu_containers_info:
  register: found

- name: Every one must have its GPUs
  ansible.builtin.assert:
    that: found.lost == []
    fail_msg: "{{ found.message }}"
"""

RETURN = r"""
running:
  description: Whether a Docker engine answers. Without one there are no containers.
  returned: success
  type: bool
containers:
  description: The containers that were given GPUs.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the container., type: str, returned: always}
    id: {description: Its id., type: str, returned: always}
    how: {description: "How it was given GPUs: V(cdi), V(request) (C(--gpus)), V(runtime) or V(device).", type: str, returned: always}
    devices: {description: Its NVIDIA device files., type: list, elements: str, returned: always}
    ok: {description: Whether all of them open; null if that could not be tested., type: bool, returned: always}
    reason: {description: Why not., type: str, returned: always}
lost:
  description: Names of the containers that have lost GPUs.
  returned: success
  type: list
  elements: str
message:
  description: Who has lost GPUs and what to do about it; empty if nobody has.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_containers import look


def main() -> None:
    module = AnsibleModule(
        argument_spec={"label": {"type": "str", "default": ""}, "warn": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    try:
        found = look(Docker(), module.params["label"])
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if module.params["warn"] and found.message:
        module.warn(found.message)
    lost = [container["name"] for container in found.lost]
    module.exit_json(changed=False, running=found.running, containers=found.containers, lost=lost, message=found.message)


if __name__ == "__main__":
    main()
