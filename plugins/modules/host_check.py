#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_host_facts`` and ``_host_findings``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Whether a host can do what is wanted of it
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - This module only reads, works without root, and takes a fraction of a second. It installs nothing and asks no network.
  - It compares the host with what is wanted of it and says, for everything that does not fit, what to do about it.
  - It never fails because of what it finds. That is for the caller to decide, by RV(failures) and RV(warnings_found).
  - Only root can see which program holds a port.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    support: none
    description: It changes nothing, so there is nothing to show.
  idempotent:
    description: It changes nothing.
options:
  host:
    description: Name of the host in messages. The default is the name that the host has for itself.
    type: str
    default: ''
  engines:
    description: The engines that shall run on the host.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the engine.
        type: str
        choices: [llama_router, vllm]
        required: true
      method:
        description: How it is installed. The default is the engine's usual way.
        type: str
        choices: ['', archive, container, package, source]
        default: ''
      backend:
        description: What it computes on. V(auto) is the GPUs if there are any.
        type: str
        choices: [auto, cpu, cuda]
        default: auto
  gpus:
    description: Indices of the GPUs that the placement names.
    type: list
    elements: int
    default: []
  disk:
    description: What shall be stored where.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: A directory, which need not exist yet. What it holds already counts.
        type: path
        required: true
      bytes:
        description: Bytes that it shall hold in the end. V(0) is not known; then the free space is shown and not judged.
        type: int
        default: 0
  ports:
    description: Ports that services shall listen on.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      unit:
        description: The systemd unit, without C(.service), that may hold it already.
        type: str
        default: ''
  ram:
    description: Bytes of memory that the host must have.
    type: int
    default: 0
  containers:
    description: Whether services shall run in containers.
    type: bool
    default: false
  driver_managed:
    description: Whether the NVIDIA driver is installed later in the same run, so that a missing or wrong one is a warning, not a failure.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at a host with two GPUs
  baremetal.llm.host_check:
    engines: [{name: llama_router}]
    gpus: [0, 1]
    disk: [{path: /var/lib/llm/models/chat, bytes: 5030000000}]
    ports: [{port: 8081, unit: llm-llama-router}]
  register: checked

- name: Stop if it will not do
  ansible.builtin.fail:
    msg: "{{ checked.failures | map(attribute='message') | join('\n') }}"
  when: checked.failures | length > 0
"""

RETURN = r"""
failures:
  description: What stands in the way.
  type: list
  elements: dict
  returned: always
  contains:
    check: {description: Name of the check., type: str, returned: always, sample: gpus}
    message:
      description: What was found on which host, and what to do about it.
      type: str
      returned: always
      sample: "gpu01: llm_serve uses GPU 2, but this host has 2 GPUs, 0 to 1: correct gpus in its llm_serve."
warnings_found:
  description: What will work, but not as it should, or needs a look. Of the same form as RV(failures).
  type: list
  elements: dict
  returned: always
table:
  description: All checks as lines to print.
  type: list
  elements: str
  returned: always
  sample: ["ok   os     Debian GNU/Linux 12 (bookworm), kernel 6.1.0-40-amd64", "WARN clock  nothing keeps the clock in time"]
facts:
  description: What was looked at. Sizes are in bytes; null is not known.
  type: dict
  returned: always
  contains:
    system: {description: "Operating system, kernel, architecture, C library, clock, Secure Boot.", type: dict, returned: always}
    cpus: {description: Processors., type: int, returned: always}
    cpu_flags: {description: What they can do that matters to engines., type: list, elements: str, returned: always}
    ram_total: {description: Memory., type: int, returned: always}
    ram_available: {description: What of it is available., type: int, returned: always}
    disks:
      description: For each path of O(disk) its C(mount), what is C(free) there, and what is C(present) in the path itself.
      type: list
      elements: dict
      returned: always
    pci: {description: "NVIDIA GPUs on the bus: C(address), C(device), C(generation), C(driver).", type: list, elements: dict, returned: always}
    nvml: {description: What the driver says. See M(baremetal.llm.gpu_info)., type: dict, returned: always}
    nouveau: {description: Whether that driver is loaded., type: bool, returned: always}
    nvidia_module: {description: Version of the loaded kernel module., type: str, returned: always}
    nvidia_library: {description: Version of the installed libraries., type: str, returned: always}
    containers: {description: What runs containers and gives them GPUs., type: dict, returned: always}
    listeners: {description: "Ports that are listened on: C(port), C(program), C(pid), C(unit).", type: list, elements: dict, returned: always}
"""

import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import gather
from ansible_collections.baremetal.llm.plugins.module_utils._host_findings import (
    FAILURE,
    WARNING,
    DiskWant,
    EngineWant,
    PortWant,
    Wants,
    findings,
    messages,
    table,
)
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "default": ""},
            "engines": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "choices": ["llama_router", "vllm"], "required": True},
                    "method": {"type": "str", "choices": ["", "archive", "container", "package", "source"], "default": ""},
                    "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
                },
            },
            "gpus": {"type": "list", "elements": "int", "default": []},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "path", "required": True}, "bytes": {"type": "int", "default": 0}},
            },
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"port": {"type": "int", "required": True}, "unit": {"type": "str", "default": ""}},
            },
            "ram": {"type": "int", "default": 0},
            "containers": {"type": "bool", "default": False},
            "driver_managed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    wants = Wants(
        engines=tuple(EngineWant(**engine) for engine in params["engines"]),
        gpus=tuple(params["gpus"]),
        disk=tuple(DiskWant(**disk) for disk in params["disk"]),
        ports=tuple(PortWant(**port) for port in params["ports"]),
        ram=params["ram"],
        containers=params["containers"],
        driver_managed=params["driver_managed"],
    )
    facts = gather([disk.path for disk in wants.disk], snapshot)
    try:
        found = findings(facts, wants)
    except LLMError as exc:
        module.fail_json(msg=str(exc), exception=exc)
    host = params["host"] or platform.node()
    module.exit_json(
        changed=False,
        failures=messages(found, FAILURE, host),
        warnings_found=messages(found, WARNING, host),
        table=table(found),
        facts=facts.as_dict(),
    )


if __name__ == "__main__":
    main()
