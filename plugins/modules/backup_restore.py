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
  - A backup of a newer PostgreSQL or of a newer LiteLLM is refused before anything is made, and so is a server that would not allow it.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: With O(state=prepared) it refuses what would be refused, and makes nothing. The other states do nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
options:
  state:
    description:
      - V(prepared) looks whether it can be done and makes O(directory), for root alone, with a key that a sealed dump has to be sealed to.
      - V(restored) puts O(dump) in place.
      - V(given_back) puts O(old) in place again; the other one gets a name with C(_failed_) in it.
      - V(dropped) removes O(old) for good.
      - V(forgotten) removes O(directory).
      - V(stopped) and V(started) stop and start O(services) on a host that shares the database, which another host replaces.
    type: str
    choices: [prepared, restored, given_back, dropped, forgotten, stopped, started]
    default: restored
  directory:
    description: Directory on this host for the dump.
    type: path
    default: /var/lib/llm/restore
  sealed:
    description: Whether the dump is going to be sealed.
    type: bool
    default: true
  dump:
    description: The dump, on this host. It is opened with the key in its directory, if there is one.
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
  services:
    description: What uses the database, and is stopped while the names change, and started again in this order.
    type: list
    elements: str
    default: [llm-litellm, llm-litellm-standby]
  containers:
    description: Whether O(services) are containers of Docker, not units of systemd.
    type: bool
    default: false
  server:
    description: Another server than this host's own.
    type: dict
    suboptions:
      host: {description: Its name or address., type: str, required: true}
      port: {description: Its port., type: int, default: 5432}
      user: {description: The role to log in as; it must be allowed to create databases., type: str, required: true}
      tls: {description: As libpq's C(sslmode)., type: str, default: verify-full}
      ca: {description: File with the authority's certificate; empty for those that the system trusts., type: path, default: ''}
  server_password:
    description: The password for O(server); PostgreSQL's programs get it in a file that only root can read, which is gone afterwards.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: See whether it can be done, and make a place
  baremetal.llm.backup_restore:
    state: prepared
    manifest: "{{ opened.manifest }}"
  register: ready

- name: Put it in place
  baremetal.llm.backup_restore:
    dump: "{{ ready.directory }}/litellm.dump.age"
    manifest: "{{ opened.manifest }}"
  register: restored

- name: Take it back
  baremetal.llm.backup_restore:
    state: given_back
    old: "{{ restored.old }}"
"""

RETURN = r"""
directory:
  description: The directory that was made.
  returned: O(state=prepared), not in check mode
  type: str
public_key:
  description: What a sealed dump has to be sealed to.
  returned: O(state=prepared)
  type: str
there:
  description: Whether a database is there, which would be replaced.
  returned: O(state=prepared)
  type: bool
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
  returned: O(state=prepared) and O(state=restored)
  type: bool
failed_database:
  description: How the database is called that was in place until now.
  returned: O(state=given_back)
  type: str
"""

import contextlib
import typing as t
from dataclasses import asdict, replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Server, drop, passfile
from ansible_collections.baremetal.llm.plugins.module_utils._backup_restore import Place, as_contents, forget, give_back, prepare, restore
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._services import Services


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["prepared", "restored", "given_back", "dropped", "forgotten", "stopped", "started"], "default": "restored"},
            "directory": {"type": "path", "default": "/var/lib/llm/restore"},
            "sealed": {"type": "bool", "default": True},
            "dump": {"type": "path"},
            "manifest": {"type": "dict"},
            "database": {"type": "str", "default": "litellm"},
            "owner": {"type": "str", "default": "litellm"},
            "old": {"type": "str"},
            "services": {"type": "list", "elements": "str", "default": ["llm-litellm", "llm-litellm-standby"]},
            "containers": {"type": "bool", "default": False},
            "server": {
                "type": "dict",
                "options": {
                    "host": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 5432},
                    "user": {"type": "str", "required": True},
                    "tls": {"type": "str", "default": "verify-full"},
                    "ca": {"type": "path", "default": ""},
                },
            },
            "server_password": {"type": "str", "default": "", "no_log": True},
        },
        required_if=[
            ("state", "prepared", ["manifest"]),
            ("state", "restored", ["dump", "manifest"]),
            ("state", "given_back", ["old"]),
            ("state", "dropped", ["old"]),
        ],
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode and params["state"] != "prepared":
        module.exit_json(changed=False, skipped=True)
    try:
        with _server(params) as server:
            services = Services(tuple(params["services"]), module.run_command, Docker() if params["containers"] else None)
            place = Place(params["database"], params["owner"], services, server)
            answer = _do(params, place, module)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(**{"changed": True, **answer})


@contextlib.contextmanager
def _server(params: dict) -> t.Iterator[Server]:
    """This host's own, or the one given, with its password where PostgreSQL's programs look for it."""
    if not params["server"]:
        yield Server()
        return
    server = Server(system_user="", **params["server"])
    with passfile(server.user, params["server_password"]) as path:
        yield replace(server, passfile=path)


def _do(params: dict, place: Place, module: AnsibleModule) -> dict:
    directory, manifest = Path(params["directory"]), params["manifest"]
    if params["state"] == "prepared":
        ready = prepare(as_contents(manifest), manifest["litellm"], place, directory, sealed=params["sealed"], check=module.check_mode)
        return {**asdict(ready), "changed": False, **({} if module.check_mode else {"directory": str(directory)})}
    if params["state"] == "restored":
        return asdict(restore(Path(params["dump"]), as_contents(manifest), manifest["litellm"], place))
    if params["state"] == "given_back":
        return {"failed_database": give_back(params["old"], place)}
    if params["state"] in ("stopped", "started"):
        (place.services.stop if params["state"] == "stopped" else place.services.start)()
        return {}
    if params["state"] == "dropped":
        drop(place.server, params["old"])
        return {}
    forget(directory)
    return {"changed": False}


if __name__ == "__main__":
    main()
