#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_vllm_config``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_config
short_description: The configuration file of a vLLM server, checked by the installed vLLM
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Writes the YAML file that C(vllm serve --config) reads.
  - One unknown key stops the server, so each key is compared with the options of the installed vLLM, and its own parser reads the values.
    If something is wrong, nothing is changed, and the message names the option and the nearest known, or what replaced it.
  - That check takes some seconds. It is left out if the file stays as it is, which names the environment that accepted it.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: If O(python) or O(image) is not there yet, check mode reports the change without the check.
  diff_mode:
    details: Of the key it says only that it changed.
options:
  path:
    description: The configuration file. Its name ends with C(.yaml), and only root and O(group) can read it.
    type: path
    required: true
  python:
    description: The interpreter of vLLM's virtual environment, or of O(image).
    type: path
    required: true
  image:
    description: A container image that holds vLLM, as the Docker engine of the host knows it.
    type: str
  gpu:
    description: Whether the vLLM of O(image) needs GPUs to load.
    type: bool
    default: false
  options:
    description: The content of the file. Keys are long options of C(vllm serve) without dashes.
    type: dict
    required: true
  api_key:
    description: A key that requests to C(/v1) need.
    type: str
    default: ''
  environment:
    description: Environment variables of the server. They are only checked.
    type: dict
    default: {}
  group:
    description: Group of the file.
    type: str
    default: root
"""

EXAMPLES = r"""
- name: One model on two GPUs
  baremetal.llm.vllm_config:
    path: /etc/llm/vllm-8100/config.yaml
    python: /opt/llm/vllm-8100/current/bin/python
    api_key: "{{ my_key }}"
    options:
      model: /var/lib/llm/models/chat
      served-model-name: chat
      port: 8100
      max-model-len: 32768
      tensor-parallel-size: 2
"""

RETURN = r"""
checked:
  description: Whether the installed vLLM was asked.
  returned: success
  type: bool
"""

import os
import tempfile
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._program import run_program
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import environment_errors
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_config import (
    ANSWER,
    PROBE,
    Known,
    check_key,
    config_errors,
    environment_of,
    parse_answer,
    render_config,
    shown,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "image": {"type": "str"},
            "gpu": {"type": "bool", "default": False},
            "options": {"type": "dict", "required": True},
            "api_key": {"type": "str", "default": "", "no_log": True},
            "environment": {"type": "dict", "default": {}},
            "group": {"type": "str", "default": "root"},
        },
        supports_check_mode=True,
    )
    params = module.params
    difference = Difference()
    try:
        _refuse(environment_errors(params["environment"]))
        if params["api_key"]:
            check_key(params["api_key"])
        spec = _spec(params)
        changed = _compare(spec, difference)
        checked = changed and _check(module)
        if changed and not module.check_mode:
            write([spec], {spec.path}, module.run_command)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=f"{params['path']}: {exc}", exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict(), checked=checked)


def _spec(params: dict[str, t.Any]) -> FileSpec:
    content = render_config(params["options"], params["image"] or environment_of(Path(params["python"])), params["api_key"])
    return FileSpec(Path(params["path"]), content, mode=0o640, group=params["group"], secret=True)


def _compare(spec: FileSpec, difference: Difference) -> bool:
    """The whole file is a secret to the difference; the text without the key is shown beside it."""
    before = spec.path.read_bytes().decode(errors="replace") if spec.path.is_file() else None
    difference.add(f"{spec.path} (without its key)", before and shown(before), shown(spec.content))
    return compare(spec, difference)


def _check(module: AnsibleModule) -> bool:
    python, image = module.params["python"], module.params["image"]
    if not (_has_image(image) if image else Path(python).exists()):
        if module.check_mode:
            return False  # the first run has not installed it yet
        raise InputError(f"{image or python} is not installed, so the options cannot be checked. Install it first.")
    _refuse(config_errors(module.params["options"], module.params["environment"], _ask(module, python)))
    return True


def _has_image(image: str) -> bool:
    try:
        return Docker().image(image) is not None
    except NoDocker:
        return False


def _ask(module: AnsibleModule, python: str) -> Known:
    """Its parser reads a copy without the key; what vLLM itself likes to leave behind, it leaves in a directory that goes away."""
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as place:
        config = Path(place, "config.yaml")
        config.write_text(render_config(module.params["options"], ""), encoding="utf-8")
        directories = dict.fromkeys(("HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "XDG_CACHE_HOME", "TMPDIR"), place)
        quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [python, "-c", PROBE, str(config), ANSWER]
        if module.params["image"]:
            image, gpus = module.params["image"], module.params["gpu"]
            status, out, err = run_program(Docker(), image, command, read=[place], environment=quiet, gpus=gpus)
        else:
            status, out, err = module.run_command(command, environ_update={**directories, **quiet}, cwd=os.sep)
    if status != 0:
        raise LLMError(f"{python} cannot load vLLM, so the options cannot be checked: {err.strip()[-1000:]}")
    return parse_answer(out)


def _refuse(errors: list[str]) -> None:
    if errors:
        raise InputError("; ".join(errors) + ".")


if __name__ == "__main__":
    main()
