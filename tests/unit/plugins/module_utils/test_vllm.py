# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the catalogue as vLLM's own, against the options of the real vLLM."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import (
    OPTIONS,
    REMOVED,
    REMOVED_ENVIRONMENT,
    RESERVED,
    VLLM_OPTIONS,
    environment_errors,
    vllm_gpus,
    vllm_options,
)

KNOWN: dict[str, t.Any] = json.loads((pathlib.Path(__file__).parents[2] / "fixtures/vllm-0.32.0-known.json").read_text(encoding="utf-8"))
CHAT = {"source": "hf:someone/chat", "revision": "main", "files": ["config.json"], "engine": "vllm"}


def test_a_model_without_options_gets_the_context_that_fits() -> None:
    assert vllm_options(CHAT, {"model": "chat", "port": 8100}) == {"max-model-len": "auto"}


def test_every_option_is_one_of_the_real_server() -> None:
    assert {option.key for option in OPTIONS.values() if option.key} - set(KNOWN["options"]) == set()
    assert RESERVED - set(KNOWN["options"]) == set()


def test_what_counts_as_removed_is() -> None:
    assert set(REMOVED) & set(KNOWN["options"]) == set()
    assert set(REMOVED_ENVIRONMENT) & set(KNOWN["environment"]) == set()


@pytest.mark.parametrize(
    ("name", "value", "key", "rendered"),
    [
        ("block_size", 32, "block-size", 32),
        ("context", 32768, "max-model-len", 32768),
        ("cpu_offload", 2.5, "cpu-offload-gb", 2.5),
        ("dtype", "bfloat16", "dtype", "bfloat16"),
        ("embeddings", True, "runner", "pooling"),
        ("enforce_eager", True, "enforce-eager", True),
        ("gpu_memory_utilization", 0.9, "gpu-memory-utilization", 0.9),
        ("kv_cache", "fp8", "kv-cache-dtype", "fp8"),
        ("kv_cache_memory", "4GiB", "kv-cache-memory-bytes", 4 * 2**30),
        ("kv_cache_memory", 12345, "kv-cache-memory-bytes", 12345),
        ("max_batched_tokens", 8192, "max-num-batched-tokens", 8192),
        ("max_queued", 0, "max-num-queued-reqs", 0),
        ("parallel", 64, "max-num-seqs", 64),
        ("pipeline_parallel", 2, "pipeline-parallel-size", 2),
        ("prefix_caching", False, "enable-prefix-caching", False),
        ("quantization", "awq", "quantization", "awq"),
        ("reranking", True, "runner", "pooling"),
        ("speculative", {"method": "ngram"}, "speculative-config", {"method": "ngram"}),
        ("temperature", 0.7, "override-generation-config", {"temperature": 0.7}),
        ("tensor_parallel", 2, "tensor-parallel-size", 2),
        ("trust_remote_code", True, "trust-remote-code", True),
    ],
)
def test_an_option_becomes_its_key(name: str, value: t.Any, key: str, rendered: t.Any) -> None:
    assert vllm_options({name: value}, {})[key] == rendered


def test_auto_leaves_the_key_out() -> None:
    names = ("block_size", "dtype", "gpu_memory_utilization", "kv_cache", "kv_cache_memory", "max_batched_tokens", "parallel", "tensor_parallel", "gpus")
    assert vllm_options(dict.fromkeys(names, "auto"), {}) == {"max-model-len": "auto"}


def test_the_deployment_overrides_the_model_and_the_plan_both() -> None:
    model = {"context": 4096, "parallel": 8, "extra": {"seed": 1, "log_error_stack": True}}
    planned = {"context": 2048, "gpus": [1], "tensor_parallel": 1, "kv_cache_memory": 2**30}
    assert vllm_options(model, {"parallel": 4, "extra": {"seed": 2}}, "", planned) == {
        "max-model-len": 2048,
        "max-num-seqs": 4,
        "tensor-parallel-size": 1,
        "kv-cache-memory-bytes": 2**30,
        "seed": 2,
        "log-error-stack": True,
    }
    assert vllm_gpus(model, {"gpus": [0, 1]}, planned) == [1]
    assert vllm_gpus(model, {}) is None


def test_several_gpus_are_used_even_without_a_plan() -> None:
    assert vllm_options({}, {"gpus": [0, 1]})["tensor-parallel-size"] == 2
    assert "tensor-parallel-size" not in vllm_options({"pipeline_parallel": 2}, {"gpus": [0, 1]})
    assert vllm_options({"extra": {"tensor-parallel-size": 1}}, {"gpus": [0, 1]})["tensor-parallel-size"] == 1


def test_files_lie_in_the_directory_of_the_model() -> None:
    options = vllm_options({"chat_template_file": "t.jinja", "tokenizer": "/srv/tokenizer", "loras": {"de": "adapters/de"}}, {}, "/models/chat")
    assert options["chat-template"] == "/models/chat/t.jinja"
    assert options["tokenizer"] == "/srv/tokenizer"
    assert (options["enable-lora"], options["lora-modules"]) == (True, ["de=/models/chat/adapters/de"])


def test_a_tool_parser_turns_tools_on() -> None:
    assert vllm_options({"tool_parser": "hermes"}, {})["enable-auto-tool-choice"] is True


def test_the_context_can_be_an_extra() -> None:
    assert vllm_options({"extra": {"max-model-len": "32k"}}, {}) == {"max-model-len": "32k"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"contxt": 1}, "contxt (value 1) is no option of the engine vllm: did you mean context?"),
        ({"swap_space": 4}, "no option of the engine vllm: nothing is swapped any more; kv_offload"),
        ({"VLLM_USE_V1": "1"}, "there is only one engine"),
        ({"context": 0}, "context is 0; allowed: auto, a whole number of at least 1"),
        ({"context": True}, "context is True"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed: auto, bfloat16"),
        ({"gpu_memory_utilization": 1.2}, "allowed: auto, a number from 0.001 to 1"),
        ({"gpus": [0, 0]}, "names each GPU once"),
        ({"gpus": "all"}, "gpus is 'all'; allowed: auto, a list"),
        ({"kv_cache": "q8_0"}, "kv_cache is 'q8_0'; allowed: auto, bfloat16"),
        ({"kv_cache_memory": "much"}, "such as 4GiB"),
        ({"lora_rank": 7}, "lora_rank is 7; allowed: 1, 8"),
        ({"loras": {"a": "b,c"}}, "without = and commas"),
        ({"quantization": "--port"}, "a text without a dash in front"),
        ({"extra": ["a"]}, "allowed: a mapping"),
        ({"extra": {"--seed": 1}}, "without the leading dashes"),
        ({"extra": {"swap-space": 4}}, "swap-space, which vLLM no longer has: nothing is swapped"),
        ({"extra": {"disable_log_requests": True}}, "which vLLM no longer has: requests are logged only with"),
        ({"extra": {"VLLM_API_KEY": "x"}}, "VLLM_API_KEY is a secret"),
        ({"extra": {"api-key": "x"}}, "which the role vllm sets itself"),
        ({"extra": {"seed": None}}, "extra has seed: None"),
        ({"extra": {"seed": "--port"}}, "extra has seed: '--port'"),
        ({"parallel": 2, "extra": {"max_num_seqs": 4}}, "extra sets max-num-seqs, which another option of the model sets already"),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        vllm_options(options, {})
    assert words in str(caught.value)


def test_the_environment_holds_no_secret_and_nothing_of_old_guides() -> None:
    errors = environment_errors({"VLLM_USE_V1": "1", "HF_TOKEN": "x", "VLLM_API_KEY": "y", "OMP_NUM_THREADS": "4"})
    assert [error.split()[0] for error in errors] == ["VLLM_USE_V1", "HF_TOKEN", "VLLM_API_KEY"]
    assert "give vllm_api_key instead" in errors[-1]


def test_the_words_of_the_ledger_are_options() -> None:
    words = {"context", "parallel", "kv_cache", "gpus", "tensor_parallel", "max_batched_tokens", "gpu_memory_utilization", "kv_cache_memory"}
    assert words <= VLLM_OPTIONS
