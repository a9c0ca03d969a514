#!/usr/bin/python
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_model_source``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_info
short_description: What a model is and what its memory depends on, without its weights
version_added: 0.2.0
author: [The baremetal.llm authors (@baremetal-llm)]
description:
  - Reads the header of GGUF files, or C(config.json) and the headers of safetensors, a few megabytes at most.
  - A file on a server or a hub is read by HTTP ranges, so nothing needs to be downloaded first, and no space is needed.
  - A GGUF is described as llama.cpp reads it, safetensors as vLLM does. The difference matters for sliding windows.
extends_documentation_fragment: [baremetal.llm.attributes]
options:
  model:
    description:
      - V(hf:owner/repository) on a hub, an address with V(https:) or V(http:), or a path on the target (V(file:) is one, too).
      - An address that ends with a slash, and a path of a directory, hold C(config.json) and safetensors, or the O(files).
      - Of a GGUF in several parts any part may be named.
    type: str
    required: true
  files:
    description:
      - The GGUF file, and its projector (mmproj), where there are several. Of a GGUF in several parts one is enough.
      - A repository or a directory with one GGUF, or with safetensors, needs none.
    type: list
    elements: str
    default: []
  revision:
    description: Commit, tag or branch of a hub's repository. Empty means V(main).
    type: str
    default: ''
  mirror:
    description:
      - Directory or web server that holds C(https://host/path) as C(host/path), the public hub as C(huggingface.co).
      - No hub is asked if it is a directory. The hub token is never sent to a mirror.
    type: str
    default: ''
  hub_token:
    description: Token for private and gated repositories. It is sent to the hub only, not to an address in O(model).
    type: str
    default: ''
  hub_endpoint:
    description: Address of the hub. If empty, the O(mirror), then the variable E(HF_ENDPOINT), then the public hub.
    type: str
    default: ''
  tensors:
    description: Return every layer and every tensor, too. They can be some ten thousand.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at a model on the hub
  baremetal.llm.model_info:
    model: hf:unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF
    files: [Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf]
  register: coder

- name: Say what 32768 tokens of context cost
  ansible.builtin.debug:
    msg: "{{ (coder.model.kv_bytes_per_token * 32768) | human_readable }}"
"""

RETURN = r"""
model:
  description: The model. Lengths are numbers of elements, contexts and windows are tokens.
  returned: success
  type: dict
  contains:
    format: {description: "C(gguf) or C(safetensors).", type: str, returned: always}
    architecture: {description: "llama.cpp's name of the architecture, or the C(model_type) of C(config.json).", type: str, returned: always, sample: qwen3moe}
    name: {description: "As the file or its place is called.", type: str, returned: always}
    parameters: {description: "Number of parameters, without the projector.", type: int, returned: always, sample: 30532122624}
    bytes: {description: "Of the weights in the files, without the projector.", type: int, returned: always}
    types: {description: "C(tensors) and C(bytes) by the type of the tensors.", type: dict, returned: always}
    quantization:
      description: C(method), C(type), C(bits) of a weight, weights in a C(group), C(kv_cache) if the file brings scales for an FP8 cache.
      type: dict
      returned: always
      sample: {method: gguf, type: Q4_K_M, bits: 0, group: 0, kv_cache: ''}
    dtype: {description: "Type of the activations. Empty for GGUF.", type: str, returned: always}
    context_length: {description: "Tokens that the model takes, 0 if it has no limit.", type: int, returned: always, sample: 262144}
    embedding_length: {description: "Width of the model.", type: int, returned: always}
    vocabulary: {description: "Number of tokens in the vocabulary.", type: int, returned: always}
    layers:
      description: Number of layers in C(total), that attend C(full), C(sliding) or C(chunked), are C(recurrent), have C(experts),
        and of those beside the total that C(draft) further tokens.
      type: dict
      returned: always
    attention:
      description: C(kind) is one of C(full), C(sliding), C(chunked), C(mixed), C(mla), C(hybrid), C(recurrent), C(none). Whether it is C(cached),
        its C(window), all different values of C(heads), C(kv_heads), C(key_length), C(value_length) in the cache, and C(mla).
      type: dict
      returned: always
    kv_bytes_per_token: {description: "What a token costs in the KV cache, at 2 bytes per element.", type: int, returned: always, sample: 98304}
    kv_bytes_per_token_full:
      description: The same of the layers without a window alone, which is what further tokens cost when the windows are full.
      type: int
      returned: always
    state_bytes_per_sequence: {description: "What recurrent layers keep for a sequence, at 4 bytes per element.", type: int, returned: always}
    experts: {description: "C(count), C(used), C(shared), C(shared_feed_forward), or null.", type: dict, returned: always}
    rope: {description: "C(base), C(length), C(scaling), C(factor), C(original_context).", type: dict, returned: always}
    tied: {description: Whether the output is the embedding once more., type: bool, returned: always}
    tokenizer: {description: "C(model), C(tokens), C(bytes) of the vocabulary in a GGUF, or null.", type: dict, returned: always}
    projector: {description: "The encoder of images or sound, with its C(bytes), or null.", type: dict, returned: always}
    files: {description: "C(name) and C(size) of the files with weights.", type: list, elements: dict, returned: always}
    undescribed: {description: Sentences on what needs memory that is not told here., type: list, elements: str, returned: always}
    blocks: {description: Every layer., type: list, elements: dict, returned: if O(tensors)}
    tensors: {description: Every tensor., type: list, elements: dict, returned: if O(tensors)}
revision: {description: "The commit of a hub's repository if it is known, otherwise empty.", type: str, returned: success}
bytes_fetched: {description: What had to be read., type: int, returned: success, sample: 5967872}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import described
from ansible_collections.baremetal.llm.plugins.module_utils._model_source import ModelName, read_model

ARGUMENTS = {
    "model": {"type": "str", "required": True},
    "files": {"type": "list", "elements": "str", "default": []},
    "revision": {"type": "str", "default": ""},
    "mirror": {"type": "str", "default": ""},
    "hub_token": {"type": "str", "default": "", "no_log": True},
    "hub_endpoint": {"type": "str", "default": ""},
    "tensors": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    name = ModelName(
        model=params["model"],
        files=tuple(params["files"]),
        revision=params["revision"],
        mirror=params["mirror"],
        endpoint=params["hub_endpoint"],
        token=params["hub_token"].strip(),
    )
    try:
        reading = read_model(name)
    except LLMError as exc:
        module.fail_json(msg=str(exc), exception=exc)
    model = described(reading.shape, params["tensors"])
    module.exit_json(changed=False, model=model, revision=reading.revision, bytes_fetched=reading.fetched)


if __name__ == "__main__":
    main()
