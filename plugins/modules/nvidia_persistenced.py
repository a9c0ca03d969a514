#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_persistenced``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_persistenced
short_description: Persistence mode that is on and survives a reboot
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Makes the distribution's C(nvidia-persistenced.service) start at boot, stay, and turn persistence mode on, by a drop-in that is derived
    from the unit that is there.
  - Done is when NVML says that every GPU has persistence mode. Where the driver is not loaded all is prepared for the next boot.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  state:
    description: V(absent) takes the drop-in away.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Keep the driver loaded
  baremetal.llm.nvidia_persistenced:
"""

RETURN = r"""
persistence:
  description: Whether each GPU has persistence mode, by its index; null where a board does not say.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._persistenced import absent, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}},
        supports_check_mode=True,
    )
    try:
        outcome = (present if module.params["state"] == "present" else absent)(module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(changed=outcome.changed, diff=outcome.diff, persistence=outcome.persistence)


if __name__ == "__main__":
    main()
