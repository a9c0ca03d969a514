#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_backup_manifest`` and ``_backup_store``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: Which backups of a gateway there are, and whether they are sound
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Lists the backups in a directory, of a gateway or of the controller, and reads every byte of those that it is told to prove.
  - A damaged one is listed with what is wrong with it; it fails only if told to.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  diff_mode:
    support: none
options:
  directory:
    description: Directory that holds the backups.
    type: path
    required: true
  prove:
    description: Which of them to read as a whole.
    type: str
    choices: [none, newest, all]
    default: newest
  key:
    description: The installation's key for backups. Without it only the sums are looked at, not who made them.
    type: str
  required:
    description: Fail if there is none, or if one that was read is damaged.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Read all backups again
  baremetal.llm.backup_info:
    directory: /var/backups/llm
    prove: all
    key: "{{ lookup('baremetal.llm.secret', 'backup_key', dir=inventory_dir ~ '/.secrets') }}"
"""

RETURN = r"""
backups:
  description: The backups, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: "Name, which is the time at which it was made.", type: str, returned: always}
    path: {description: Its directory., type: str, returned: always}
    bytes: {description: Size of all its files., type: int, returned: always}
    files: {description: Names of all its files., type: list, elements: str, returned: always}
    proven: {description: Whether every byte was read and found right., type: bool, returned: always}
    error: {description: What is wrong with it; empty if nothing is., type: str, returned: always}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError, read, verify
from ansible_collections.baremetal.llm.plugins.module_utils._backup_store import names
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "prove": {"type": "str", "choices": ["none", "newest", "all"], "default": "newest"},
            "key": {"type": "str", "no_log": True},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params, directory = module.params, Path(module.params["directory"])
    found = names(directory)
    read_whole = {"none": [], "newest": found[-1:], "all": found}[params["prove"]]
    try:
        backups = [_look(directory / name, params["key"] or "", name in read_whole) for name in found]
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    if params["required"] and not found:
        module.fail_json(msg=f"There is no backup in {directory}.")
    broken = [one["error"] for one in backups if one["error"]]
    if params["required"] and broken:
        module.fail_json(msg=" ".join(broken), backups=backups)
    module.exit_json(changed=False, backups=backups)


def _look(path: Path, key: str, whole: bool) -> dict:
    error = ""
    try:
        if whole:
            verify(path, key)
        else:
            read(path)
    except BackupError as exc:
        error = str(exc)
    files = sorted(path.iterdir())
    return {
        "name": path.name,
        "path": str(path),
        "bytes": sum(one.stat().st_size for one in files),
        "files": [one.name for one in files],
        "proven": whole and not error,
        "error": error,
    }


if __name__ == "__main__":
    main()
