#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin edge over ``_key_files``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: key_files
short_description: Rotate the keys on the controller
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Runs on the controller. A key is the file C(keys/<name>) below O(dir), which P(baremetal.llm.client_keys#lookup) makes at first use.
  - A key that is to be rotated gets a new value. The old one and when it ends go into C(keys/<name>.previous), which is removed by the first run after that.
  - The files of an absent key are removed, so that a key that leaked cannot come back under its name.
  - With O(purge) the file of a key that O(keys) does not have becomes C(keys/<name>.removed). Nobody named that key, so its value is not lost if it is
    missing by mistake. Listed again, it is made anew, unless its file is renamed back before.
  - A rotation that was interrupted is finished by the next run.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  idempotent:
    support: partial
    description: O(rotate) rotates with every run.
options:
  dir:
    description: Directory that holds the secrets.
    type: path
    required: true
  keys:
    description: The keys as in C(llm_keys).
    type: list
    elements: dict
    required: true
  rotate:
    description: Names of keys to rotate now.
    type: list
    elements: str
    default: []
  purge:
    description: Sets the files of keys aside that O(keys) does not have.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Rotate one key, and those that are due
  baremetal.llm.key_files:
    dir: "{{ inventory_dir }}/.secrets"
    keys: "{{ llm_keys | baremetal.llm.key_fields('files') }}"
    rotate: [laptop]
  delegate_to: localhost
"""

RETURN = r"""
events:
  description: What was done to which key, and why.
  type: list
  elements: str
  returned: success
  sample: ["rotate laptop, because llm_rotate names it"]
"""

import datetime as dt

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._key_files import carry_out, planned

AFTER = {"rotate": "a new key", "forget": "no previous key", "remove": "none", "set aside": "called .removed"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dir": {"type": "path", "required": True},
            "keys": {"type": "list", "elements": "dict", "required": True, "no_log": False},
            "rotate": {"type": "list", "elements": "str", "default": []},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params, now = module.params, dt.datetime.now(dt.timezone.utc)
    difference = Difference()
    try:
        changes = planned(params["keys"], params["dir"], params["rotate"], now, params["purge"])
        keys = {key["name"]: key for key in params["keys"]}
        for change in changes:
            difference.add(f"key file {change.name}", "as it was", AFTER[change.what])
            if not module.check_mode:
                carry_out(change, keys.get(change.name, {}), params["dir"], now)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc))
    events = [f"{change.what} {change.name}, because {change.why}" for change in changes]
    module.exit_json(changed=bool(changes), diff=difference.as_dict(), events=events)


if __name__ == "__main__":
    main()
