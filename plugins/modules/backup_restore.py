#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_restore``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_restore
short_description: Put a backup in the place of LiteLLM's database, and take it back
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Restores a dump into a new database beside the present one, compares each table's rows with the manifest, and swaps the two by their names in one
    transaction.
  - The database that was there stays under another name until it is dropped by O(state=dropped).
  - A backup of a newer PostgreSQL or of a newer LiteLLM is refused before anything is made.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
  idempotent:
    support: none
options:
  state:
    description:
      - V(restored) puts O(dump) in place.
      - V(given_back) puts O(old) in place again; the other one gets a name with C(_failed_) in it.
      - V(dropped) removes O(old) for good.
    type: str
    choices: [restored, given_back, dropped]
    default: restored
  dump:
    description: The decrypted database, on this host.
    type: path
  manifest:
    description: The backup's manifest, as M(baremetal.llm.backup_open) returns it.
    type: dict
  database:
    description: Name of LiteLLM's database.
    type: str
    default: litellm
  owner:
    description: The role that owns it.
    type: str
    default: litellm
  old:
    description: The database that O(state=restored) has put aside.
    type: str
  units:
    description: Services that are stopped while the names change, and started again in this order.
    type: list
    elements: str
    default: [llm-litellm, llm-litellm-standby]
  server:
    description: Another server than this host's own.
    type: dict
    suboptions:
      host: {description: Its name or address., type: str, required: true}
      port: {description: Its port., type: int, default: 5432}
      user: {description: The role to log in as; it must be allowed to create databases., type: str, required: true}
      passfile: {description: File with its password in libpq's format., type: path, default: ''}
      tls: {description: As libpq's C(sslmode)., type: str, default: verify-full}
      ca: {description: File with the authority's certificate., type: path, default: ''}
"""

EXAMPLES = r"""
- name: Put it in place
  baremetal.llm.backup_restore:
    dump: /var/tmp/litellm.dump
    manifest: "{{ opened.manifest }}"
  register: restored

- name: Take it back
  baremetal.llm.backup_restore:
    state: given_back
    old: "{{ restored.old }}"
"""

RETURN = r"""
old:
  description: How the database that was there is called now; empty if there was none.
  returned: O(state=restored)
  type: str
rows:
  description: How many rows were restored and compared.
  returned: O(state=restored)
  type: int
older:
  description: Whether the backup's tables are those of an older LiteLLM, which brings them up to date at its start.
  returned: O(state=restored)
  type: bool
failed_database:
  description: How the database is called that was in place until now.
  returned: O(state=given_back)
  type: str
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Server, drop
from ansible_collections.baremetal.llm.plugins.module_utils._backup_restore import Place, as_contents, give_back, restore
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["restored", "given_back", "dropped"], "default": "restored"},
            "dump": {"type": "path"},
            "manifest": {"type": "dict"},
            "database": {"type": "str", "default": "litellm"},
            "owner": {"type": "str", "default": "litellm"},
            "old": {"type": "str"},
            "units": {"type": "list", "elements": "str", "default": ["llm-litellm", "llm-litellm-standby"]},
            "server": {
                "type": "dict",
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 5432},
                    "user": {"type": "str", "required": True},
                    "passfile": {"type": "path", "default": "", "no_log": False},
                    "tls": {"type": "str", "default": "verify-full"},
                    "ca": {"type": "path", "default": ""},
                },
            },
        },
        required_if=[("state", "restored", ["dump", "manifest"]), ("state", "given_back", ["old"]), ("state", "dropped", ["old"])],
    )
    params = module.params
    server = Server(system_user="", **params["server"]) if params["server"] else Server()
    place = Place(params["database"], params["owner"], tuple(params["units"]), server)
    try:
        answer = _do(params, place, module)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=True, **answer)


def _do(params: dict, place: Place, module: AnsibleModule) -> dict:
    if params["state"] == "restored":
        manifest = params["manifest"]
        return asdict(restore(Path(params["dump"]), as_contents(manifest), manifest["litellm"], place, module.run_command))
    if params["state"] == "given_back":
        return {"failed_database": give_back(params["old"], place, module.run_command)}
    drop(place.server, params["old"])
    return {}


if __name__ == "__main__":
    main()
