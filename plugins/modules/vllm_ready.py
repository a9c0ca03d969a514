#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_vllm_ready``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_ready
short_description: Wait for a vLLM server and make its first requests
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Waits until a vLLM server is healthy. If its process dies meanwhile, it says at once what the log says.
  - Then asks for an answer of two tokens to prompts of given lengths, the shortest first, so that no client waits for what only the first
    request of a length brings about. A server that has answered a request since its start is left alone.
extends_documentation_fragment: [baremetal.llm.attributes]
attributes:
  check_mode:
    details: In check mode nothing is asked.
  diff_mode:
    support: none
    details: It changes nothing on the host.
options:
  url:
    description: Address of the server, without a route.
    type: str
    required: true
  api_key:
    description: The server's key.
    type: str
    default: ''
  model:
    description: The name under which it serves its model.
    type: str
    required: true
  kind:
    description: Whether the model writes text or turns it into vectors.
    type: str
    choices: [generate, pooling]
    default: generate
  lengths:
    description: Lengths of the first prompts in tokens. What the context cannot hold is cut to it.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds until it must be healthy, and for each request.
    type: int
    default: 1800
  unit:
    description: The systemd unit that runs it, or the container.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Wait, and warm up
  baremetal.llm.vllm_ready:
    url: http://127.0.0.1:8100
    api_key: "{{ my_key }}"
    model: chat
    lengths: [32, 4096, 32768]
    unit: llm-vllm-8100
"""

RETURN = r"""
warmed:
  description: The requests that were made, with the seconds that each took; none if the server was warm already.
  returned: success
  type: list
  elements: dict
  sample: [{tokens: 32, seconds: 0.21}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import unit_state
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_ready import Server, complaints, is_warm, wait_until_healthy, warm_up


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api_key": {"type": "str", "default": "", "no_log": True},
            "model": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["generate", "pooling"], "default": "generate"},
            "lengths": {"type": "list", "elements": "int", "default": []},
            "timeout": {"type": "int", "default": 1800},
            "unit": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, warmed=[])
    params = module.params
    server = Server(params["url"], params["model"], params["api_key"])
    try:
        wait_until_healthy(server, params["timeout"], lambda: _restarts(module))
        lengths = params["lengths"]
        warmed = warm_up(server, lengths, params["timeout"], params["kind"]) if lengths and not is_warm(server) else []
    except LLMError as exc:
        module.fail_json(msg=f"{params['unit']} is not ready: {exc}. Its log says: {_log(module)}", exception=exc)
    module.exit_json(changed=False, warmed=[warmth._asdict() for warmth in warmed])


def _restarts(module: AnsibleModule) -> int:
    unit = module.params["unit"]
    state = unit_state(unit, module.run_command, "NRestarts")
    if state["LoadState"] != "not-found":
        return int(state["NRestarts"] or 0)
    found = Docker().inspect(unit)  # the other way to run it, under the same name
    return int(found["RestartCount"]) if found else 0


def _log(module: AnsibleModule) -> str:
    """The last start of vLLM has less than 300 lines."""
    log = module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=300", f"--unit={module.params['unit']}"])[1]
    return " | ".join(complaints(log)) or "(nothing)"


if __name__ == "__main__":
    main()
