# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_inventory.inventory_errors``."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._inventory import inventory_errors
from ansible_collections.baremetal.llm.plugins.module_utils._key_files import read_key
from ansible_collections.baremetal.llm.plugins.module_utils._keys_errors import key_file_errors
from ansible_collections.baremetal.llm.plugins.module_utils._topology import GATEWAYS


def _inventory_errors(catalogue: t.Any, hostvars: t.Any, groups: t.Any, secrets_dir: str = "", rotate: t.Any = ()) -> t.Any:
    try:
        found = inventory_errors(catalogue, hostvars, groups)
        if not found and secrets_dir:
            for host in groups.get(GATEWAYS, []):
                found += key_file_errors(host, hostvars[host], lambda name: read_key(secrets_dir, name), rotate)
        return found
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"inventory_errors": _inventory_errors}
