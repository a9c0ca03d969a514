#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_vram_usage``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vram_usage
short_description: What the running models take, held against their plan
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Asks NVML what the processes of every planned deployment take of each GPU. On hosts without a GPU it asks the kernel for their main memory.
  - Warns where that is further from the plan than the margin, with both figures.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  plan:
    description: The plan that M(baremetal.llm.vram_plan) returned.
    type: dict
    required: true
  margin:
    description: How far plan and reality may be apart.
    type: raw
    default: 512MiB
"""

EXAMPLES = r"""
- name: Plan
  baremetal.llm.vram_plan:
    deployments: "{{ deployments }}"
  register: memory

- name: See whether the plan holds
  baremetal.llm.vram_usage:
    plan: "{{ memory.plan }}"
"""

RETURN = r"""
usages:
  description: Every deployment that runs now, by GPU, with what was C(planned) and the C(actual) bytes.
  returned: success
  type: list
  elements: dict
  sample: [{model: chat, service: llama-router, place: gpu0, planned: 7516192768, actual: 7482638336}]
drifts:
  description: A sentence for each that is further from its plan than the margin. They are warnings, too.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._vram import parse_size
from ansible_collections.baremetal.llm.plugins.module_utils._vram_usage import drifts, usages


def main() -> None:
    module = AnsibleModule(
        argument_spec={"plan": {"type": "dict", "required": True}, "margin": {"type": "raw", "default": "512MiB"}},
        supports_check_mode=True,
    )
    try:
        margin = parse_size(module.params["margin"], "margin")
        found = usages(module.params["plan"], snapshot().gpus)
    except LLMError as exc:
        module.fail_json(msg=str(exc), exception=exc)
    sentences = drifts(found, margin)
    for sentence in sentences:
        module.warn(sentence)
    module.exit_json(changed=False, usages=[usage._asdict() for usage in found], drifts=sentences)


if __name__ == "__main__":
    main()
