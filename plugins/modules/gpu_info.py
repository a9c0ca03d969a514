#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_nvml``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: What the NVIDIA GPUs of a machine are and do
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Asks NVML through nvidia-ml-py, and the PCI bus. Reads only, needs neither root nor a driver nor a GPU.
  - nvidia-ml-py is taken from C(/opt/llm/tools/current), else from the interpreter that runs the module.
  - What a board does not support is null; C(unavailable) of that GPU says why.
extends_documentation_fragment: [baremetal.llm.attributes]
options: {}
"""

EXAMPLES = r"""
- name: Look at the GPUs
  baremetal.llm.gpu_info:
  register: gpus

- name: Say how much is free
  ansible.builtin.debug:
    msg: "{{ gpus.gpu_info.gpus | map(attribute='memory.free') | sum }}"
"""

RETURN = r"""
gpu_info:
  description: The machine's GPUs.
  returned: always
  type: dict
  contains:
    available: {description: Whether NVML answers., type: bool, returned: always}
    reason:
      description: Why it does not. One of C(python) (no nvidia-ml-py), C(library) (no driver is installed), C(driver) (it is not loaded),
        C(mismatch) (of another version than its libraries), C(error).
      type: str
      returned: always
    message: {description: The same as a sentence with its remedy., type: str, returned: always}
    driver: {description: Version of the driver., type: str, returned: always, sample: 580.105.08}
    nvml: {description: Version of NVML., type: str, returned: always}
    cuda: {description: The newest CUDA that the driver runs., type: str, returned: always, sample: "13.0"}
    pci:
      description: NVIDIA GPUs on the PCI bus, known without a driver; C(address), C(device) in hexadecimal, C(generation).
      type: list
      elements: dict
      returned: always
    gpus:
      description: The GPUs that NVML has. Memory in bytes, power in watts, clocks in MHz.
      type: list
      elements: dict
      returned: always
      contains:
        index: {description: Number of the GPU., type: int, returned: always}
        uuid: {description: The name that stays when cards are moved., type: str, returned: always}
        name: {description: The model., type: str, returned: always}
        pci_address: {description: "As the kernel writes it, 0000:01:00.0.", type: str, returned: always}
        minor: {description: Number of its device file., type: int, returned: always}
        generation: {description: "Such as ampere, ada, hopper.", type: str, returned: always}
        compute_capability: {description: CUDA's name for the generation., type: str, returned: always, sample: "8.9"}
        memory: {description: "C(total), C(reserved) by the driver, C(used), C(free).", type: dict, returned: always}
        power: {description: "C(limit), C(default), C(minimum), C(maximum), C(enforced), C(draw).", type: dict, returned: always}
        clocks: {description: "C(sm), C(memory), C(sm_maximum), C(memory_maximum).", type: dict, returned: always}
        persistence: {description: Whether the driver stays loaded without clients., type: bool, returned: always}
        compute_mode: {description: "C(default), C(exclusive_process) or C(prohibited).", type: str, returned: always}
        ecc: {description: Whether memory errors are corrected., type: bool, returned: always}
        mig: {description: Whether the GPU is cut into slices., type: bool, returned: always}
        p_state: {description: "Performance state, 0 is the fastest.", type: int, returned: always}
        temperature: {description: Degrees Celsius., type: int, returned: always}
        throttle_reasons: {description: Why the clocks are below their maximum., type: list, elements: str, returned: always}
        display: {description: Whether a screen is driven., type: bool, returned: always}
        processes: {description: "C(pid), C(name), C(memory), C(kind).", type: list, elements: dict, returned: always}
        nvlinks: {description: Active NVLinks., type: int, returned: always}
        unavailable: {description: Path of each null value and the reason., type: dict, returned: always}
    topology:
      description: C(links) between pairs, the sets of GPUs that are fit for C(tensor_parallel), and who is C(unfit) for what reason.
      type: dict
      returned: always
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_topology import topology
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._pci import nvidia_gpus


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    found = snapshot()
    answer = found.as_dict()
    del answer["links"]  # they are in the topology
    module.exit_json(changed=False, gpu_info={**answer, "pci": [asdict(gpu) for gpu in nvidia_gpus()], "topology": topology(found)})


if __name__ == "__main__":
    main()
