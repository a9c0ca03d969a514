#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin edge over ``_proof``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_probe
author: [The baremetal.llm authors (@baremetal-llm)]
version_added: 0.2.0
short_description: Ask every engine and every name at the front door, and time the answers
description:
  - This module only reads. It sends one request to every target, chat completions streamed, embeddings and rerank in one piece, and reports in one
    table who answered and how fast.
  - Engines of different hosts are asked at the same time, those of one host one after the other, and the front door afterwards, one name at a time, so
    that no answer slows another one down.
  - Where nothing answers, the other models of the same service are not asked, because every attempt may take ten seconds.
  - A service that answers is also asked without a key, and must turn that away.
  - Tokens that come through the front door in a heap are a failure, see M(baremetal.llm.stream_probe). An engine may send several tokens at once.
  - Whoever answers 429 and says in how many seconds it is worth trying again, up to 20, is asked once more.
  - Where all engines answer and the front door says 503, it may still let an engine rest that has just come back, see O(rest).
  - It never fails because of what it finds, so that the table can be shown first, see the example.
attributes:
  check_mode:
    support: full
    description: >-
      It asks in check mode too. Where nothing at all answers then, because the run would bring it, it is skipped.
  diff_mode:
    support: none
    description: It changes nothing, so there is nothing to show.
  idempotent:
    support: full
    description: It changes nothing.
options:
  targets:
    description: What to ask, as P(baremetal.llm.proof_targets#filter) lists it.
    type: list
    elements: dict
    required: true
    suboptions:
      model:
        description: Name of the model, or of a route.
        type: str
        required: true
      mode:
        description: What it does.
        type: str
        choices: [chat, embedding, rerank]
        default: chat
      host:
        description: The host on which the engine runs. Without it the front door is asked.
        type: str
        default: ""
      url:
        description: Address of the engine, without the route. Needed with O(targets[].host).
        type: str
        default: ""
      drained:
        description: Whether it gets no new requests. Then it is shown and not asked.
        type: bool
        default: false
  engine_key:
    description: The key of the engines.
    type: str
  front_door:
    description: Where the targets without a host are.
    type: dict
    suboptions:
      url:
        description: Its address, without the route, for example V(https://127.0.0.1).
        type: str
        required: true
      server_name:
        description: Name that must stand in the certificate, where the URL goes to another address.
        type: str
      ca_pem:
        description: The certificate authority to trust, as text in PEM. Without it the system's authorities are trusted.
        type: str
      api_key:
        description: The key of a client.
        type: str
  prompt:
    description: What to ask every chat model. It should lead to an answer of a dozen tokens or more.
    type: str
    default: Count from one to twenty in words.
  max_tokens:
    description: The most tokens that an answer may have.
    type: int
    default: 128
  timeout:
    description: Seconds for each whole answer, which includes loading the model.
    type: int
    default: 120
  rest:
    description:
      - Seconds for which the front door may answer 503 although all engines answer. LiteLLM lets an engine rest after failures, also when it is
        there again.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Ask everything
  baremetal.llm.fleet_probe:
    targets: "{{ llm_models | baremetal.llm.endpoints(hostvars, groups, inventory_hostname) | baremetal.llm.proof_targets(hostvars, llm_routes) }}"
    engine_key: "{{ my_engine_key }}"
    front_door:
      url: https://127.0.0.1
      server_name: llm.example.com
      api_key: "{{ my_key }}"
  register: proof

- name: Show who answers
  ansible.builtin.debug:
    msg: "{{ proof.lines | join('\n') }}"

- name: Fail if one does not
  ansible.builtin.fail:
    msg: "{{ proof.summary }}"
  when: proof.failures | length > 0
"""

RETURN = r"""
targets:
  description: What was found, in the order of O(targets), then any service that serves without a key. Times are in seconds.
  type: list
  elements: dict
  returned: always
  contains:
    model:
      description: The name that was asked for.
      type: str
    mode:
      description: What it does.
      type: str
    host:
      description: The host of the engine, empty at the front door.
      type: str
    url:
      description: The address that was asked.
      type: str
    state:
      description: V(served), V(failed) or V(drained).
      type: str
    served_by:
      description: The deployment that answered through the front door, as LiteLLM calls it. Empty if it does not say.
      type: str
    first_token:
      description: From the start of the connection to the first token.
      type: float
    tokens_per_second:
      description: After the first token.
      type: float
    tokens:
      description: Tokens of the answer.
      type: int
    total:
      description: From the start of the connection to the end of the answer.
      type: float
    kind:
      description: In a word why it failed.
      type: str
    problem:
      description: What was seen.
      type: str
    meaning:
      description: What that means.
      type: str
    remedy:
      description: What to do.
      type: str
unauthorized:
  description: The status that the front door gives to those without a key. None if no chat model answered there.
  type: int
  returned: always
failures:
  description: Every failure with what it means and what to do; models of one service that fail in the same way stand together.
  type: list
  elements: str
  returned: always
summary:
  description: How many are served, failed and drained, in a sentence or two.
  type: str
  returned: always
lines:
  description: The table, the summary and the failures, to print.
  type: list
  elements: str
  returned: always
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._proof import Target, prove
from ansible_collections.baremetal.llm.plugins.module_utils._proof_report import figures, problems, summary, table
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, UnreachableError


def wanted(params: dict[str, t.Any]) -> list[Target]:
    """The targets with their endpoints. Raises InputError."""
    door = params["front_door"]
    front_door = Endpoint(**door, timeout=params["timeout"]) if door else None
    found = []
    for target in params["targets"]:
        endpoint = Endpoint(target["url"], params["engine_key"], timeout=params["timeout"]) if target["host"] else front_door
        if endpoint is None:
            raise InputError(f"targets: {target['model']} has no host, so it is at the front door, but front_door is not given.")
        found.append(Target(target["model"], target["mode"], endpoint, target["host"], target["drained"]))
    return found


def main() -> None:
    target = {
        "model": {"type": "str", "required": True},
        "mode": {"type": "str", "choices": ["chat", "embedding", "rerank"], "default": "chat"},
        "host": {"type": "str", "default": ""},
        "url": {"type": "str", "default": ""},
        "drained": {"type": "bool", "default": False},
    }
    front_door = {
        "url": {"type": "str", "required": True},
        "server_name": {"type": "str"},
        "ca_pem": {"type": "str"},
        "api_key": {"type": "str", "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "targets": {"type": "list", "elements": "dict", "required": True, "options": target},
            "engine_key": {"type": "str", "no_log": True},
            "front_door": {"type": "dict", "options": front_door},
            "prompt": {"type": "str", "default": "Count from one to twenty in words."},
            "max_tokens": {"type": "int", "default": 128, "no_log": False},
            "timeout": {"type": "int", "default": 120},
            "rest": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        targets = wanted(module.params)
    except LLMError as exc:
        module.fail_json(msg=str(exc))
    findings, status = prove(targets, module.params["prompt"], module.params["max_tokens"], module.params["rest"])
    failures, said = problems(findings), summary(findings, status)
    result: dict[str, t.Any] = {
        "changed": False,
        "targets": [figures(finding) for finding in findings],
        "unauthorized": status,
        "failures": failures,
        "summary": said,
        "lines": [*table(findings), "", said, *failures],
    }
    asked = [finding for finding in findings if finding.state != "drained"]
    if module.check_mode and all(isinstance(finding.error, UnreachableError) for finding in asked):
        module.exit_json(skipped=True, msg="Nothing answers yet.", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
