#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_llama_models``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_models
short_description: Models that a llama.cpp router shall have loaded
version_added: 0.1.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Waits until a llama.cpp router answers and serves the models. A sleeping model counts, it wakes at its next request.
  - A model that is not loaded, because it failed before or made room for another, is loaded. If that fails, so does the
    module, with the name of the model and what its process complained about.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    support: partial
    details: Check mode neither asks nor waits, because the router may not be there yet, and reports no change.
  diff_mode:
    support: none
options:
  url:
    description: Address of the router.
    type: str
    required: true
  api_key_file:
    description: File on the host with the router's API keys, one per line. The first is used.
    type: path
  models:
    description: Names of the models.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds to wait at the most.
    type: int
    default: 600
  unit:
    description: The router's systemd unit, whose journal tells why a model cannot be loaded.
    type: str
"""

EXAMPLES = r"""
- name: Wait for the model
  baremetal.llm.llama_models:
    url: http://127.0.0.1:8081
    api_key_file: /etc/llm/llama-router/api-keys
    models: [coder]
    unit: llm-llama-router
"""

RETURN = r"""
loaded:
  description: The models that the router had to be asked to load.
  returned: success
  type: list
  elements: str
  sample: []
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._llama_models import (
    ModelFailed,
    Router,
    complaints,
    wait_until_loaded,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api_key_file": {"type": "path", "no_log": False},
            "models": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 600},
            "unit": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, loaded=[])
    params = module.params
    try:
        router = Router(params["url"], _first_key(params["api_key_file"]))
        loaded = wait_until_loaded(router, params["models"], params["timeout"])
    except (LLMError, OSError) as exc:
        module.fail_json(msg=f"{params['url']}: {exc}{_reasons(module, exc)}", exception=exc)
    module.exit_json(changed=bool(loaded), loaded=loaded)


def _first_key(path: str | None) -> str:
    lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")


def _reasons(module: AnsibleModule, exc: Exception) -> str:
    unit = module.params["unit"]
    if not unit:
        return ""
    if isinstance(exc, ModelFailed):
        log = module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=2000", f"--unit={unit}"])[1]
        said = complaints(log, exc.port)
    else:
        log = module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=10", f"--unit={unit}"])[1]
        said = log.strip().splitlines()
    return f". The log of {unit} says: {' | '.join(said) or '(nothing)'}"


if __name__ == "__main__":
    main()
