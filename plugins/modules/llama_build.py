#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_llama_build``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_build
short_description: llama-server, built from its source once and kept
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Installs a build of llama.cpp's C(llama-server) to C(<root>/<version>-<backend>-<digest of the build options>)
    and turns the link C(<root>/current) to it.
  - The build comes from O(cache) if it is there, whole, and starts on this host. Otherwise it is made from O(source)
    and kept in O(cache).
  - Without O(source) nothing is built. RV(missing) then says whether O(source) is needed, so that the source has to be
    fetched only then.
  - An interrupted build is gone on with by the next one. Version directories and cached archives appear complete or
    not at all.
requirements:
  - For a build C(cmake) 3.19 or newer, C(ninja) and a C++ compiler; for O(backend=cuda) also C(nvcc).
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  version:
    description: Version of llama.cpp, such as V(b11434).
    type: str
    required: true
  backend:
    description: What it computes on. V(auto) takes V(cuda) if the host has C(/dev/nvidia0).
    type: str
    choices: [auto, cpu, cuda]
    default: auto
  options:
    description: More options for C(cmake).
    type: list
    elements: str
    default: []
  root:
    description: Directory that holds the versions.
    type: path
    required: true
  cache:
    description: Directory that keeps finished builds.
    type: path
    required: true
  source:
    description: Directory with the source of this version.
    type: path
"""

EXAMPLES = r"""
- name: Install a build that is there already
  baremetal.llm.llama_build:
    version: b11434
    root: /opt/llm/llama-router
    cache: /var/cache/llm
  register: build

- name: Build it
  baremetal.llm.llama_build:
    version: b11434
    options: [-DGGML_CUDA_FA_QUANTS=all]
    root: /opt/llm/llama-router
    cache: /var/cache/llm
    source: /var/cache/llm/source/b11434
  when: build.missing
"""

RETURN = r"""
backend:
  description: What the build computes on.
  returned: success
  type: str
  sample: cpu
missing:
  description: Whether the build is neither installed nor in the cache, and O(source) was not given.
  returned: success
  type: bool
  sample: false
path:
  description: Directory of the build.
  returned: success
  type: str
  sample: /opt/llm/llama-router/b11434-cpu-1a2b3c4d
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._llama_build import install, plan


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "backend": {"type": "str", "choices": ["auto", "cpu", "cuda"], "default": "auto"},
            "options": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "source": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    root = Path(params["root"])
    source = Path(params["source"]) if params["source"] else None
    run = module.run_command
    try:
        build = plan(params["version"], params["backend"], params["options"], run)
        difference, missing = install(build, root, Path(params["cache"]), source, run, check=module.check_mode)
    except (LLMError, OSError) as exc:
        module.fail_json(msg=str(exc), exception=exc)
    module.exit_json(
        changed=difference.changed,
        diff=difference.as_dict(),
        backend=build.backend,
        missing=missing,
        path=str(root / build.directory),
    )


if __name__ == "__main__":
    main()
