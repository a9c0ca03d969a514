#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_apt``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_packages
short_description: Packages that belong together, in one transaction of apt
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Installs packages at versions that match patterns, upwards or downwards, removes what they replace in the same step, and holds them.
  - Check mode asks apt what it would do. Where a repository is only about to be added, it foresees the packages that were asked for.
  - If an earlier run was killed, dpkg finishes first what it had begun.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  install:
    description: Packages, each alone or with a pattern of versions, such as C(nvidia-smi=535.*).
    type: list
    elements: str
    required: true
  remove:
    description: Packages to remove in the same step, if they are installed.
    type: list
    elements: str
    default: []
  hold:
    description: Packages that other upgrades shall leave alone.
    type: list
    elements: str
    default: []
  held:
    description: Whether the packages of O(hold) are held, or free.
    type: bool
    default: true
  may_remove:
    description: Regular expression for what else apt may remove on this occasion; if it wants to remove more, nothing is done.
    type: str
    default: .*
"""

EXAMPLES = r"""
- name: Keep the driver at one branch
  baremetal.llm.apt_packages:
    install: [nvidia-kernel-dkms=535.*, nvidia-smi=535.*]
    remove: [nvidia-open-kernel-dkms]
    hold: [nvidia-kernel-dkms, nvidia-smi]
"""

RETURN = r"""#"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._apt import Packages, ensure
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "install": {"type": "list", "elements": "str", "required": True},
            "remove": {"type": "list", "elements": "str", "default": []},
            "hold": {"type": "list", "elements": "str", "default": []},
            "held": {"type": "bool", "default": True},
            "may_remove": {"type": "str", "default": ".*"},
        },
        supports_check_mode=True,
    )
    params = module.params
    packages = Packages(
        install=tuple(params["install"]),
        remove=tuple(params["remove"]),
        hold=tuple(params["hold"]),
        held=params["held"],
        may_remove=params["may_remove"],
    )
    try:
        difference = ensure(packages, module.run_command, module.check_mode)
    except LLMError as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict())


if __name__ == "__main__":
    main()
