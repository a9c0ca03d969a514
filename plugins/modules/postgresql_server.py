#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_postgresql_server``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_server
short_description: A PostgreSQL server with databases, each with an owner that can do nothing else
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Installs the distribution's PostgreSQL on Debian and Ubuntu, makes a cluster of its own called C(llm), tunes it for the machine and starts it.
    Other clusters are not touched, and the one called C(main), which the package would make, is not made.
  - It listens on its socket, and on loopback if told so, never elsewhere. Passwords are kept as SCRAM-SHA-256; what the server is given is the verifier, never
    the password. Each owner reaches its own database and no other.
  - The data has checksums. A cluster that was made without is used as it is, with a warning.
  - Changed settings are reloaded, and only those that ask for it restart the server.
  - A database or role that is no longer listed stays, but nobody is let in to it any more.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  state:
    description: V(absent) stops the server for good; packages, configuration and data stay.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description: V(absent) removes the cluster too, with its configuration, its data and its log.
    type: bool
    default: false
  version:
    description: Major version, such as V(17). Empty for that of the cluster that is there, or else the distribution's.
    type: str
    default: ''
  port:
    description: TCP port, which also is part of the socket's name.
    type: int
    default: 5432
  loopback:
    description: Whether it listens on 127.0.0.1 and ::1, beside its socket.
    type: bool
    default: true
  max_connections:
    description: Connections at the same time. Those of all O(databases) and ten more must fit.
    type: int
    default: 100
  settings:
    description: Further settings, which win over the module's own sizes.
    type: dict
    default: {}
  databases:
    description: The databases.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: The role that owns it.
        type: str
        required: true
      password:
        description: The role's password, at least 16 characters of printable ASCII. Without one it has none, and needs a O(databases[].system_user).
        type: str
        default: ''
      system_user:
        description: System user who comes through the socket as this role, without a password; nobody else comes that way then.
        type: str
        default: ''
      connection_limit:
        description: Connections that the role may have at the same time.
        type: int
        default: 40
"""

EXAMPLES = r"""
- name: LiteLLM's database
  baremetal.llm.postgresql_server:
    databases:
      - name: litellm
        owner: litellm
        password: "{{ lookup('baremetal.llm.secret', 'postgresql/litellm', dir=inventory_dir ~ '/.secrets') }}"
"""

RETURN = r"""
version:
  description: Major version; empty if check mode cannot know it yet.
  returned: O(state=present)
  type: str
  sample: "15"
checksums:
  description: Whether the data has checksums; none if check mode could not ask.
  returned: O(state=present)
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_server import Wish, absent, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "version": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 5432},
            "loopback": {"type": "bool", "default": True},
            "max_connections": {"type": "int", "default": 100},
            "settings": {"type": "dict", "default": {}},
            "databases": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "owner": {"type": "str", "required": True},
                    "password": {"type": "str", "default": "", "no_log": True},
                    "system_user": {"type": "str", "default": ""},
                    "connection_limit": {"type": "int", "default": 40},
                },
            },
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "absent":
            gone = absent(params["purge"], module.run_command, module.check_mode)
            module.exit_json(changed=gone.changed, diff=gone.diff)
        databases = tuple(Database(**one) for one in params["databases"])
        wish = Wish(params["version"], params["port"], params["loopback"], params["max_connections"], params["settings"], databases)
        outcome = present(wish, module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if outcome.checksums is False:
        version = outcome.version
        module.warn(
            f"PostgreSQL's cluster {version}/llm has no data checksums, so a broken disk would go unnoticed. To turn them on, stop postgresql@{version}-llm "
            f"and run /usr/lib/postgresql/{version}/bin/pg_checksums --enable -D /var/lib/postgresql/{version}/llm as postgres; it reads all data."
        )
    module.exit_json(changed=outcome.changed, diff=outcome.diff, version=outcome.version, checksums=outcome.checksums)


if __name__ == "__main__":
    main()
