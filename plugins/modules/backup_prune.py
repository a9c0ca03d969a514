#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_store.prune``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_prune
short_description: Remove backups that are older than somebody wants to keep
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Thins out a directory of backups, as the gateways do by themselves with their own. Copies on the controller have nobody else who does.
  - The newest one always stays. What an interrupted copy left goes too.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    support: none
options:
  directory:
    description: Directory that holds the backups.
    type: path
    required: true
  keep:
    description: How many stay.
    type: dict
    required: true
    suboptions:
      last: {description: The last ones., type: int, default: 1}
      daily: {description: The newest of so many days., type: int, default: 0}
      weekly: {description: The newest of so many weeks., type: int, default: 0}
      monthly: {description: The newest of so many months., type: int, default: 0}
"""

EXAMPLES = r"""
- name: Keep a week of copies
  baremetal.llm.backup_prune:
    directory: "{{ inventory_dir }}/.backups/gateway"
    keep: {daily: 7}
  delegate_to: localhost
"""

RETURN = r"""
removed:
  description: Names of those that were removed, oldest first.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_store import Keep, alone, expired, names, prune
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    spans = {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "keep": {"type": "dict", "required": True, "options": {name: {"type": "int", "default": value} for name, value in spans.items()}},
        },
        supports_check_mode=True,
    )
    directory, keep = Path(module.params["directory"]), Keep(**module.params["keep"])
    try:
        removed = expired(names(directory), keep)
        if not module.check_mode:
            with alone(directory):
                removed = prune(directory, keep)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=bool(removed), removed=removed)


if __name__ == "__main__":
    main()
