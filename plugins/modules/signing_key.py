#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_signing_key``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: signing_key
short_description: The verified key of a package repository
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Brings the key file of a package repository, and writes it only if it holds exactly the keys with the given fingerprints, none of them
    expired or revoked.
  - A file that already does is not fetched again.
requirements:
  - gpg on the host
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  url:
    description: Address of the ASCII-armoured key file.
    type: str
    required: true
  fingerprints:
    description: Fingerprints of all primary keys in the file, 40 hexadecimal digits each; blanks do not count.
    type: list
    elements: str
    required: true
  path:
    description: Where the file shall be.
    type: path
    required: true
  mirror:
    description: Directory or address that holds C(host/path) copies of all addresses.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Trust the key that signs NVIDIA's packages
  baremetal.llm.signing_key:
    url: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/3bf863cc.pub
    fingerprints: [EB693B3035CD5710E231E123A4B469963BF863CC]
    path: /etc/apt/keyrings/llm-nvidia-cuda.asc
"""

RETURN = r"""#"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._signing_key import SigningKey, present


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "fingerprints": {"type": "list", "elements": "str", "required": True},
            "path": {"type": "path", "required": True},
            "mirror": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    key = SigningKey(params["url"], tuple(params["fingerprints"]), Path(params["path"]), params["mirror"])
    gpg = module.get_bin_path("gpg") or ""
    if not gpg and not module.check_mode:
        module.fail_json(msg=f"gpg is needed to verify {key.url}: install the package gpg (Debian, Ubuntu) or gnupg2 (RHEL).")
    try:
        difference = present(key, module.run_command, gpg, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict())


if __name__ == "__main__":
    main()
