# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_secrets.with_keys``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: client_keys
author: [The baremetal.llm authors (@baremetal-llm)]
version_added: 0.1.0
short_description: The keys that the front door knows
description:
  - Returns those of the given keys that are present and have not expired, each with its RV(_raw[].key).
  - A key without a value of its own gets one from the file C(keys/<name>) below O(dir), which is made at first use. This happens in check mode too.
options:
  _terms:
    description: The keys as in C(llm_keys), mappings with at least a C(name).
    type: list
    elements: dict
    required: true
  dir:
    description: Directory on the controller that holds the secrets.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Name the clients
  ansible.builtin.debug:
    msg: "{{ query('baremetal.llm.client_keys', {'name': 'laptop'}, dir=inventory_dir ~ '/.secrets') | map(attribute='name') }}"
"""

RETURN = r"""
_raw:
  description: The keys as they were given.
  type: list
  elements: dict
  contains:
    key:
      description: The value, an API key.
      type: str
    previous_key:
      description: The value before the last rotation, as long as its grace lasts.
      type: str
"""

import datetime as dt
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._key_files import with_keys


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return with_keys(self._flatten(terms), self.get_option("dir"), dt.datetime.now(dt.timezone.utc))
        except (LLMError, OSError) as exc:
            raise AnsibleLookupError(str(exc)) from exc
