#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_certbot``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certbot_certificate
short_description: A certificate of an ACME authority, by the host's certbot
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Asks for a certificate, unless the host has it. certbot's own timer renews it then, in the way that it was got.
  - It is asked for anew with other names, from another authority, or where it is to be proven in another way.
  - If the authority refuses, what was there stays.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  name:
    description: certbot's name for the certificate.
    type: str
    required: true
  names:
    description: The DNS names in it.
    type: list
    elements: str
    required: true
  email:
    description: Address that the authority writes to.
    type: str
    required: true
  server:
    description: Address of the authority's directory.
    type: str
    default: https://acme-v02.api.letsencrypt.org/directory
  webroot:
    description: Directory of a web server on port 80 that is there already. Without it certbot answers by itself.
    type: path
  port:
    description: Port on which certbot answers.
    type: int
    default: 80
  hook:
    description: A program without arguments that puts a new certificate in its place. certbot runs it after every renewal.
    type: path
    required: true
  deployed:
    description: Where O(hook) puts the certificate with its chain. If something else is there, it is run.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Have a certificate
  baremetal.llm.certbot_certificate:
    name: llm-files
    names: [files.example.org]
    email: ops@example.org
    hook: /usr/local/sbin/llm-files-certificate
    deployed: /etc/llm/files/acme.crt
"""

RETURN = r"""#"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._certbot import LETS_ENCRYPT, Wish, present
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "email": {"type": "str", "required": True},
            "server": {"type": "str", "default": LETS_ENCRYPT},
            "webroot": {"type": "path"},
            "port": {"type": "int", "default": 80},
            "hook": {"type": "path", "required": True},
            "deployed": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    wish = Wish(
        params["name"],
        tuple(params["names"]),
        params["email"],
        params["hook"],
        Path(params["deployed"]),
        params["server"],
        params["webroot"] or "",
        params["port"],
    )
    try:
        difference = present(wish, module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict())


if __name__ == "__main__":
    main()
