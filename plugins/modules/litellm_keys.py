#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin edge over ``_litellm_keys``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litellm_keys
short_description: Keys, teams and users of a LiteLLM proxy with a database
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Takes the whole list, reads what LiteLLM has, and makes it so, several keys at a time.
  - Keys are compared by the hash that LiteLLM keeps of them. Another value under the same name is a rotation. The old key is then called
    C(<name>.previous), lives on for O(keys[].grace), which LiteLLM itself ends, and is deleted by the first run after that.
  - A new key goes on with the spend of the old one. While both live, each may spend half of what was left of the budget. Afterwards the new one is
    charged what the old one spent meanwhile, and has the whole budget.
  - LiteLLM ends the period of a budget at fixed times, midnight, Monday for V(7d) and the first of the month for V(30d) and V(1mo), so a rotation does not
    move it. Any other number of days counts from when a key is made, so that such a budget begins anew with a rotation; LiteLLM takes no other end.
  - A run that is interrupted leaves what the next one finishes.
  - Keys may use the models and none of LiteLLM's management routes.
  - Only what this module made is removed or renamed; it marks that in the metadata, as C(baremetal_llm).
  - No value of a key is in the result, the diff or an error.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  url:
    description: LiteLLM's address on this machine.
    type: str
    default: http://127.0.0.1:4000
  master_key:
    description: LiteLLM's master key.
    type: str
    required: true
  key_values:
    description: The value of every present key, by name. Each begins with C(sk-).
    type: dict
    required: true
  keys:
    description: The keys.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, LiteLLM's alias.
        type: str
        required: true
      state:
        description: V(absent) removes it.
        type: str
        choices: [present, absent]
        default: present
      models:
        description: Models and routes that it may use. Without it, all.
        type: list
        elements: str
      max_budget:
        description: What it may spend in a O(keys[].budget_duration).
        type: float
      budget_duration:
        description: The period of the budget, such as V(1mo) or V(7d). Months are V(1mo) only.
        type: str
      requests_per_minute:
        description: Requests per minute.
        type: int
      tokens_per_minute:
        description: Tokens per minute, those of the question and those of the answer.
        type: int
      metadata:
        description: What else LiteLLM shall keep with it.
        type: dict
      parallel:
        description: Requests at the same time.
        type: int
      team:
        description: Name of its team.
        type: str
      user:
        description: Name of its user.
        type: str
      expires:
        description: When it ends, a day, which is used up whole, or a time. UTC, unless it says otherwise.
        type: str
      grace:
        description: How long the old key lives on after a rotation, V(0) for not at all.
        type: str
        default: 24h
  teams:
    description: The teams, which keys may belong to.
    type: list
    elements: dict
    default: []
    suboptions: &owner
      name:
        description: Its name.
        type: str
        required: true
      state:
        description: V(absent) removes it with all its keys.
        type: str
        choices: [present, absent]
        default: present
      models:
        description: Models and routes that its keys may use. Without it, all.
        type: list
        elements: str
      max_budget:
        description: What its keys together may spend in a period.
        type: float
      budget_duration:
        description: The period of the budget, as of a key.
        type: str
      requests_per_minute:
        description: Requests per minute of its keys together.
        type: int
      tokens_per_minute:
        description: Tokens per minute of its keys together.
        type: int
      metadata:
        description: What else LiteLLM shall keep with it.
        type: dict
  users:
    description: The users, whom keys may belong to. LiteLLM counts a key that has a team too for the team alone.
    type: list
    elements: dict
    default: []
    suboptions:
      <<: *owner
      email:
        description: Its address.
        type: str
  purge:
    description: Removes keys, teams and users too that this module made and that are listed no more.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: A team with two keys
  baremetal.llm.litellm_keys:
    master_key: "{{ lookup('baremetal.llm.secret', 'litellm_master_key', dir=inventory_dir ~ '/.secrets', prefix='sk-') }}"
    teams:
      - {name: lab, max_budget: 100, budget_duration: 1mo}
    keys:
      - {name: laptop, team: lab, models: [chat], requests_per_minute: 60}
      - {name: nightly, team: lab, max_budget: 20, budget_duration: 1mo, expires: 2027-06-30}
    key_values: "{{ my_keys }}"
"""

RETURN = r"""
events:
  description: What was made, removed and rotated, a sentence each.
  type: list
  elements: str
  returned: success
  sample: ["key laptop: made"]
"""

import datetime as dt
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_keys import Wish, apply

Options = dict[str, dict[str, t.Any]]


def _shared() -> Options:
    return {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "models": {"type": "list", "elements": "str"},
        "max_budget": {"type": "float"},
        "budget_duration": {"type": "str"},
        "requests_per_minute": {"type": "int"},
        "tokens_per_minute": {"type": "int", "no_log": False},
        "metadata": {"type": "dict"},
    }


def _of_a_key() -> Options:
    return {
        **_shared(),
        "parallel": {"type": "int"},
        "team": {"type": "str"},
        "user": {"type": "str"},
        "expires": {"type": "str"},
        "grace": {"type": "str", "default": "24h"},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:4000"},
            "master_key": {"type": "str", "required": True, "no_log": True},
            "key_values": {"type": "dict", "required": True, "no_log": True},
            "keys": {"type": "list", "elements": "dict", "required": True, "options": _of_a_key(), "no_log": False},
            "teams": {"type": "list", "elements": "dict", "default": [], "options": _shared()},
            "users": {"type": "list", "elements": "dict", "default": [], "options": {**_shared(), "email": {"type": "str"}}},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wish = Wish(params["keys"], params["key_values"], params["teams"], params["users"], params["purge"])
        outcome = apply(Api(params["url"], params["master_key"]), wish, dt.datetime.now(dt.timezone.utc), module.check_mode)
    except LLMError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=outcome.changed, diff=outcome.diff, events=outcome.events)


if __name__ == "__main__":
    main()
