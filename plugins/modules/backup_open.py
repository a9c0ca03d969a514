#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_open``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_open
short_description: Prove a backup and open it, on the controller
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Reads every byte of a backup, checks whose it is, decrypts it, compares the salt, and puts back the secrets that the controller has lost.
  - All that can be refused is refused before a machine is touched, and before anything is put back.
  - Nothing is decrypted to a disk here. With O(target) the dump is sealed again on its way, to a key that the gateway has made for this one time.
  - It runs where the private key is, which is on the controller.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    support: none
options:
  backup:
    description: The directory of one backup.
    type: path
    required: true
  target:
    description: File for the dump of an encrypted backup, sealed to O(public_key); the caller removes it. Without it, it is only proven that it can be opened.
    type: path
  public_key:
    description: What O(target) is sealed to, as M(baremetal.llm.backup_restore) returns it. Required with O(target).
    type: str
  secrets:
    description: The controller's directory of secrets. Those that are missing are put there, those that are there stay.
    type: path
    required: true
  identity:
    description: File with the private key of age's, for a backup that is encrypted.
    type: path
    default: ''
  salt:
    description: The salt of this installation, if it is not in O(secrets).
    type: str
    default: ''
  foreign:
    description: Take the backup of another installation too. Who made it cannot be proven then, only that it is whole.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Open a backup
  baremetal.llm.backup_open:
    backup: "{{ inventory_dir }}/.backups/gateway/20261121T023000Z"
    target: "{{ scratch.path }}/litellm.dump.age"
    public_key: "{{ ready.public_key }}"
    secrets: "{{ inventory_dir }}/.secrets"
    identity: ~/backup.key
  delegate_to: localhost
"""

RETURN = r"""
manifest:
  description: What the backup says of itself.
  returned: success
  type: dict
dump:
  description: Path of the file that the gateway has to be given.
  returned: success
  type: str
sealed:
  description: Whether the database in the backup is encrypted.
  returned: success
  type: bool
put_back:
  description: Names of the secrets that were missing and are there now; in check mode those that would be.
  returned: success
  type: list
  elements: str
different:
  description: Names of the secrets that are others than in the backup, and stay.
  returned: success
  type: list
  elements: str
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_open import Wish, open_backup
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "backup": {"type": "path", "required": True},
            "target": {"type": "path"},
            "public_key": {"type": "str", "no_log": False},
            "secrets": {"type": "path", "required": True, "no_log": False},
            "identity": {"type": "path", "default": ""},
            "salt": {"type": "str", "default": "", "no_log": True},
            "foreign": {"type": "bool", "default": False},
        },
        required_by={"target": ["public_key"]},
        supports_check_mode=True,
    )
    params = module.params
    wish = Wish(
        Path(params["backup"]),
        Path(params["secrets"]),
        target=params["target"] or "",
        public_key=params["public_key"] or "",
        identity=params["identity"],
        salt=params["salt"],
        foreign=params["foreign"],
        check=module.check_mode,
    )
    try:
        opened = open_backup(wish)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if opened.different:
        module.warn(f"These secrets are not those of the backup, and stay as they are: {', '.join(opened.different)}.")
    module.exit_json(
        changed=bool(opened.put_back),
        manifest=asdict(opened.manifest),
        dump=str(opened.dump),
        sealed=opened.sealed,
        put_back=list(opened.put_back),
        different=list(opened.different),
    )


if __name__ == "__main__":
    main()
