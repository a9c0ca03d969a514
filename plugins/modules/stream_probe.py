#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin edge over ``_stream``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stream_probe
author: [The baremetal.llm authors (@baremetal-llm)]
version_added: 0.1.0
short_description: Ask models for a streamed answer and time every token
description:
  - This module only reads. It sends one chat completion per model to an OpenAI-compatible service, with C(stream) set.
  - It reports the time to the first token, the gaps between tokens, the tokens per second, and whether the tokens came
    one by one or in a heap.
  - The models are asked one after the other, so that one does not slow down the figures of the next.
  - Tokens came in a heap when, on average, four or more arrived together, or half of them at once. That is what a proxy
    that buffers does; a busy machine does it once in a while, so such a model is asked up to three times.
  - Fewer than eight tokens, or an answer within 50 milliseconds, are too little to tell.
attributes:
  check_mode:
    support: full
    description: >-
      It asks in check mode too, but nothing that it finds is a failure then, because what is missing may be what the
      run would bring. Where nothing answers it is skipped, anything else is a warning.
  diff_mode:
    support: none
    description: It changes nothing, so there is nothing to show.
  idempotent:
    support: full
    description: It changes nothing.
options:
  url:
    description: Address of the service, without the route, for example V(https://127.0.0.1).
    type: str
    required: true
  api_key:
    description: The key to be let in with.
    type: str
  ca_path:
    description:
      - File on the target with the certificate authority to trust, in PEM.
      - Without it and O(ca_pem) the system's authorities are trusted.
    type: path
  ca_pem:
    description: The same as text. An empty text counts as none.
    type: str
  server_name:
    description:
      - Name that must stand in the certificate, where O(url) goes to another address.
      - The default is the host of O(url).
    type: str
  verify:
    description: Whether the certificate is verified.
    type: bool
    default: true
  models:
    description: The models to ask.
    type: list
    elements: str
    required: true
  prompt:
    description: What to ask every model. It should lead to an answer of a dozen tokens or more.
    type: str
    default: Count from one to twenty in words.
  max_tokens:
    description: The most tokens that an answer may have.
    type: int
    default: 48
  timeout:
    description: Seconds for each whole answer, which includes loading the model.
    type: int
    default: 120
  require_streaming:
    description: Whether tokens that come in a heap are a failure.
    type: bool
    default: true
  expect_unauthorized:
    description: Whether the service must also answer 401 to a request without a key.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Ask both models through the front door
  baremetal.llm.stream_probe:
    url: https://127.0.0.1
    server_name: llm.example.com
    ca_path: /etc/ssl/certs/our-authority.pem
    api_key: "{{ my_key }}"
    models: [chat, coder]
    expect_unauthorized: true
  register: proof

- name: Show the figures
  ansible.builtin.debug:
    msg: "{{ proof.table }}"
"""

RETURN = r"""
probes:
  description: What was found, in the order of O(models). Times are in seconds.
  type: list
  elements: dict
  returned: always
  contains:
    model:
      description: The model that was asked.
      type: str
    problem:
      description: Why it does not count as served, in a sentence; empty if all is well.
      type: str
    tokens:
      description:
        - Tokens of the answer, as the server counts them.
        - This and what follows is there only if the answer was complete.
      type: int
    events:
      description: Events that brought text.
      type: int
    arrivals:
      description: Reads of the connection that brought events. As many as events if each came on its own.
      type: int
    largest_arrival:
      description: The most events that arrived together.
      type: int
    first_token:
      description: From the start of the connection to the first token.
      type: float
    gap_median:
      description: The median of the gaps between events.
      type: float
    gap_p95:
      description: The gap that 95 of 100 do not exceed.
      type: float
    gap_max:
      description: The longest gap.
      type: float
    tokens_per_second:
      description: After the first token. None if the tokens came in a heap.
      type: float
    total:
      description: From the start of the connection to the end of the answer.
      type: float
    delivery:
      description: V(one_by_one), V(heap) or V(unknown).
      type: str
unauthorized:
  description: The status without a key. None if it was not asked for, or if the request got no such answer.
  type: int
  returned: always
table:
  description: The same as lines to print.
  type: list
  elements: str
  returned: always
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._pace import HEAP, Pace, explain, table
from ansible_collections.baremetal.llm.plugins.module_utils._proof import paced, without_key
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, Question, UnreachableError


class Finding(t.NamedTuple):
    """One model: its pace if it answered, and what is wrong if something is."""

    model: str
    pace: Pace | None
    problem: str

    def as_dict(self) -> dict[str, t.Any]:
        return {"model": self.model, "problem": self.problem, **(dataclasses.asdict(self.pace) if self.pace else {})}


def probe(endpoint: Endpoint, question: Question, require_streaming: bool) -> Finding:
    """Ask one model. Raises UnreachableError, because then every other model fails for the same reason."""
    try:
        pace = paced(endpoint, question, require_streaming).pace
    except UnreachableError:
        raise
    except LLMError as exc:
        return Finding(question.model, None, str(exc))
    problem = ""
    if not pace.events:
        problem = "the answer has no text at all"
    elif require_streaming and pace.delivery == HEAP:
        problem = f"the tokens came {explain(pace)}: something on the way buffers the stream"
    return Finding(question.model, pace, problem)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api_key": {"type": "str", "no_log": True},
            "ca_path": {"type": "path"},
            "ca_pem": {"type": "str"},
            "server_name": {"type": "str"},
            "verify": {"type": "bool", "default": True},
            "models": {"type": "list", "elements": "str", "required": True},
            "prompt": {"type": "str", "default": "Count from one to twenty in words."},
            "max_tokens": {"type": "int", "default": 48, "no_log": False},
            "timeout": {"type": "int", "default": 120},
            "require_streaming": {"type": "bool", "default": True},
            "expect_unauthorized": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("ca_path", "ca_pem")],
        supports_check_mode=True,
    )
    params = module.params
    questions = [Question(model, params["prompt"], params["max_tokens"]) for model in params["models"]]
    status: int | None = None
    stranger = ""
    try:
        endpoint = Endpoint(
            url=params["url"],
            api_key=params["api_key"],
            ca_file=params["ca_path"],
            ca_pem=params["ca_pem"],
            server_name=params["server_name"],
            verify=params["verify"],
            timeout=params["timeout"],
        )
        findings = [probe(endpoint, question, params["require_streaming"]) for question in questions]
        if params["expect_unauthorized"] and questions:
            status, open_door = without_key(endpoint, questions[0], turned_away=(401,))
            stranger = str(open_door or "")
    except UnreachableError as exc:
        if module.check_mode:
            module.exit_json(changed=False, skipped=True, msg=str(exc), probes=[], unauthorized=None, table=[])
        module.fail_json(msg=str(exc), probes=[], unauthorized=None, table=[])
    except LLMError as exc:
        module.fail_json(msg=str(exc))

    problems = [f"{finding.model}: {finding.problem}" for finding in findings if finding.problem]
    rows: list[tuple[str, Pace | str]] = [(finding.model, finding.pace or finding.problem) for finding in findings]
    if params["expect_unauthorized"] and questions:
        problems += [f"without a key: {stranger}"] if stranger else []
        rows.append(("without a key", stranger or f"{status} Unauthorized"))
    result: dict[str, t.Any] = {
        "changed": False,
        "probes": [finding.as_dict() for finding in findings],
        "unauthorized": status,
        "table": table(rows),
    }
    if problems and not module.check_mode:
        count = f"{len(problems)} of {len(rows)} probes"
        module.fail_json(msg=f"{count} of {endpoint.url} failed. {'; '.join(problems)}", **result)
    for problem in problems:
        module.warn(problem)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
