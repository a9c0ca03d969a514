#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin edge over ``_litellm_spend``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litellm_spend_info
short_description: What was spent, by key and model
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Reads LiteLLM's daily records of all keys, those that are gone included. It only reads.
  - LiteLLM writes down what it counted every few seconds, so the last requests may be missing.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    support: none
    description: It changes nothing, so there is nothing to show.
options:
  url:
    description: LiteLLM's address on this machine.
    type: str
    default: http://127.0.0.1:4000
  master_key:
    description: LiteLLM's master key.
    type: str
    required: true
  first:
    description: First day, such as V(2026-11-01), in UTC. Empty for the first of the month of O(last).
    type: str
    default: ''
  last:
    description: Last day. Empty for today.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Ask what was spent this month
  baremetal.llm.litellm_spend_info:
    master_key: "{{ lookup('baremetal.llm.secret', 'litellm_master_key', dir=inventory_dir ~ '/.secrets', prefix='sk-') }}"
  register: spent

- name: Show it
  ansible.builtin.debug:
    msg: "{{ spent.lines }}"
"""

RETURN = r"""
rows:
  description: A row for each day, key and model, with requests, failed requests, tokens and spend.
  type: list
  elements: dict
  returned: success
lines:
  description: A table by key and model, to print.
  type: list
  elements: str
  returned: success
csv:
  description: The rows as CSV, with a head.
  type: str
  returned: success
first:
  description: First day.
  type: str
  returned: success
last:
  description: Last day.
  type: str
  returned: success
"""

import datetime as dt

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_spend import as_csv, spend, table


def day(name: str, value: str, otherwise: dt.date) -> dt.date:
    try:
        return dt.date.fromisoformat(value) if value else otherwise
    except ValueError:
        raise InputError(f"{name} is {value!r}: it must be a day, such as 2026-11-01.") from None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:4000"},
            "master_key": {"type": "str", "required": True, "no_log": True},
            "first": {"type": "str", "default": ""},
            "last": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        last = day("last", params["last"], dt.datetime.now(dt.timezone.utc).date())
        first = day("first", params["first"], last.replace(day=1))
        rows = spend(Api(params["url"], params["master_key"]), first, last)
    except LLMError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, rows=rows, lines=table(rows, first, last), csv=as_csv(rows), first=first.isoformat(), last=last.isoformat())


if __name__ == "__main__":
    main()
