#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_gpu_apply``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_settings
short_description: Power limits, locked clocks and modes of NVIDIA GPUs
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Brings all GPUs of a machine to what is asked for, through NVML, in one call. Everything is checked against what each board says that it
    takes before anything is set.
  - What is not asked for (any more) goes back to what the board has by itself, if this module had changed it.
  - Boards forget all of it at a reboot, and without persistence mode as soon as nobody uses them; role
    C(baremetal.llm.gpu_settings) puts it back at every boot.
  - NVML does not tell which clocks are locked. This module remembers what it locked in C(/run/llm/gpu-settings.json); clocks that somebody
    else locks or releases are not seen.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: A board that refuses a power limit, which only trying shows, is found out by the first run outside check mode.
options:
  gpus:
    description: What to set on which GPUs. A later entry overrides an earlier one, setting by setting.
    type: list
    elements: dict
    default: []
    suboptions:
      gpu:
        description: Which GPUs. V(all), an index, a UUID, a PCI address, or a pattern of the model's name such as V(*RTX 3090*).
        type: str
        default: all
      power_limit:
        description: Watts, such as V(250), or a part of the board's default, such as V(70%).
        type: str
      fallback_sm_clocks:
        description: SM clocks to lock instead, on boards that take no power limit.
        type: list
        elements: int
      sm_clocks:
        description: SM clocks in MHz to lock. One clock, or the lowest (0 is the board's own lowest) and the highest; the board must list them.
        type: list
        elements: int
      memory_clocks:
        description: Memory clocks in MHz to lock, as O(gpus[].sm_clocks).
        type: list
        elements: int
      persistence:
        description: Keep the driver loaded while nobody uses the GPU. Role C(nvidia_persistenced) does this so that it survives a reboot.
        type: bool
      compute_mode:
        description: Who may compute. Everybody, one process, nobody.
        type: str
        choices: [default, exclusive_process, prohibited]
  state:
    description: V(default) puts every GPU of the machine back to what its board has by itself, whoever changed it.
    type: str
    choices: [present, default]
    default: present
  require_driver:
    description: Fail when NVML does not answer. Otherwise that is a warning, and the machine counts as unchanged.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Less power on all, and a clock lock where a board takes no limit
  baremetal.llm.gpu_settings:
    gpus:
      - {gpu: all, power_limit: 70%, fallback_sm_clocks: [0, 1200]}
      - {gpu: GPU-8a56a4bc-e184-a047-2620-be19fdf913d5, power_limit: 250}

- name: Put everything back
  baremetal.llm.gpu_settings:
    state: default
"""

RETURN = r"""
gpus:
  description: Every GPU of the machine.
  returned: when NVML answers
  type: list
  elements: dict
  contains:
    index: {description: Number of the GPU., type: int, returned: always}
    uuid: {description: Its UUID., type: str, returned: always}
    name: {description: Its model., type: str, returned: always}
    before: {description: "The settings found: watts, MHz.", type: dict, returned: always}
    after: {description: The settings now., type: dict, returned: always}
    unchangeable: {description: Settings that the board does not take and why., type: dict, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_apply import apply
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import NvmlUnavailable


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "gpus": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "gpu": {"type": "str", "default": "all"},
                    "power_limit": {"type": "str"},
                    "fallback_sm_clocks": {"type": "list", "elements": "int"},
                    "sm_clocks": {"type": "list", "elements": "int"},
                    "memory_clocks": {"type": "list", "elements": "int"},
                    "persistence": {"type": "bool"},
                    "compute_mode": {"type": "str", "choices": ["default", "exclusive_process", "prohibited"]},
                },
            },
            "state": {"type": "str", "choices": ["present", "default"], "default": "present"},
            "require_driver": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        outcome = apply(module.params["gpus"], reset=module.params["state"] == "default", check=module.check_mode)
    except NvmlUnavailable as exc:
        if module.params["require_driver"]:
            module.fail_json(msg=str(exc), exception=exc)
        if module.params["state"] == "present":  # boards without a driver have forgotten everything by themselves
            module.warn(f"The settings of the GPUs are not in force: {exc}")
        module.exit_json(changed=False)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(changed=outcome.changed, diff=outcome.diff, gpus=outcome.gpus)


if __name__ == "__main__":
    main()
