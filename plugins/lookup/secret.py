# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_secrets.ensure_secret``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
author: [The baremetal.llm authors (@baremetal-llm)]
version_added: 0.1.0
short_description: A secret that is made at first use
description:
  - Returns the content of a file below O(dir), without surrounding white space.
  - If there is no such file, it is made with mode V(0600) and 256 random bits as hexadecimal digits. This happens in check mode too.
options:
  _terms:
    description: Names of the secrets, paths below O(dir).
    type: list
    elements: str
    required: true
  dir:
    description: Directory on the controller that holds the secrets.
    type: path
    required: true
  prefix:
    description: What a newly made secret begins with.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Show where the value comes from, not the value
  ansible.builtin.debug:
    msg: "{{ lookup('baremetal.llm.secret', 'litellm_master_key', dir=inventory_dir ~ '/.secrets', prefix='sk-') | length }}"
"""

RETURN = r"""
_raw:
  description: The secrets, in the order of their names.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._secrets import ensure_secret


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [ensure_secret(self.get_option("dir"), str(term), self.get_option("prefix")) for term in terms]
        except (LLMError, OSError) as exc:
            raise AnsibleLookupError(str(exc)) from exc
