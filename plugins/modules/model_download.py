#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_model_store``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_download
short_description: Verified model files in one directory
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Brings the files of all models to C(<root>/<model>/<file>), several at a time, and leaves everything else alone.
  - A file gets its name when its size and SHA-256 are right, not before. An interrupted download is resumed.
  - The free space is checked for all files together before the first byte, as far as their sizes are known.
  - Size, time and sum of a verified file are remembered in C(.verified.json) beside it, so no later run reads it again.
  - A branch or tag of a hub is looked up once; the commit that it meant then stays until O(models[].revision) changes.
requirements:
  - huggingface_hub and hf_xet for sources that begin with V(hf:), in the target's Python or in O(tools_python)
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: Asks the hub only if huggingface_hub is there already. A source that cannot be reached yet is a warning.
options:
  models:
    description: What must be there.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the model and of its directory.
        type: str
        required: true
      source:
        description:
          - V(hf:owner/repository) on a hub, or an address with V(https:), V(http:) or V(file:) (a path on the target).
          - An address that ends with a slash is the directory of several files, any other is the one file itself.
        type: str
        required: true
      revision:
        description: Commit, tag or branch of a hub's repository. Empty means V(main).
        type: str
        default: ''
      files:
        description:
          - The files. May be left out if the source is an address of one file.
          - Of a hub's repository without any, the safetensors come with all that describes them, as vLLM takes a model.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Path in the repository and in the model's directory.
            type: str
            required: true
          sha256:
            description: The file's sum. A hub publishes its own; from everywhere else it must be given.
            type: str
            default: ''
  root:
    description: Directory of all models.
    type: path
    required: true
  mirror:
    description:
      - Directory or web server that holds C(https://host/path) as C(host/path), the public hub as C(huggingface.co).
      - No hub is asked if it is a directory or if all sums are given. The hub token is never sent to a mirror.
    type: str
    default: ''
  verify:
    description: With V(auto) a file whose size and time did not change since it was verified is not read again.
    type: str
    choices: [auto, always]
    default: auto
  hub_token:
    description: Token for private and gated repositories.
    type: str
    default: ''
  hub_token_file:
    description: File on the target that holds the token, used if O(hub_token) is empty.
    type: path
  hub_endpoint:
    description: Address of the hub. If empty, the O(mirror), then the variable E(HF_ENDPOINT), then the public hub.
    type: str
    default: ''
  tools_python:
    description: Interpreter that has huggingface_hub, used if the module's own does not.
    type: path
    default: /opt/llm/tools/current/bin/python
  parallel:
    description: How many files to work on at the same time.
    type: int
    default: 4
  allow_unverified:
    description: Accept files for which no sum is known.
    type: bool
    default: false
notes:
  - Files that a hub keeps in Xet storage come through hf_xet, which is fast, but begins them anew after a kill. With
    E(HF_HUB_DISABLE_XET) set to V(1) they come over HTTP and are resumed.
"""

EXAMPLES = r"""
- name: Two models from two kinds of source
  baremetal.llm.model_download:
    root: /var/lib/llm/models
    models:
      - name: coder
        source: hf:unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF
        files:
          - path: Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf
      - name: own
        source: https://files.example.com/own.gguf
        files:
          - path: own.gguf
            sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

RETURN = r"""
models:
  description: What is there now, by the name of the model.
  type: dict
  returned: success
  contains:
    dir:
      description: Directory of the model.
      type: str
    revision:
      description: The commit of a hub's repository if it is known, otherwise what was asked for.
      type: str
    files:
      description: The files. Their C(status) is V(present), V(downloaded), or in check mode V(would_download).
      type: list
      elements: dict
  sample:
    own:
      dir: /var/lib/llm/models/own
      revision: ''
      files:
        - path: own.gguf
          sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
          size: 4
          status: present
"""

import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, respawn_module
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._download import locked
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._hub import HubLibraryMissing
from ansible_collections.baremetal.llm.plugins.module_utils._model_store import (
    PRESENT,
    File,
    Model,
    ModelStore,
    Settings,
    make_directories,
)

FILE = {"path": {"type": "str", "required": True}, "sha256": {"type": "str", "default": ""}}
MODEL = {
    "name": {"type": "str", "required": True},
    "source": {"type": "str", "required": True},
    "revision": {"type": "str", "default": ""},
    "files": {"type": "list", "elements": "dict", "default": [], "options": FILE},
}
ARGUMENTS = {
    "models": {"type": "list", "elements": "dict", "required": True, "options": MODEL},
    "root": {"type": "path", "required": True},
    "mirror": {"type": "str", "default": ""},
    "verify": {"type": "str", "choices": ["auto", "always"], "default": "auto"},
    "hub_token": {"type": "str", "default": "", "no_log": True},
    "hub_token_file": {"type": "path", "no_log": False},
    "hub_endpoint": {"type": "str", "default": ""},
    "tools_python": {"type": "path", "default": "/opt/llm/tools/current/bin/python"},
    "parallel": {"type": "int", "default": 4},
    "allow_unverified": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        settings = _settings(module.params)
        store = ModelStore(settings, module.params["models"])
        if module.check_mode:
            result = _run(module, store)
        else:
            make_directories(settings.root, settings.root)
            with locked(settings.root):
                result = _run(module, store)
    except HubLibraryMissing:
        _respawn(module)
    except LLMError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"The model store {module.params['root']} cannot be used: {exc}.", exception=exc)
    else:
        module.exit_json(**result)


def _settings(params: dict[str, t.Any]) -> Settings:
    token = params["hub_token"]
    if not token and params["hub_token_file"]:
        token = Path(params["hub_token_file"]).read_text(encoding="utf-8")
    return Settings(
        root=Path(params["root"]),
        mirror=params["mirror"],
        endpoint=params["hub_endpoint"],
        token=token.strip(),
        always_verify=params["verify"] == "always",
        allow_unverified=params["allow_unverified"],
        parallel=params["parallel"],
    )


def _run(module: AnsibleModule, store: ModelStore) -> dict[str, t.Any]:
    try:
        store.plan(module.check_mode)
    except HubLibraryMissing:
        if not module.check_mode or _can_respawn(module):
            raise
        store.plan(module.check_mode, ask_hub=False)  # the tools environment is not there yet
    if not module.check_mode:
        store.fetch()
    for warning in store.warnings:
        module.warn(warning)
    difference = Difference()
    for model in store.models:
        if model.whole and not model.listing:
            difference.add(f"{model.name}/", None, "the files of its repository, which are not known yet")
    for file in store.files:
        if file.status != PRESENT:
            difference.add(file.shown, file.before and f"sha256 {file.before}", _after(file))
    models = {model.name: _returned(model) for model in store.models}
    return {"changed": difference.changed, "diff": difference.as_dict(), "models": models}


def _after(file: File) -> str:
    return f"sha256 {file.sha256 or 'not known yet'}" + ("" if file.size is None else f", {file.size} bytes")


def _returned(model: Model) -> dict[str, t.Any]:
    files = [
        {"path": file.path, "sha256": file.sha256, "size": file.size, "status": file.status} for file in model.files
    ]
    return {"dir": str(model.directory), "revision": model.commit or model.revision, "files": files}


def _can_respawn(module: AnsibleModule) -> bool:
    return os.path.exists(module.params["tools_python"]) and not has_respawned()


def _respawn(module: AnsibleModule) -> None:
    python = module.params["tools_python"]
    if _can_respawn(module):
        respawn_module(python)
    module.fail_json(
        msg=f"Sources that begin with hf: need huggingface_hub, which neither the target's Python nor {python} has:"
        " install it with the role baremetal.llm.model_store, or name another tools_python."
    )


if __name__ == "__main__":
    main()
