#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_python_app``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_app
short_description: A hash-locked virtual environment
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Builds a virtual environment from requirements that all carry hashes. Only wheels are installed.
  - An environment that was not completed is not used, and is built anew by the next run.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  name:
    description: Name of the application in messages.
    type: str
    required: true
  path:
    description: Directory of the environment.
    type: path
    required: true
  requirements:
    description: Content of a requirements file in which every entry has hashes.
    type: str
    required: true
  python:
    description: The interpreter of the environment.
    type: path
    default: /usr/bin/python3
  uv:
    description: Path of C(uv), which installs many times faster than pip. Without it the environment's own pip installs.
    type: str
    default: ''
  cache:
    description: Directory in which C(uv) keeps what it downloads. Nothing is kept by default.
    type: str
    default: ''
  python_index:
    description: Address of a package index (PEP 503) instead of the host's default.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Install an application
  baremetal.llm.python_app:
    name: litellm
    path: /opt/llm/litellm/1.106.2
    requirements: "{{ lookup('ansible.builtin.file', 'litellm-1.106.2.txt') }}"
    uv: /opt/llm/uv/current/bin/uv
"""

RETURN = r"""#"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._python_app import PythonApp, install, is_complete


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "requirements": {"type": "str", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "str", "default": ""},
            "cache": {"type": "str", "default": ""},
            "python_index": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    app = PythonApp(
        name=params["name"],
        target=Path(params["path"]),
        requirements=params["requirements"],
        python=params["python"],
        uv=params["uv"],
        cache=params["cache"],
        index=params["python_index"],
    )
    difference = Difference()
    difference.add(str(app.target), "present" if is_complete(app) else None, "present")
    try:
        if difference.changed and not module.check_mode:
            install(app, module.run_command)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict())


if __name__ == "__main__":
    main()
