# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_secrets.pack``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: packed_secrets
author: [The baremetal.llm authors (@baremetal-llm)]
version_added: 0.2.0
short_description: All secrets of the controller in one piece
description:
  - Returns the files below O(dir) as a tar archive in Base64, for M(baremetal.llm.backup_secrets). The same files always give the same archive.
options:
  _terms:
    description: Mappings of further secrets, name to value, which the user keeps elsewhere. Empty values are left out.
    type: list
    elements: dict
  dir:
    description: Directory on the controller that holds the secrets.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Show how large they are, not what they are
  ansible.builtin.debug:
    msg: "{{ lookup('baremetal.llm.packed_secrets', dir=inventory_dir ~ '/.secrets') | length }}"
"""

RETURN = r"""
_raw:
  description: The archive.
  type: list
  elements: str
"""

import base64
import typing as t
from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import pack
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        more = {str(name): str(value) for one in terms for name, value in one.items()}
        try:
            return [base64.b64encode(pack(Path(self.get_option("dir")), more)).decode()]
        except (LLMError, OSError) as exc:
            raise AnsibleLookupError(str(exc)) from exc
