#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_ledger``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vram_plan
short_description: Whether the models of a host fit into its memory, before any of them is downloaded
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Plans a whole host at once. It reads the headers of the models (a few megabytes each, or the files themselves where
    they are in the store already), asks NVML for the GPUs, and adds up what every engine will take on each GPU and in main memory.
  - What the catalogue leaves open (context, parallel requests, type of the KV cache, which GPUs, layers or experts in main
    memory, the share of each vLLM engine) is decided here, and returned with a reason.
  - A placement that does not fit is not an error of this module. RV(plan.fits) is false then, and RV(plan.refusals) say what
    is missing and which changes would make it fit.
  - The plan depends on what the host has, never on what is free at the moment, so equal input gives equal plans.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  host:
    description: Name of the host in messages. If empty, what the machine calls itself.
    type: str
    default: ''
  deployments:
    description: What shall be served, in order. Earlier ones choose their GPUs first.
    type: list
    elements: dict
    default: []
    suboptions:
      model:
        description: Name of the model. Deployments of one name have the same files.
        type: str
        required: true
      engine:
        description: What serves it.
        type: str
        choices: [llama_router, vllm]
        required: true
      service:
        description: Name of the service. Models of one llama.cpp router share it. If empty, a service of its own.
        type: str
        default: ''
      source:
        description: Where the model comes from, as for M(baremetal.llm.model_download).
        type: str
        required: true
      revision:
        description: Commit, tag or branch of a hub's repository.
        type: str
        default: ''
      files:
        description: Files of the model. Of those that hold no metadata nothing is read.
        type: list
        elements: str
        default: []
      options:
        description:
          - Options of the deployment, as the catalogue has them. Those that are V(auto) or missing are decided here.
          - V(gpus), V(context), V(parallel), V(kv_cache), for llama.cpp V(gpu_layers), V(n_cpu_moe), V(ubatch) and all others
            that change memory, for vLLM V(tensor_parallel), V(gpu_memory_utilization), V(kv_cache_memory).
        type: dict
        default: {}
  models_max:
    description: For each service of a llama.cpp router how many models it holds at once. If missing, all of them.
    type: dict
    default: {}
  gpus:
    description:
      - GPUs to plan for where there is no driver yet, or no machine. Each has a C(name), and C(memory) (V(24GiB)) unless the
        board is well known, a C(count), and if need be C(compute_capability), C(display) and C(p2p).
      - If the host has GPUs that contradict the list, that is an error.
    type: list
    elements: dict
    default: []
  budgets:
    description: What else takes memory there. C(name), C(memory) (V(2GiB)), and C(gpu), without which it is main memory.
    type: list
    elements: dict
    default: []
  reserved:
    description: Memory to leave alone on every GPU (V(1GiB)), or a dictionary with the index of a GPU and what to leave alone there.
    type: raw
    default: 0
  margin:
    description: Memory of each GPU that stays free for what no estimate knows.
    type: raw
    default: 512MiB
  ram_reserved:
    description: Main memory for the system itself.
    type: raw
    default: 1GiB
  store:
    description: Directory of the models. Of those that lie there, verified, no header is fetched.
    type: path
    default: /var/lib/llm/models
  mirror:
    description:
      - Directory or web server that holds C(https://host/path) as C(host/path), the public hub as C(huggingface.co).
      - No hub is asked if it is a directory. The hub token is never sent to a mirror.
    type: str
    default: ''
  hub_token:
    description: Token for private and gated repositories. It is sent to the hub only.
    type: str
    default: ''
  hub_endpoint:
    description: Address of the hub. If empty, the O(mirror), then the variable E(HF_ENDPOINT), then the public hub.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Would two models fit into a board that we might buy?
  baremetal.llm.vram_plan:
    gpus:
      - {name: RTX 4090, count: 2}
    deployments:
      - model: chat
        engine: llama_router
        source: hf:Qwen/Qwen3-8B-GGUF
        files: [Qwen3-8B-Q4_K_M.gguf]
        options: {context: 16384, parallel: 4}
      - model: coder
        engine: llama_router
        source: hf:unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF
        files: [Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf]
        options: {context: auto, kv_cache: auto}
  register: would

- name: Show it
  ansible.builtin.debug:
    msg: "{{ would.plan | baremetal.llm.vram_report }}"
"""

RETURN = r"""
known:
  description: Whether there is a plan. There is none as long as the memory of GPUs that are needed is not known.
  returned: success
  type: bool
reason:
  description: Why there is no plan. Otherwise empty.
  returned: success
  type: str
refused:
  description: What does not fit and what would, as one text. Otherwise empty.
  returned: success
  type: str
plan:
  description: The plan, empty if there is none. All sizes are bytes.
  returned: success
  type: dict
  contains:
    host: {description: Name of the host., type: str, returned: always}
    source:
      description: Where the GPUs are known from. C(nvml), C(llm_gpus) (the option O(gpus)), C(boards) (their names, where NVML does not
        answer yet), or C(ram) where there is none.
      type: str
      returned: always
    fits: {description: Whether everything fits., type: bool, returned: always}
    accounts:
      description: For each GPU, and for main memory, its C(place), C(title), C(name), C(total), what stays C(free) (negative if it does not fit),
        and C(entries) with C(name), C(kind), C(bytes), for models also C(terms), and whether they are C(resident) in the worst case.
      type: list
      elements: dict
      returned: always
    deployments:
      description: For each deployment its C(gpus), the C(options) to give to the engine, those of them that were C(decided) here, and C(why).
      type: list
      elements: dict
      returned: always
    refusals:
      description: What does not fit, with C(place), C(shortfall), C(message), and C(changes) that would fit, best first.
      type: list
      elements: dict
      returned: always
    warnings: {description: Sentences., type: list, elements: str, returned: always}
"""

import platform
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Budget, Demand, Policy, plan
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_machine import Unknown, machine
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_models import Access, ModelFiles, read_shapes
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_report import refused
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._pci import nvidia_gpus
from ansible_collections.baremetal.llm.plugins.module_utils._vram import parse_size

ARGUMENTS = {
    "host": {"type": "str", "default": ""},
    "deployments": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "model": {"type": "str", "required": True},
            "engine": {"type": "str", "choices": ["llama_router", "vllm"], "required": True},
            "service": {"type": "str", "default": ""},
            "source": {"type": "str", "required": True},
            "revision": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "str", "default": []},
            "options": {"type": "dict", "default": {}},
        },
    },
    "models_max": {"type": "dict", "default": {}},
    "gpus": {"type": "list", "elements": "dict", "default": []},
    "budgets": {"type": "list", "elements": "dict", "default": []},
    "reserved": {"type": "raw", "default": 0},
    "margin": {"type": "raw", "default": "512MiB"},
    "ram_reserved": {"type": "raw", "default": "1GiB"},
    "store": {"type": "path", "default": "/var/lib/llm/models"},
    "mirror": {"type": "str", "default": ""},
    "hub_token": {"type": "str", "default": "", "no_log": True},
    "hub_endpoint": {"type": "str", "default": ""},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    host = params["host"] or platform.node()
    try:
        # What runs on the processor alone can be planned without a driver.
        wanted = any(one["options"].get("gpus") != [] for one in params["deployments"])
        here = machine(host, snapshot(), len(nvidia_gpus()) if wanted else 0, params["gpus"])
        shapes = read_shapes(
            [ModelFiles(one["model"], one["source"], tuple(one["files"]), one["revision"]) for one in params["deployments"]],
            Access(Path(params["store"]), params["mirror"], params["hub_endpoint"], params["hub_token"].strip()),
        )
        found = plan(
            here,
            [
                Demand(one["model"], one["engine"], one["service"] or one["model"], shapes[one["model"]], one["options"])
                for one in params["deployments"]
            ],
            {service: int(count) for service, count in params["models_max"].items()},
            [_budget(entry) for entry in params["budgets"]],
            Policy(
                margin=parse_size(params["margin"], "margin"),
                reserved=_reserved(params["reserved"], [gpu.index for gpu in here.gpus]),
                ram_reserved=parse_size(params["ram_reserved"], "ram_reserved"),
            ),
        )
    except Unknown as exc:
        module.exit_json(changed=False, known=False, reason=str(exc), refused="", plan={})
    except LLMError as exc:
        module.fail_json(msg=str(exc), exception=exc)
    answer = found.as_dict()
    module.exit_json(changed=False, known=True, reason="", refused=refused(answer), plan=answer)


def _budget(entry: dict[str, object]) -> Budget:
    gpu = entry.get("gpu")
    if not entry.get("name") or "memory" not in entry or not (gpu is None or isinstance(gpu, int)):
        raise InputError(f"budgets has {entry!r}: write a mapping such as {{name: ollama, gpu: 0, memory: 2GiB}}.")
    return Budget(str(entry["name"]), gpu, parse_size(entry["memory"], f"memory of the budget {entry['name']}"))


def _reserved(value: object, gpus: list[int]) -> dict[int, int]:
    """Bytes for each GPU, whether one size is given for all or one for each."""
    if not isinstance(value, dict):
        return dict.fromkeys(gpus, parse_size(value, "reserved"))
    strange = [index for index in value if not str(index).isdigit() or int(index) not in gpus]
    if strange and gpus:
        raise InputError(f"reserved names GPU {strange[0]!r}; there is: {', '.join(map(str, gpus))}.")
    return {int(index): parse_size(size, f"reserved of GPU {index}") for index, size in value.items()}


if __name__ == "__main__":
    main()
