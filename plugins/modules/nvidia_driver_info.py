#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_driver_state.read_state``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: What there is of an NVIDIA driver on a machine
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Looks at the PCI bus, the kernels and their modules, the packages and the package manager's sources. Reads only, and needs neither a
    driver nor a GPU.
  - The filter P(baremetal.llm.nvidia_driver_plan#filter) makes a plan of it.
extends_documentation_fragment: [baremetal.llm.attributes]
options: {}
"""

EXAMPLES = r"""
- name: Look at the machine
  baremetal.llm.nvidia_driver_info:
  register: found

- name: Say which GPUs there are
  ansible.builtin.debug:
    msg: "{{ found.nvidia_driver.gpus | map(attribute='generation') }}"
"""

RETURN = r"""
nvidia_driver:
  description: The machine.
  returned: always
  type: dict
  contains:
    system: {description: "Operating system, C(kernel), C(architecture), C(secure_boot).", type: dict, returned: always}
    gpus:
      description: NVIDIA GPUs on the PCI bus; C(address), C(device), C(generation), and the kernel's C(driver) that has it.
      type: list
      elements: dict
      returned: always
    loaded: {description: "The kernel's module; C(version), and whether it is the C(open) one.", type: dict, returned: always}
    built: {description: Kernel -> the module that is on disk for it., type: dict, returned: always}
    unbuilt: {description: Kernels with headers and without a module., type: list, elements: str, returned: always}
    library: {description: Version of the libraries., type: str, returned: always}
    nouveau: {description: Whether nouveau is loaded., type: bool, returned: always}
    packages: {description: The driver's packages and their versions., type: dict, returned: always}
    held: {description: Packages that apt holds., type: list, elements: str, returned: always}
    available: {description: Packages that apt has for exactly the running kernel., type: list, elements: str, returned: always}
    archives: {description: "apt's sources; C(uri), C(suite), C(component), C(signed_by).", type: list, elements: dict, returned: always}
    mok: {description: Certificate of the key that DKMS signs modules with., type: str, returned: always}
    enrolled: {description: Whether the firmware trusts it., type: bool, returned: always}
    stale: {description: Boot images that are older than what keeps nouveau out., type: list, elements: str, returned: always}
    managed: {description: Whether role nvidia_driver installed the driver., type: bool, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import read_state


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    state = read_state(module.run_command, lambda program: module.get_bin_path(program) or "")
    module.exit_json(changed=False, nvidia_driver=state.as_dict())


if __name__ == "__main__":
    main()
