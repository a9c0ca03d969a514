# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the catalogue's words, and an engine's own under ``extra``, to the settings that are estimated, and back."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Demand
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_llama import llama_wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_run import at_rung
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_vllm import vllm_wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Wish
from ansible_collections.baremetal.llm.plugins.module_utils._llama import preset_options
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import Projector
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import (
    demand,
    gpu,
    machine,
    planned,
    shape,
    vllm,
)

pytestmark = pytest.mark.usefixtures("simple_estimates")

HERE = machine(gpu(), gpu(1))


def wish(**options: t.Any) -> Wish:
    return llama_wish(demand("chat", shape(4), **options), HERE)


def settings(**options: t.Any) -> LlamaSettings:
    return t.cast(LlamaSettings, wish(**options).settings)


def test_what_llama_server_does_by_itself_where_nothing_is_said() -> None:
    found = settings()
    assert (found.batch, found.ubatch, found.cache_k, found.cache_v) == (2048, 512, "f16", "f16")
    assert (found.flash_attention, found.split_mode, found.gpu_layers, found.cpu_moe) == (True, "layer", None, 0)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ({"batch": 1024}, {"batch-size": 1024}),
        ({"ubatch": 256}, {"ub": "256"}),
        ({"kv_cache_k": "q8_0", "kv_cache_v": "q4_0"}, {"cache-type-k": "q8_0", "ctv": "q4_0"}),
        ({"gpu_layers": 12}, {"ngl": 12}),
        ({"gpu_layers": 12}, {"gpu-layers": "12"}),
        ({"n_cpu_moe": 3}, {"LLAMA_ARG_N_CPU_MOE": 3}),
        ({"cpu_moe": True}, {"cpu-moe": True}),
        ({"flash_attention": False}, {"flash-attn": "off"}),
        ({"flash_attention": "off"}, {"fa": False}),
        ({"split_mode": "row", "main_gpu": 1}, {"split-mode": "row", "mg": 1}),
        ({"tensor_split": [3, 1]}, {"tensor-split": "3,1"}),
        ({"override_tensor": ["exps=CPU", "attn=CUDA1"]}, {"override-tensor": "exps=CPU,attn=CUDA1"}),
        ({"cache_ram": 512}, {"cache-ram": 512}),
        ({"load_mode": "mlock"}, {"lm": "mlock"}),
        ({"reranking": True}, {"rerank": True}),
        ({"parallel": 3}, {"np": 3}),
    ],
)
def test_extra_means_the_same_as_the_catalogues_words(words: dict[str, t.Any], extra: dict[str, t.Any]) -> None:
    assert (settings(**words), wish(**words).ladder) == (settings(extra=extra), wish(extra=extra).ladder) != (settings(), wish().ladder)
    assert wish(**words).free == wish(extra=extra).free


def test_what_only_extra_can_say() -> None:
    assert settings(extra={"swa-full": True}).swa_full is True
    assert settings(extra={"no-mmproj-offload": True}).mmproj_offload is False
    assert settings(extra={"kv-unified": True, "parallel": 2}).unified is True
    assert settings(extra={"n-cpu-ffn": 2}).override_tensor == ((r"blk\.0\.ffn_(up|down|gate)\.", "CPU"), (r"blk\.1\.ffn_(up|down|gate)\.", "CPU"))
    assert wish(extra={"ngl": -1}).free >= {"gpu_layers"}


def test_a_whole_context_is_divided_as_the_server_does() -> None:
    found = wish(extra={"ctx-size": 32768}, parallel=2)
    assert (found.ladder, settings(extra={"ctx-size": 32768}, parallel=2).unified) == (((16384, 2),), False)
    # without a number of slots it opens four over one cache
    alone = wish(extra={"c": 32768})
    assert (alone.ladder, settings(extra={"c": 32768}).unified) == (((8192, 4),), True)
    each = wish(extra={"kv-unified-per-slot": 8192})
    assert (each.ladder, settings(extra={"kv-unified-per-slot": 8192}).unified) == (((8192, 4),), True)


def test_what_extra_says_is_not_said_twice() -> None:
    extra = {"ctx-size": 32768, "cache-type-k": "q8_0", "ngl": 20, "cache-ram": 0}
    options: dict[str, t.Any] = {"extra": extra, "gpus": [0]}
    found = planned(HERE, demand("chat", shape(4), **options)).deployments[0]
    assert not {"context", "parallel", "kv_cache_k", "gpu_layers", "cache_ram"} & set(found.options)
    assert found.estimate.devices[0].weights == 20 / 32 * 4 * GIB
    preset = preset_options(options, {}, planned=found.options)
    assert {key: preset[key] for key in extra} == {key: str(value) for key, value in extra.items()}


def test_the_engine_takes_every_option_of_a_plan() -> None:
    found = planned(machine(gpu(0, 12), gpu(1, 12)), demand("moe", shape(20, experts=True))).deployments[0]
    preset = preset_options({}, {}, planned=found.options)
    assert preset["device"] == "CUDA0,CUDA1"
    assert preset["ctx-size"] == str(found.options["context"] * found.options["parallel"])
    assert set(preset) >= {"cache-type-k", "cache-type-v", "n-gpu-layers", "tensor-split", "n-cpu-moe", "cache-ram", "parallel"}
    assert preset_options({}, {}, planned=planned(machine(), demand("cpu", shape(4))).deployments[0].options)["device"] == "none"


@pytest.mark.parametrize("name", ["no-kv-offload", "lora", "mmproj-device", "spec-type", "rpc", "override-kv", "spec-draft-model", "md", "device"])
def test_what_is_not_counted_is_said(name: str) -> None:
    assert wish(extra={name: "x"}).warnings == (f"chat: extra: {name} changes the memory that it needs and is not counted",)


@pytest.mark.parametrize("name", ["top-nsigma", "no-context-shift", "chat-template", "jinja", "threads"])
def test_what_changes_no_memory_is_not_mentioned(name: str) -> None:
    assert wish(extra={name: "x"}).warnings == ()


def test_a_draft_model_runs_with_the_context_of_the_model() -> None:
    extra = {"model-draft": "draft.gguf", "spec-draft-type-k": "q8_0", "ngld": 4}
    asked = Demand("chat", "llama_router", "llama-router", shape(4), {"context": 8192, "parallel": 2, "extra": extra}, draft=shape(1))
    found = llama_wish(asked, HERE)
    assert found.warnings == ()
    draft = t.cast(LlamaSettings, at_rung(found, found.settings, 0)).draft
    assert draft
    assert (draft[1].cache_k, draft[1].cache_v, draft[1].gpu_layers) == ("q8_0", "f16", 4)
    assert (draft[1].context, draft[1].parallel, draft[1].split) == (16384, 2, (1.0,))


def test_a_projector_that_is_switched_off_is_not_counted() -> None:
    with_eyes = replace(shape(4), projector=Projector("clip", ("vision",), ()))
    on = llama_wish(demand("chat", with_eyes), HERE)
    off = llama_wish(demand("chat", with_eyes, extra={"no-mmproj": True}), HERE)
    assert (on.shape.projector is None, off.shape.projector is None) == (False, True)


def test_an_encoder_reads_its_whole_context_in_one_step() -> None:
    encoder = replace(shape(1, trained=8192), cached=False)
    found = planned(HERE, demand("embed", encoder, embeddings=True)).deployments[0]
    assert (found.options["context"], found.options["ubatch"], found.options["batch"]) == (8192, 8192, 8192)
    assert any(why.startswith("ubatch: 8192") for why in found.why)
    kept = planned(HERE, demand("embed", encoder, embeddings=True, ubatch=512)).deployments[0]
    assert "ubatch" not in kept.options
    assert "ubatch" not in planned(HERE, demand("chat", shape(1))).deployments[0].options


def test_prompts_without_a_limit_stay_so_and_are_warned_of() -> None:
    found = planned(HERE, demand("chat", shape(4), cache_ram=-1))
    assert found.fits
    assert "cache_ram" not in found.deployments[0].options
    assert found.deployments[0].estimate.host.prompts == 8 * GIB
    assert found.warnings == ("chat: cache_ram: -1 lets the prompts that it remembers grow without limit; 8192 MiB are counted",)


def test_only_gguf_runs_in_a_router() -> None:
    with pytest.raises(InputError, match="chat is not a GGUF file"):
        llama_wish(replace(vllm("chat", shape(4)), engine="llama_router"), HERE)


def test_an_unknown_engine() -> None:
    with pytest.raises(InputError, match="engine 'ollama'; the ledger knows: llama_router, vllm"):
        planned(HERE, replace(demand("chat", shape(4)), engine="ollama"))


def test_vllms_words_and_its_own_flags() -> None:
    words = {"context": 8192, "kv_cache": "fp8", "tensor_parallel": 2, "max_batched_tokens": 4096, "enforce_eager": True, "kv_cache_memory": 2 * GIB}
    flags = {"max-model-len": 8192, "kv-cache-dtype": "fp8", "tensor_parallel_size": 2, "max-num-batched-tokens": 4096, "enforce-eager": True}
    one = vllm_wish(vllm("fast", shape(4), **words), HERE)
    other = vllm_wish(vllm("fast", shape(4), extra={**flags, "kv-cache-memory-bytes": "2G"}), HERE)
    assert (one.settings, one.free, one.tensor_parallel) == (other.settings, other.free, other.tensor_parallel)


@pytest.mark.parametrize("name", ["speculative-config", "pipeline-parallel-size", "enable-lora"])
def test_vllms_flags_that_are_not_counted(name: str) -> None:
    assert f"extra: {name} changes the memory" in vllm_wish(vllm("fast", shape(4), extra={name: 1}), HERE).warnings[0]


@pytest.mark.parametrize("word", ["kv_offload", "loras", "speculative"])
def test_vllms_words_that_are_not_counted(word: str) -> None:
    assert f"{word} changes the memory" in vllm_wish(vllm("fast", shape(4), **{word: 1}), HERE).warnings[0]


def test_vllms_words_for_what_is_kept_where() -> None:
    found = t.cast(VllmSettings, vllm_wish(vllm("fast", shape(4), prefix_caching=False, cpu_offload=2.5), HERE).settings)
    assert (found.prefix_caching, found.cpu_offload_bytes) == (False, 5 * GIB // 2)


def test_vllms_flags_without_a_word_in_the_catalogue() -> None:
    flags = {"no-enable-prefix-caching": True, "disable_hybrid_kv_cache_manager": True, "cpu-offload-gb": 2.5, "mamba-cache-dtype": "float32"}
    found = t.cast(VllmSettings, vllm_wish(vllm("fast", shape(4), extra=flags), HERE).settings)
    assert (found.prefix_caching, found.hybrid_cache, found.cpu_offload_bytes, found.mamba_cache_dtype) == (False, False, 5 * GIB // 2, "float32")
    with pytest.raises(InputError, match="cpu_offload: 'much'; allowed: a number of at least 0"):
        vllm_wish(vllm("fast", shape(4), extra={"cpu-offload-gb": "much"}), HERE)


@pytest.mark.parametrize("value", [0, 1.5])
def test_a_share_that_cannot_be(value: float) -> None:
    with pytest.raises(InputError, match="gpu_memory_utilization: .*allowed: auto, or a number above 0 and up to 1"):
        vllm_wish(vllm("fast", shape(4), gpu_memory_utilization=value), HERE)
