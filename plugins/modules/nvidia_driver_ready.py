#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_driver_activation`` and ``_driver_state.verdict``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_ready
short_description: An installed NVIDIA driver that works, or the reason why not
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Keeps nouveau from loading, lets DKMS build the module for kernels that have headers and no module, renews boot images that could still
    start nouveau, and loads the module if nothing stands against it.
  - Then verifies that module and libraries are of one version and that NVML sees every GPU of the PCI bus. If not, it fails and names what
    is missing.
  - What only a reboot can do, or somebody at the console (Secure Boot), is no failure but RV(pending), and a warning.
requirements:
  - nvidia-ml-py in C(/opt/llm/tools/current), once the driver is loaded
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  block_nouveau:
    description: Whether to keep nouveau from loading, by a file in C(/etc/modprobe.d).
    type: bool
    default: true
  reboot_follows:
    description: Whether the caller is going to reboot the machine if RV(reboot) is true, so that there is nothing to warn of yet.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Load the driver
  baremetal.llm.nvidia_driver_ready:
  register: driver

- name: Go on without the GPUs
  ansible.builtin.debug:
    msg: "{{ driver.pending }}"
  when: driver.pending | length > 0
"""

RETURN = r"""
pending:
  description: Sentences that say what stands between the installed driver and one that works; empty if it works.
  returned: success
  type: list
  elements: str
reboot:
  description: Whether a reboot would help.
  returned: success
  type: bool
driver:
  description: Version of the driver that is loaded; empty if none is.
  returned: success
  type: str
  sample: 580.105.08
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._driver_activation import activate
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import DriverState, Verdict, read_state, verdict
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot


def main() -> None:
    module = AnsibleModule(
        argument_spec={"block_nouveau": {"type": "bool", "default": True}, "reboot_follows": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )

    def find(program: str) -> str:
        return module.get_bin_path(program) or ""

    def read() -> DriverState:
        return read_state(module.run_command, find)

    try:
        difference = activate(read, module.run_command, find, module.params["block_nouveau"], module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    state = read()
    seen = snapshot()
    found = verdict(state, seen)
    if module.check_mode and seen.reason == "python":
        found = Verdict(["NVML can be asked when nvidia-ml-py is installed."], [], False)
    if module.check_mode and not state.packages and not state.loaded:
        found = Verdict(["the driver is not installed yet."], [], False)
    if found.problems and not (module.check_mode and difference.changed):
        module.fail_json(msg=f"The NVIDIA driver does not work: {' '.join(found.problems)}")
    if not (found.reboot and module.params["reboot_follows"]):
        for reason in found.pending:
            module.warn(f"The NVIDIA driver does not work yet{', a reboot is needed' if found.reboot else ''}: {reason}")
    module.exit_json(
        changed=difference.changed,
        diff=difference.as_dict(),
        pending=found.pending,
        reboot=found.reboot,
        driver=state.loaded.version if state.loaded else "",
    )


if __name__ == "__main__":
    main()
