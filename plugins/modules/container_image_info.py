#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_images``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image_info
short_description: Which image a service runs from, and whether the host has it
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Chooses the image of a service for the GPUs and the driver of the host, by its content, and says whether the Docker engine has it.
  - An image whose digest is not known is refused.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: Without a Docker engine it fails, but not in check mode, because it may be that nobody has installed it yet.
  diff_mode:
    support: none
options:
  images:
    description: The images to choose from. Keys are V(cpu), V(cuda12) and V(cuda13), values have C(name), C(tag) and C(digest).
    type: dict
    default: {}
  backend:
    description: What it computes on. V(auto) takes V(cuda) if the host has C(/dev/nvidia0).
    type: str
    choices: [auto, cpu, cuda]
    default: auto
  own:
    description: An image instead of these, as C(name@sha256:...), or as C(sha256:...), the id of one that was loaded on the host.
    type: str
    default: ''
  variable:
    description: How the variable is called in which a user gives O(own); errors name it.
    type: str
    default: own
  registry:
    description: A registry with copies of everything, laid out as C(registry/name).
    type: str
    default: ''
  container:
    description: A container whose image is told too.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Choose the image
  baremetal.llm.container_image_info:
    images:
      cpu:
        name: ghcr.io/ggml-org/llama.cpp
        tag: server-b11434
        digest: sha256:0000000000000000000000000000000000000000000000000000000000000000
    registry: registry.example.org:5000
  register: image
"""

RETURN = r"""
image:
  description: The image, as an engine takes it.
  returned: success
  type: str
  sample: ghcr.io/ggml-org/llama.cpp@sha256:0000000000000000000000000000000000000000000000000000000000000000
gpu:
  description: Whether it computes on GPUs.
  returned: success
  type: bool
present:
  description: Whether the engine has it.
  returned: success
  type: bool
engine:
  description: Version of the Docker engine; empty if there is none.
  returned: success
  type: str
used:
  description: The image that O(container) was made of; empty if there is no such container.
  returned: success
  type: str
requests:
  description: Whether the Python that runs this has the library C(requests), which the modules of community.docker need.
  returned: success
  type: bool
"""

from importlib.util import find_spec
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._cdi import driver_version
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._images import reference, variant
from ansible_collections.baremetal.llm.plugins.module_utils._pci import nvidia_gpus

DEVICE = Path("/dev/nvidia0")
_REMEDY = "Run the role container_toolkit, which installs one, or run this service natively (llm_deployment: native)."


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "dict", "default": {}},
            "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
            "own": {"type": "str", "default": ""},
            "variable": {"type": "str", "default": "own"},
            "registry": {"type": "str", "default": ""},
            "container": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    gpu = params["backend"] == "cuda" or (params["backend"] == "auto" and DEVICE.exists())
    try:
        chosen = variant(gpu, driver_version(), [found.generation for found in nvidia_gpus()])
        image = reference(params["images"], chosen, params["own"], params["variable"], params["registry"])
        engine, present, used = _ask(module, Docker(), image)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=False, image=image, gpu=gpu, present=present, engine=engine, used=used, requests=find_spec("requests") is not None)


def _ask(module: AnsibleModule, docker: Docker, image: str) -> tuple[str, bool, str]:
    container = module.params["container"]
    try:
        found = docker.inspect(container) if container else None
        return docker.engine_version(), docker.image(image) is not None, found["Config"]["Image"] if found else ""
    except NoDocker as exc:
        if module.check_mode:
            return "", False, ""
        raise LLMError(f"{exc} {_REMEDY}") from exc


if __name__ == "__main__":
    main()
