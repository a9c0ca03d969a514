#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_secrets``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_secrets
short_description: The controller's secrets, kept on a gateway for its backups
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Keeps what the controller has packed as C(secrets.tar.age), encrypted by age to public keys of the user's, so that nobody can read it on the gateway.
  - Without a public key it refuses, unless told that they may lie there in the clear, as C(secrets.tar), for root alone.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    details: It says only that they changed.
options:
  state:
    description: V(absent) removes them, and warns that no backup holds them.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: Directory to keep them in.
    type: path
    required: true
  packed:
    description: What the lookup P(baremetal.llm.packed_secrets#lookup) returns. Required if O(state=present).
    type: str
  key:
    description: The installation's key for backups, with which a change is recognised. Required if O(state=present).
    type: str
  encrypt_to:
    description: Public keys of age's (C(age1...)). Whoever has the private key of one of them can read the secrets.
    type: list
    elements: str
    default: []
  in_the_clear:
    description: Whether they may be kept unencrypted.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Keep the secrets for the backups
  baremetal.llm.backup_secrets:
    directory: /var/lib/llm/backup
    packed: "{{ lookup('baremetal.llm.packed_secrets', dir=inventory_dir ~ '/.secrets') }}"
    key: "{{ lookup('baremetal.llm.secret', 'backup_key', dir=inventory_dir ~ '/.secrets') }}"
    encrypt_to: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]
"""

RETURN = r"""#"""

import base64
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import forget, keep
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

_WITHOUT = (
    "The backups do not hold the secrets (backup_secrets is false): without the salt, what LiteLLM has encrypted in its database is lost with it, and without "
    "the keys no client gets in. Keep a copy of the controller's directory of secrets elsewhere."
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "path", "required": True},
            "packed": {"type": "str", "no_log": True},
            "key": {"type": "str", "no_log": True},
            "encrypt_to": {"type": "list", "elements": "str", "default": []},
            "in_the_clear": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ["packed", "key"])],
        supports_check_mode=True,
    )
    params, directory, check = module.params, Path(module.params["directory"]), module.check_mode
    try:
        if params["state"] == "absent":
            found = forget(directory, check)
            module.warn(_WITHOUT)
        else:
            packed = base64.b64decode(params["packed"])
            found = keep(directory, packed, params["encrypt_to"], params["key"], in_the_clear=params["in_the_clear"], check=check)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=found.changed, diff=found.as_dict())


if __name__ == "__main__":
    main()
