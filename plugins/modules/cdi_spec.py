#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_cdi``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cdi_spec
short_description: A CDI specification that lists every GPU of the loaded driver
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Docker hands GPUs to containers by a CDI specification. The NVIDIA Container Toolkit writes it; this module lets it do so where a GPU of the
    loaded driver is missing in it, or where it is of another driver than the loaded one.
  - The toolkit's own C(nvidia-cdi-refresh.service) comes first. Where that does not help, C(nvidia-ctk cdi generate) writes C(/etc/cdi/nvidia.yaml).
  - Without a loaded driver it warns and does nothing.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  state:
    description: V(absent) removes the specifications. They name programs of the toolkit, so remove them with it.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Every GPU is there for containers
  baremetal.llm.cdi_spec:
"""

RETURN = r"""
devices:
  description: Names of the devices, without C(nvidia.com/gpu=). In check mode those that there are already.
  returned: success
  type: list
  elements: str
  sample: ["0", "GPU-0c1b1c2d-0001-0001-0001-000000000001", "all"]
driver:
  description: Version of the loaded driver, empty if none is.
  returned: success
  type: str
  sample: 580.105.08
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._cdi import absent, present
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}},
        supports_check_mode=True,
    )
    try:
        outcome = present(module.run_command, module.check_mode) if module.params["state"] == "present" else absent(module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if outcome.warning:
        module.warn(outcome.warning)
    module.exit_json(changed=outcome.changed, diff=outcome.diff, devices=outcome.devices, driver=outcome.driver)


if __name__ == "__main__":
    main()
