#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_smoke``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litellm_smoke
short_description: Whether LiteLLM does its work with its database
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Makes a key, asks with it for the list of models and for one token, and removes the key.
  - One model that answers is enough. Fails if none does, or if the key is not let in.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: Nothing is asked.
  diff_mode:
    support: none
options:
  urls:
    description: Addresses of LiteLLM's instances on this machine, each of which is asked.
    type: list
    elements: str
    required: true
  master_key:
    description: The administrator's key.
    type: str
    required: true
  models:
    description: Models that must be on offer, the first of which is asked first.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that one answer may take.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Ask LiteLLM
  baremetal.llm.litellm_smoke:
    urls: [http://127.0.0.1:4000]
    master_key: "{{ litellm_master_key }}"
    models: [chat]
"""

RETURN = r"""
answered:
  description: The models that answered, one for each of O(urls).
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._smoke import smoke


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "master_key": {"type": "str", "required": True, "no_log": True},
            "models": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, answered=[])
    try:
        answered = [smoke(url, params["master_key"], params["models"], params["timeout"]) for url in params["urls"]]
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=False, answered=answered)


if __name__ == "__main__":
    main()
