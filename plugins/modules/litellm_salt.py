#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_salt``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litellm_salt
short_description: Whether LiteLLM's salt key is the one with which its database was written
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Fails if it is another, and says what could not be read any more. It only looks.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: A database that does not answer may be what an earlier task would have made.
  diff_mode:
    support: none
options:
  address:
    description: Address of the database in Prisma's form, password included.
    type: str
    required: true
  salt_key:
    description: The key.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse another salt key
  baremetal.llm.litellm_salt:
    address: "{{ litellm_database_url }}"
    salt_key: "{{ litellm_salt_key }}"
"""

RETURN = r"""
remembered:
  description: Whether the database remembers a key; if not, it is new, or check mode could not ask.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import ConnectError, NoClient
from ansible_collections.baremetal.llm.plugins.module_utils._salt import check


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True, "no_log": True},
            "salt_key": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    remembered = False
    try:
        remembered = check(module.params["address"], module.params["salt_key"])
    except (ConnectError, NoClient) as exc:
        if not module.check_mode:
            module.fail_json(msg=str(exc), exception=exc)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=False, remembered=remembered)


if __name__ == "__main__":
    main()
