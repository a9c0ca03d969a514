#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_postgresql_external``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_external_info
short_description: Whether a PostgreSQL server that somebody else runs is fit for use
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Logs in to every database as its owner and looks at the server's version, at the encryption and at what the owner may do. Fails with what to do
    if something does not fit. Changes nothing.
  - A server below version 13, a replica, an encoding other than UTF8 and an owner that may not create tables are refused. An owner that is a superuser
    is warned of.
  - Needs psycopg2 for the host's Python.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: Without psycopg2 it asks nothing, because it may be that nobody has installed it yet.
  diff_mode:
    support: none
options:
  host:
    description: Name or address of the server.
    type: str
    required: true
  port:
    description: Its TCP port.
    type: int
    default: 5432
  tls:
    description: V(verify-full) checks the server's certificate and its name, V(require) only encrypts, V(disable) does not even that.
    type: str
    choices: [verify-full, require, disable]
    default: verify-full
  ca:
    description: Certificate of the authority that signed the server's, in PEM form, for O(tls=verify-full). Empty for those that the system trusts.
    type: str
    default: ''
  databases:
    description: The databases, with their owners, which log in.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: The role that logs in.
        type: str
        required: true
      password:
        description: Its password.
        type: str
        default: ''
      system_user:
        description: Not looked at, as O(databases[].connection_limit).
        type: str
        default: ''
      connection_limit:
        description: Not looked at; the same list as that of M(baremetal.llm.postgresql_server) serves.
        type: int
        default: 40
"""

EXAMPLES = r"""
- name: Somebody else's server
  baremetal.llm.postgresql_external_info:
    host: db.example.org
    ca: "{{ lookup('ansible.builtin.file', 'db-ca.crt') }}"
    databases:
      - {name: litellm, owner: litellm, password: "{{ my_password }}"}
"""

RETURN = r"""
version:
  description: Major version of the server; empty if it was not asked.
  returned: success
  type: str
  sample: "17"
encrypted:
  description: Whether the connections were.
  returned: success
  type: bool
superusers:
  description: Owners that are superusers.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import NoClient
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_external import TLS_MODES, External, ask


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 5432},
            "tls": {"type": "str", "choices": list(TLS_MODES), "default": "verify-full"},
            "ca": {"type": "str", "default": ""},
            "databases": {
                "type": "list",
                "elements": "dict",
                "required": True,
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
    databases = [Database(**one) for one in params["databases"]]
    try:
        if not databases:
            module.fail_json(msg="postgresql_databases is empty: an external server is asked as the owners of its databases.")
        answer = ask(External(params["host"], params["port"], params["tls"], params["ca"]), databases)
    except NoClient as exc:
        if not module.check_mode:
            module.fail_json(msg=str(exc), exception=exc)
        module.warn(f"{exc} PostgreSQL at {params['host']} was not asked.")
        module.exit_json(changed=False, version="", encrypted=False, superusers=[])
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if answer.powerful:
        module.warn(f"{', '.join(answer.powerful)} at {params['host']} is a superuser: whoever gets its password has the whole server. Give it a role of less.")
    module.exit_json(changed=False, version=answer.version, encrypted=answer.encrypted, superusers=list(answer.powerful))


if __name__ == "__main__":
    main()
