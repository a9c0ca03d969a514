#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_llama``'s preset file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_preset
short_description: The preset file of llama.cpp's router, checked against the installed llama-server
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Writes the INI file that C(llama-server --models-preset) reads, a section for each model and one for all.
  - One unknown key stops the whole router, so each key is compared with what the installed C(llama-server --help)
    names. If one is unknown, nothing is changed, and the message names the model, the key and the nearest known.
  - The file is checked when it stays as it is, too. It may have been written for an older C(llama-server). With O(image) it names the
    image that it was checked with, and is checked when that changes.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: If O(binary) or O(image) is not installed yet, check mode reports the change without comparing the keys.
options:
  path:
    description: The preset file.
    type: path
    required: true
  binary:
    description: The C(llama-server) that will read it.
    type: path
    required: true
  image:
    description: A container image that holds O(binary), as the Docker engine of the host knows it.
    type: str
    version_added: 0.2.0
  models:
    description: For each model the options of its section. Keys are long options of C(llama-server) without dashes.
    type: dict
    default: {}
  common:
    description: Options for all models; those of a model go before them.
    type: dict
    default: {}
  models_max:
    description: How many models the router may hold at once. If given, at least as many as O(models) load at start-up.
    type: int
"""

EXAMPLES = r"""
- name: Two models
  baremetal.llm.llama_preset:
    path: /etc/llm/llama-router/preset.ini
    binary: /opt/llm/llama-router/current/llama-server
    common:
      flash-attn: auto
    models:
      coder:
        model: /var/lib/llm/models/coder/coder.gguf
        ctx-size: 65536
        parallel: 2
        load-on-startup: true
      chat:
        model: /var/lib/llm/models/chat/chat.gguf
        sleep-idle-seconds: 900
"""

RETURN = r"""
startup:
  description: The models that are loaded when the router starts.
  returned: success
  type: list
  elements: str
  sample: [coder]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._llama import check_preset, render_preset, startup_models
from ansible_collections.baremetal.llm.plugins.module_utils._program import run_program


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "binary": {"type": "path", "required": True},
            "image": {"type": "str"},
            "models": {"type": "dict", "default": {}},
            "common": {"type": "dict", "default": {}},
            "models_max": {"type": "int"},
        },
        supports_check_mode=True,
    )
    params = module.params
    difference = Difference()
    try:
        content = render_preset(params["models"], params["common"])
        if params["image"]:
            content = f"; checked with {params['image']}\n{content}"
        startup = startup_models(params["models"], params["models_max"])
        preset = FileSpec(Path(params["path"]), content)
        changed = compare(preset, difference)
        if changed or not params["image"]:
            _check_keys(module, content)
        if changed and not module.check_mode:
            write([preset], {preset.path}, module.run_command)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict(), startup=startup)


def _check_keys(module: AnsibleModule, content: str) -> None:
    binary, image = module.params["binary"], module.params["image"]
    if image:
        _check_in_image(module, content, image, binary)
        return
    if not Path(binary).exists():
        if module.check_mode:
            return  # the first run has not installed it yet
        raise InputError(f"{binary} is not installed, so the options of the models cannot be checked. Install it first.")
    _judge(content, binary, module.run_command([binary, "--help"]))


def _check_in_image(module: AnsibleModule, content: str, image: str, binary: str) -> None:
    docker = Docker()
    try:
        there = docker.image(image) is not None
    except NoDocker:
        there = False
    if there:
        _judge(content, f"{binary} of {image}", run_program(docker, image, [binary, "--help"]))
    elif not module.check_mode:
        raise InputError(f"The Docker engine does not have {image}, so the options of the models cannot be checked. Pull it first.")


def _judge(content: str, binary: str, answer: tuple[int, str, str]) -> None:
    status, out, err = answer
    if status != 0:
        raise LLMError(f"{binary} --help failed, so the models' options cannot be checked: {err.strip()}")
    wrong = check_preset(content, out)
    if wrong:
        raise InputError("; ".join(wrong) + ".")


if __name__ == "__main__":
    main()
