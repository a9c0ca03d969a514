#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_database_trial``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_trial
short_description: A new version of LiteLLM tried on a copy of its database, and the way back
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Dumps a database of this machine's server, restores the dump beside it, compares the two row by row, and lets the new version make its tables there.
  - The dump stays, the three newest of them; the copy does not. What the new version may not do, it may not do with the copy either.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: Nothing is dumped or tried.
  diff_mode:
    support: none
  idempotent:
    support: none
    details: Each call makes another dump.
options:
  state:
    description: V(tried) dumps and tries, V(back) brings the database back from the dump.
    type: str
    choices: [tried, back]
    default: tried
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role that owns it.
    type: str
    required: true
  port:
    description: Port of the server, which is part of its socket's name.
    type: int
    default: 5432
  dump:
    description: File of the dump. With O(state=tried) it must not exist yet.
    type: path
    required: true
  python:
    description: Python of the new version, in O(image) if that is given. Required if O(state=tried).
    type: str
  image:
    description: Image that has the new version; empty if it is installed on the machine.
    type: str
    default: ''
  directory:
    description: Where C(migrate.py) and what it needs stand.
    type: path
    default: /etc/llm/litellm
  environment:
    description: Environment of the new version.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Try LiteLLM 1.106.2 on a copy
  baremetal.llm.database_trial:
    database: litellm
    owner: litellm
    dump: /var/lib/llm/upgrades/litellm-to-1.106.2.dump
    python: /opt/llm/litellm/1.106.2-0123abcd/bin/python
"""

RETURN = r"""
migrations:
  description: What the new version adds to the tables.
  returned: O(state=tried)
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._database_trial import Trial, attempt, bring_back
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["tried", "back"], "default": "tried"},
            "database": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "port": {"type": "int", "default": 5432},
            "dump": {"type": "path", "required": True},
            "python": {"type": "str"},
            "image": {"type": "str", "default": ""},
            "directory": {"type": "path", "default": "/etc/llm/litellm"},
            "environment": {"type": "dict", "default": {}},
        },
        required_if=[("state", "tried", ["python"])],
        supports_check_mode=True,
    )
    params = module.params
    trial = Trial(
        name=params["database"],
        owner=params["owner"],
        dump=Path(params["dump"]),
        python=params["python"] or "",
        directory=Path(params["directory"]),
        environment={name: str(value) for name, value in params["environment"].items()},
        port=params["port"],
        image=params["image"],
    )
    if module.check_mode:
        module.exit_json(changed=True, migrations=[])
    try:
        if params["state"] == "back":
            bring_back(trial)
            module.exit_json(changed=True)
        module.exit_json(changed=True, migrations=list(attempt(trial)))
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)


if __name__ == "__main__":
    main()
