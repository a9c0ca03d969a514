# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Published configurations and headers of safetensors, and the shapes in them as vLLM understands them."""

from __future__ import annotations

import json
import random
import struct
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _safetensors
from ansible_collections.baremetal.llm.plugins.module_utils._hf import read_hf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    CHUNKED,
    FULL,
    SLIDING,
    Experts,
    MetadataError,
    Missing,
    Mla,
    ModelShape,
    Quantization,
    RecurrentState,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles, WebFiles
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import safetensors as st
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.server import serving

FEW: st.Tensors = {"model.embed_tokens.weight": ("BF16", (8, 8)), "lm_head.weight": ("BF16", (8, 8))}


@pytest.fixture
def read(tmp_path: Path) -> t.Callable[..., ModelShape]:
    """The shape of a published configuration with the tensors that matter here."""

    def write_and_read(config: str | dict[str, t.Any], tensors: st.Tensors | None = None, **changes: t.Any) -> ModelShape:
        told = st.config(config) if isinstance(config, str) else config
        return read_hf(LocalFiles(st.write(tmp_path, {**told, **changes}, tensors or FEW)), "name")

    return write_and_read


def at(shape: ModelShape, kind: str) -> list[int]:
    return [number for number, layer in enumerate(shape.layers) if layer.attention == kind]


@pytest.mark.parametrize(
    ("name", "norms", "parameters", "cache"),
    [
        ("llama-3.1-8b", 2, 8_030_261_248, 32 * 8 * 256),
        ("qwen3-8b", 2, 8_190_735_360, 36 * 8 * 256),
        ("qwen3-30b-a3b", 2, 30_532_122_624, 48 * 4 * 256),
        ("gemma-2-9b-it", 4, 9_241_705_984, 42 * 8 * 512),
        ("mistral-7b-v0.1", 2, 7_241_732_096, 32 * 8 * 256),
    ],
)
def test_parameters_and_cache_are_as_published(read: t.Callable[..., ModelShape], name: str, norms: int, parameters: int, cache: int) -> None:
    shape = read(name, st.decoder(st.config(name), norms=norms))
    assert (shape.parameters, shape.bytes, shape.cache_per_token()) == (parameters, 2 * parameters, cache)
    assert (shape.format, shape.name, shape.dtype) == ("safetensors", "name", "bfloat16")
    assert {tensor.layer for tensor in shape.tensors} == {None, *range(len(shape.layers))}


def test_llama(read: t.Callable[..., ModelShape]) -> None:
    shape = read("llama-3.1-8b")
    assert (shape.architecture, shape.context_length, shape.embedding_length, shape.vocabulary) == ("llama", 131072, 4096, 128256)
    assert {(layer.attention, layer.heads, layer.kv_heads, layer.key_length, layer.feed_forward) for layer in shape.layers} == {(FULL, 32, 8, 128, 14336)}
    assert (shape.rope.scaling, shape.rope.factor, shape.rope.original_context, shape.rope.base) == ("llama3", 8.0, 8192, 500000.0)
    assert (shape.tied, shape.cached, shape.mla, shape.state, shape.projector) == (False, True, None, None, None)


def test_awq_packs_eight_weights_into_a_number(read: t.Callable[..., ModelShape]) -> None:
    config = st.config("qwen2.5-7b-instruct-awq")
    shape = read(config, st.awq(st.decoder(config, "F16")))
    assert shape.quantization == Quantization("awq", "w4", 4, 128)
    assert shape.parameters == 7_615_616_512
    packed = 28 * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3 * 18944 * 3584)
    assert shape.bytes == packed // 2 + packed // 128 * 5 // 2 + 2 * (7_615_616_512 - packed)
    assert (shape.attention, {layer.kv_heads for layer in shape.layers}) == ("full", {4})  # use_sliding_window is off


def test_experts(read: t.Callable[..., ModelShape]) -> None:
    config = st.config("qwen3-30b-a3b")
    shape = read(config, st.decoder(config))
    assert shape.experts == Experts(128, 8)
    assert {(layer.experts, layer.experts_used, layer.expert_feed_forward, layer.feed_forward) for layer in shape.layers} == {(128, 8, 768, 0)}
    assert shape.layers[0].key_length == 128  # not 2048 / 32


def test_gemma_2(read: t.Callable[..., ModelShape]) -> None:
    shape = read("gemma-2-9b-it", {"model.embed_tokens.weight": ("BF16", (8, 8))})
    assert at(shape, FULL) == list(range(1, 42, 2))
    assert ({layer.window for layer in shape.layers}, shape.tied) == ({0, 4096}, True)


def test_gemma_3_leaves_out_what_its_class_knows(read: t.Callable[..., ModelShape]) -> None:
    tensors: st.Tensors = {
        "language_model.model.layers.0.mlp.up_proj.weight": ("BF16", (4, 4)),
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight": ("BF16", (8, 4)),
        "multi_modal_projector.mm_input_projection_weight": ("BF16", (2, 4)),
    }
    shape = read("gemma-3-4b-it", tensors)
    assert {(layer.heads, layer.kv_heads, layer.key_length) for layer in shape.layers} == {(8, 4, 256)}
    assert (shape.architecture, shape.vocabulary, shape.context_length, shape.tied) == ("gemma3_text", 262208, 131072, True)
    assert at(shape, FULL) == [5, 11, 17, 23, 29]
    assert {layer.window for layer in shape.layers} == {0, 1024}
    assert shape.projector is not None
    assert (shape.projector.type, shape.projector.layers, shape.projector.image_size) == ("siglip_vision_model", 27, 896)
    assert (shape.projector.modalities, shape.projector.bytes, shape.bytes) == (("vision",), 80, 32)
    assert [tensor.layer for tensor in shape.tensors] == [0]
    other = read("gemma-3-12b-it")
    assert {(layer.heads, layer.kv_heads, layer.key_length) for layer in other.layers} == {(16, 8, 256)}


def test_mistral_small_is_nested_and_says_so_much_itself(read: t.Callable[..., ModelShape]) -> None:
    shape = read("mistral-small-3.1-24b", {"language_model.lm_head.weight": ("BF16", (8, 8)), "vision_tower.ln_pre.weight": ("BF16", (8,))})
    assert {(layer.attention, layer.kv_heads, layer.key_length) for layer in shape.layers} == {(FULL, 8, 128)}
    assert (len(shape.layers), shape.context_length, shape.tied, shape.dtype) == (40, 131072, False, "bfloat16")


@pytest.mark.parametrize(("name", "window", "heads"), [("phi-3-mini-4k", 2047, 32), ("mistral-7b-v0.1", 4096, 8)])
def test_all_layers_slide_where_there_is_a_window_and_nothing_else(read: t.Callable[..., ModelShape], name: str, window: int, heads: int) -> None:
    shape = read(name)
    assert {(layer.attention, layer.window, layer.kv_heads) for layer in shape.layers} == {(SLIDING, window, heads)}
    assert shape.attention == "sliding"
    assert read(name, sliding_window=None).attention == "full"


def test_deepseek_v3(read: t.Callable[..., ModelShape]) -> None:
    tensors: st.Tensors = {
        "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", (256, 256)),
        "model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", (2, 2)),
        "model.layers.3.mlp.experts.0.up_proj.weight": ("F8_E4M3", (256, 128)),
        "model.layers.3.mlp.shared_experts.up_proj.weight": ("F8_E4M3", (256, 128)),
        "model.layers.61.mlp.experts.0.up_proj.weight": ("F8_E4M3", (256, 128)),
        "lm_head.weight": ("BF16", (4, 4)),
    }
    shape = read("deepseek-v3", tensors)
    assert shape.mla == Mla(512, 1536, 64, 192, 128)
    assert (shape.attention, shape.cache_per_token()) == ("mla", 61 * 576)
    assert {(layer.heads, layer.kv_heads, layer.key_length, layer.value_length) for layer in shape.layers} == {(128, 1, 576, 0)}
    assert [layer.draft for layer in shape.layers] == [False] * 61 + [True]
    assert (shape.layers[0].feed_forward, shape.layers[3].expert_feed_forward, shape.layers[61].experts) == (18432, 2048, 256)
    assert shape.experts == Experts(256, 8, 1, 2048)
    assert shape.quantization == Quantization("fp8", "fp8-block", 8, 128)
    assert shape.parameters == 256 * 256 + 3 * 256 * 128 + 16  # scales are none
    assert (shape.rope.scaling, shape.context_length) == ("yarn", 163840)


def test_gpt_oss(read: t.Callable[..., ModelShape]) -> None:
    tensors: st.Tensors = {
        "model.layers.0.mlp.experts.gate_up_proj_blocks": ("U8", (32, 5760, 90, 16)),
        "model.layers.0.mlp.experts.gate_up_proj_scales": ("U8", (32, 5760, 90)),
        "model.layers.0.mlp.experts.gate_up_proj_bias": ("BF16", (32, 5760)),
        "lm_head.weight": ("BF16", (4, 4)),
    }
    shape = read("gpt-oss-20b", tensors)
    assert at(shape, SLIDING) == list(range(0, 24, 2))
    assert {layer.window for layer in shape.layers} == {0, 128}
    assert shape.quantization == Quantization("mxfp4", "mxfp4", 4, 32)
    assert shape.parameters == 32 * 5760 * 2880 + 32 * 5760 + 16
    assert shape.layers[0].expert_feed_forward == 2880


def test_qwen_next(read: t.Callable[..., ModelShape]) -> None:
    shape = read("qwen3-next-80b-a3b", {**FEW, "mtp.layers.0.self_attn.q_proj.weight": ("BF16", (4, 4))})
    assert at(shape, FULL) == [*range(3, 48, 4), 48]
    assert [layer.recurrent for layer in shape.layers[:4]] == [True, True, True, False]
    assert shape.state == RecurrentState("delta", 3 * 8192, 4096 * 128, kernel=4, inner=4096, state=128, groups=16, heads=32)
    assert (shape.attention, shape.cache_per_token(), len(shape.trunk), shape.layers[48].draft) == ("hybrid", 12 * 2 * 512, 48, True)
    assert shape.rope.length == 64
    assert shape.experts == Experts(512, 10, 1, 512)


def test_both_formats_describe_the_same_state(read: t.Callable[..., ModelShape]) -> None:
    """The figures of test_gguf for the same models."""
    granite, nemotron, jamba = read("granite-4.0-h-tiny"), read("nemotron-h-8b"), read("jamba-v0.1")
    assert granite.state == RecurrentState("mamba2", 3 * (3072 + 256), 3072 * 128, kernel=4, inner=3072, state=128, groups=1, heads=48)
    assert (at(granite, FULL), granite.attention) == ([5, 15, 25, 35], "hybrid")
    assert nemotron.state == RecurrentState("mamba2", 3 * (8192 + 2048), 8192 * 128, kernel=4, inner=8192, state=128, groups=8, heads=128)
    assert at(nemotron, FULL) == [7, 18, 29, 40]
    assert [(layer.recurrent, layer.feed_forward) for layer in nemotron.layers[:2]] == [(True, 0), (False, 21504)]
    assert sum(layer.recurrent for layer in nemotron.layers) == 24
    assert jamba.state == RecurrentState("mamba", 3 * 8192, 8192 * 16, kernel=4, inner=8192, state=16, heads=256)
    assert at(jamba, FULL) == [4, 12, 20, 28]


@pytest.mark.parametrize(
    ("config", "state", "attending"),
    [
        (
            {"model_type": "mamba", "num_hidden_layers": 4, "hidden_size": 768, "vocab_size": 9, "state_size": 16, "conv_kernel": 4, "expand": 2},
            RecurrentState("mamba", 3 * 1536, 1536 * 16, kernel=4, inner=1536, state=16, heads=48),
            [],
        ),
        (
            {"model_type": "mamba2", "num_hidden_layers": 4, "hidden_size": 2560, "vocab_size": 9, "state_size": 128, "n_groups": 1}
            | {"num_heads": 80, "head_dim": 64, "conv_kernel": 4, "expand": 2},
            RecurrentState("mamba2", 3 * (5120 + 256), 5120 * 128, kernel=4, inner=5120, state=128, groups=1, heads=80),
            [],
        ),
        (
            {"model_type": "falcon_h1", "num_hidden_layers": 4, "hidden_size": 1024, "vocab_size": 9, "num_attention_heads": 8, "num_key_value_heads": 2}
            | {"head_dim": 64, "mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4},
            RecurrentState("mamba2", 3 * (1536 + 256), 1536 * 128, kernel=4, inner=1536, state=128, groups=1, heads=24),
            [0, 1, 2, 3],
        ),
        (
            {"model_type": "kimi_linear", "num_hidden_layers": 4, "hidden_size": 2304, "vocab_size": 9, "num_attention_heads": 32, "kv_lora_rank": 512}
            | {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
            | {"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4}},
            RecurrentState("kda", 3 * 3 * 4096, 4096 * 128, kernel=4, inner=4096, state=128, heads=32),
            [3],
        ),
        (
            {"model_type": "kimi_linear", "num_hidden_layers": 4, "hidden_size": 2304, "vocab_size": 9, "num_attention_heads": 32, "kv_lora_rank": 512}
            | {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
            | {"linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4},
            RecurrentState("kda", 3 * 3 * 4096, 4096 * 128, kernel=4, inner=4096, state=128, heads=32),
            [3],
        ),
        (
            {"model_type": "lfm2", "num_hidden_layers": 4, "hidden_size": 1024, "vocab_size": 9, "num_attention_heads": 16, "num_key_value_heads": 8}
            | {"conv_L_cache": 3, "layer_types": ["conv", "conv", "full_attention", "conv"]},
            RecurrentState("shortconv", 2 * 1024, 0, kernel=3, inner=1024),
            [2],
        ),
        (
            {"model_type": "minimax_text_01", "num_hidden_layers": 4, "hidden_size": 6144, "vocab_size": 9, "num_attention_heads": 64, "head_dim": 128}
            | {"num_key_value_heads": 8, "attn_type_list": [0, 0, 0, 1]},
            RecurrentState("linear", 0, 64 * 128 * 128, state=128, heads=64),
            [3],
        ),
        (
            {"model_type": "bamba", "num_hidden_layers": 4, "hidden_size": 4096, "vocab_size": 9, "num_attention_heads": 32, "num_key_value_heads": 8}
            | {"attn_layer_indices": [1], "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_expand": 2},
            RecurrentState("mamba2", 3 * (8192 + 256), 8192 * 128, kernel=4, inner=8192, state=128, groups=1, heads=128),
            [1],
        ),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_recurrent_families(read: t.Callable[..., ModelShape], config: dict[str, t.Any], state: RecurrentState, attending: list[int]) -> None:
    shape = read(config)
    assert shape.state == state
    assert at(shape, FULL) == attending
    both = config["model_type"] == "falcon_h1"
    assert [layer.recurrent for layer in shape.layers] == [both or number not in attending for number in range(4)]


def test_llama_4_attends_in_chunks(read: t.Callable[..., ModelShape]) -> None:
    tensors: st.Tensors = {f"language_model.model.layers.{number}.feed_forward.experts.down_proj": ("BF16", (16, 4, 4)) for number in range(48)}
    shape = read("llama-4-scout", {**tensors, "language_model.lm_head.weight": ("BF16", (4, 4))})
    assert at(shape, FULL) == list(range(3, 48, 4))
    assert {(layer.attention, layer.window) for layer in shape.layers} == {(FULL, 0), (CHUNKED, 8192)}
    assert {layer.expert_feed_forward for layer in shape.layers} == {8192}
    assert read("llama-4-scout").layers[0].feed_forward == 16384


def test_an_embedding_model_caches_nothing(read: t.Callable[..., ModelShape]) -> None:
    shape = read("nomic-embed-text-v1.5", {"encoder.layers.0.attn.Wqkv.weight": ("F32", (4, 4))})
    assert (shape.cached, shape.cache_per_token(), shape.tied, len(shape.layers)) == (False, 0, False, 12)
    assert (shape.embedding_length, shape.layers[0].feed_forward, shape.context_length) == (768, 3072, 8192)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 30}, (FULL, SLIDING)),
        ({"sliding_window": 64, "use_sliding_window": False}, (FULL, FULL)),
        ({"model_type": "exaone4", "sliding_window": 64, "sliding_window_pattern": "GLLL"}, (FULL, SLIDING)),
        ({"model_type": "cohere2", "sliding_window": 64}, (SLIDING, FULL)),
        ({"model_type": "unheard_of", "sliding_window": 64}, (FULL, FULL)),
        ({"model_type": "phimoe", "sliding_window": 64}, (SLIDING, SLIDING)),
        ({"layer_types": ["full_attention"] * 31 + ["sliding_attention"], "sliding_window": 64}, (FULL, SLIDING)),
        ({"layer_types": ["sliding_attention"] * 32, "sliding_window": None}, (FULL, FULL)),
        ({"hybrid_layer_pattern": [1] * 31 + [0], "sliding_window_size": 64, "swa_num_key_value_heads": 4, "swa_head_dim": 96}, (SLIDING, FULL)),
    ],
)
def test_which_layers_slide(read: t.Callable[..., ModelShape], changes: dict[str, t.Any], expected: tuple[str, str]) -> None:
    shape = read("llama-3.1-8b", **changes)
    assert (shape.layers[0].attention, shape.layers[31].attention) == expected
    windows = {layer.window for layer in shape.layers if layer.attention == SLIDING}
    assert windows <= {65 if changes.get("model_type") == "cohere2" else 64}
    if "swa_head_dim" in changes:
        assert [(layer.kv_heads, layer.key_length) for layer in shape.layers[30:]] == [(4, 96), (8, 128)]


def test_names_that_only_one_family_has(read: t.Callable[..., ModelShape]) -> None:
    falcon = {"model_type": "falcon", "n_layer": 2, "n_head": 71, "hidden_size": 4544, "vocab_size": 65024, "multi_query": True}
    assert (read(falcon).layers[0].kv_heads, read(falcon).layers[0].feed_forward) == (1, 4 * 4544)
    assert read({**falcon, "new_decoder_architecture": True, "num_kv_heads": 8}).layers[0].kv_heads == 8
    dbrx = {"model_type": "dbrx", "n_layers": 2, "n_heads": 48, "d_model": 6144, "vocab_size": 9, "attn_config": {"kv_n_heads": 8}, "max_seq_len": 32768}
    assert (read(dbrx).layers[0].kv_heads, read(dbrx).context_length) == (8, 32768)
    glm = {"model_type": "chatglm", "num_layers": 2, "num_attention_heads": 32, "multi_query_group_num": 2, "kv_channels": 128, "hidden_size": 4096}
    shape = read({**glm, "padded_vocab_size": 151552, "seq_length": 131072, "ffn_hidden_size": 13696})
    assert (shape.layers[0].kv_heads, shape.layers[0].key_length, shape.vocabulary, shape.context_length) == (2, 128, 151552, 131072)
    minicpm = {"model_type": "minicpm3", "num_hidden_layers": 2, "num_attention_heads": 40, "hidden_size": 2560, "vocab_size": 9, "kv_lora_rank": 256}
    shape = read({**minicpm, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64})
    assert (shape.mla, shape.layers[0].kv_heads, shape.layers[0].key_length, shape.layers[0].value_length) == (None, 40, 96, 96)
    sparse = read("deepseek-v3", model_type="deepseek_v32", index_head_dim=128, index_n_heads=64, index_topk=2048)
    assert sparse.cache_per_token() == 61 * (576 + 128)


def test_layers_with_heads_of_their_own(read: t.Callable[..., ModelShape]) -> None:
    gemma = {"model_type": "gemma4_text", "num_hidden_layers": 6, "hidden_size": 2304, "vocab_size": 9, "num_attention_heads": 8}
    gemma |= {"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 512, "num_global_key_value_heads": 2}
    assert [(layer.kv_heads, layer.key_length) for layer in read(gemma).layers[4:]] == [(4, 256), (4, 512)]
    assert [(layer.kv_heads, layer.key_length) for layer in read(gemma, attention_k_eq_v=True).layers[4:]] == [(4, 256), (2, 512)]
    told = {"05": {"head_dim": 128, "num_key_value_heads": 1}}
    assert [(layer.kv_heads, layer.key_length) for layer in read(gemma, per_layer_config=told).layers[4:]] == [(4, 256), (1, 128)]
    with pytest.raises(MetadataError, match="head_dim is 'wide'"):
        read(gemma, per_layer_config={"00": {"head_dim": "wide"}})


def test_shared_caches_count_once(read: t.Callable[..., ModelShape]) -> None:
    shape = read("gemma-2-9b-it", num_kv_shared_layers=10, model_type="gemma3n_text")
    assert [layer.cache_of for layer in shape.layers[31:36]] == [None, 31, 31, 29, 31]
    assert shape.cache_per_token() == 32 * 8 * 512
    with pytest.raises(MetadataError, match="num_kv_shared_layers"):
        read("gemma-2-9b-it", num_kv_shared_layers=42)


@pytest.mark.parametrize(
    ("scaling", "context"),
    [({"type": "linear", "factor": 4.0}, 131072), ({"rope_type": "yarn", "factor": 4.0}, 32768), ({"rope_type": "dynamic", "factor": None}, 32768)],
)
def test_a_context_that_is_stretched(read: t.Callable[..., ModelShape], scaling: dict[str, t.Any], context: int) -> None:
    assert read("mistral-7b-v0.1", rope_scaling=scaling).context_length == context


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Quantization("none")),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, Quantization("gptq", "w4", 4, 128)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, Quantization("awq", "w4", 4, 64)),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, Quantization("fp8", "fp8", 8)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, Quantization("bitsandbytes", "nf4", 4)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, Quantization("bitsandbytes", "int8", 8)),
        (
            {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
            | {"config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}}},
            Quantization("compressed-tensors", "fp8a8", 8, 0, "fp8"),
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}},
            Quantization("compressed-tensors", "w4a16", 4, 128),
        ),
        (
            {"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16}},
            Quantization("modelopt", "nvfp4", 4, 16, "fp8"),
        ),
        ({"quant_method": "quark", "bits": "eight"}, Quantization("quark")),
        ({}, Quantization("none")),
    ],
)
def test_quantization(read: t.Callable[..., ModelShape], config: t.Any, expected: Quantization) -> None:
    assert read("llama-3.1-8b", quantization_config=config).quantization == expected


def test_modelopt_describes_itself_in_a_file_of_its_own(read: t.Callable[..., ModelShape], tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}))
    assert read("llama-3.1-8b").quantization.method == "none"  # nothing in it looks quantized
    shape = read("llama-3.1-8b", {**FEW, "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", (8, 8))})
    assert shape.quantization == Quantization("modelopt", "fp8", 8, 0, "fp8")


@pytest.mark.parametrize(
    ("quantization", "name", "kind", "parameters"),
    [
        ({"quant_method": "gptq", "bits": 8}, "q_proj.qweight", "I32", 64 * 4),
        ({"quant_method": "gptq", "bits": 3}, "q_proj.qweight", "I32", 64 * 32 // 3),
        ({"quant_method": "gptq", "bits": 4}, "q_proj.g_idx", "I32", 0),
        ({"quant_method": "gptq", "bits": 4}, "q_proj.qzeros", "I32", 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "q_proj.weight", "U8", 128),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "q_proj.weight.quant_state.bitsandbytes__nf4", "U8", 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "q_proj.weight.absmax", "U8", 0),
        ({"quant_method": "fp8"}, "q_proj.weight_scale", "F32", 0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "q_proj.weight", "U8", 128),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "q_proj.weight_scale_2", "F32", 0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "q_proj.input_scale", "F32", 0),
        (None, "q_proj.weight", "F4", 64),
        (None, "mlp.scale_up.weight", "F32", 64),
    ],
)
def test_what_a_tensor_stands_for(read: t.Callable[..., ModelShape], quantization: t.Any, name: str, kind: str, parameters: int) -> None:
    shape = read("llama-3.1-8b", {f"model.layers.0.{name}": (kind, (8, 8))}, quantization_config=quantization)
    assert (shape.parameters, shape.bytes) == (parameters, 8 * st.BITS[kind])


# --- files


def test_shards_by_ranges(tmp_path: Path) -> None:
    config = st.config("qwen3-30b-a3b")
    tensors = st.decoder(config)
    st.write(tmp_path, config, tensors, shards=16)
    with serving(tmp_path) as server:
        files = WebFiles(f"{server.url}/")
        shape = read_hf(files)
        assert server.sent == files.fetched < 8 * 1024 * 1024
        assert len(server.requests) <= 2 + 2 * 16
    assert (len(shape.tensors), shape.parameters) == (len(tensors), 30_532_122_624)
    assert {file.name for file in shape.files} == {f"model-{number:05}-of-00016.safetensors" for number in range(1, 17)}
    assert sum(file.size for file in shape.files) == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    config = st.config("llama-3.1-8b")
    st.write(tmp_path, config, st.decoder(config), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(Missing, match=r"One of the model's 3 files is missing: model-00002-of-00003\.safetensors"):
        read_hf(LocalFiles(tmp_path))


def test_a_shard_of_another_model(tmp_path: Path) -> None:
    config = st.config("llama-3.1-8b")
    st.write(tmp_path, config, st.decoder(config), shards=2)
    st.write_file(tmp_path / "model-00002-of-00002.safetensors", FEW)
    with pytest.raises(MetadataError, match="tensors that its files do not have"):
        read_hf(LocalFiles(tmp_path))


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no config\.json"):
        read_hf(LocalFiles(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Missing, match="neither an index of safetensors nor the one file"):
        read_hf(LocalFiles(tmp_path))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a//b.safetensors", "x.bin", "a\nb.safetensors"])
def test_an_index_does_not_lead_elsewhere(tmp_path: Path, name: str) -> None:
    st.write(tmp_path, st.config("llama-3.1-8b"), FEW)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(MetadataError, match="do not lie beside it"):
        read_hf(LocalFiles(tmp_path))


def test_all_missing_keys_are_named(read: t.Callable[..., ModelShape]) -> None:
    with pytest.raises(MetadataError) as caught:
        read({"model_type": "unheard_of", "num_hidden_layers": 2})
    assert str(caught.value).startswith("config.json has the model_type 'unheard_of'")
    for key in ("num_attention_heads", "hidden_size", "vocab_size"):
        assert key in str(caught.value)
    with pytest.raises(MetadataError, match="no model_type"):
        read({"num_hidden_layers": 2})
    with pytest.raises(MetadataError, match=r"Missing: .*num_hidden_layers"):
        read({"model_type": "unheard_of"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers is 'many'"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": 1e400}, "hidden_size is inf"),
        ({"num_key_value_heads": True}, "num_key_value_heads is True"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["telepathy"] * 32}, "a kind that is not known here: telepathy"),
    ],
)
def test_values_that_describe_nothing(read: t.Callable[..., ModelShape], changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read("llama-3.1-8b", **changes)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "is no safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "longer than the file"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 2) + b"{{", "no JSON that can be read"),
        (struct.pack("<Q", 2) + b"{}x", "not complete"),
        (struct.pack("<Q", 100000) + b"[" * 100000, "no JSON"),
        ({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, "in no way that is known"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "in no way that is known"),
        ({"a": [1, 2]}, "in no way that is known"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "does not have the 4 bytes"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "does not have the 4 bytes"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, "does not have the 4 bytes"),
        ({"a": {"dtype": "F32", "shape": [2**40] * 15, "data_offsets": [0, 4]}}, "does not have the 4 bytes"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "begins at 4, where 0 is its place"),
        (
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            "begins at 0, where 4 is its place",
        ),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "not complete: its tensors need"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: bytes | dict[str, t.Any], message: str) -> None:
    st.write(tmp_path, st.config("llama-3.1-8b"), FEW)
    if isinstance(header, dict):
        text = json.dumps(header).encode()
        header = struct.pack("<Q", len(text)) + text + bytes(4)
    (tmp_path / "model.safetensors").write_bytes(header)
    with pytest.raises(MetadataError, match=message):
        read_hf(LocalFiles(tmp_path))


def test_a_header_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    st.write(tmp_path, st.config("llama-3.1-8b"), FEW)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", _safetensors.LONGEST + 1))
        file.truncate(1 << 30)
    with pytest.raises(MetadataError, match="longer than the file, or than"):
        read_hf(LocalFiles(tmp_path))


def test_thousands_of_strange_configurations(tmp_path: Path) -> None:
    """Whatever stands in a configuration, it is read or refused, never anything else."""
    dice = random.Random(20261121)
    junk: list[t.Any] = [None, True, -1, 0, 3, 2**70, 1.5, 1e300, "x", "", [], [1], ["x"], [[1]], {}, {"x": 1}, {"type": 3}, {"factor": "x", "type": "linear"}]
    configs = {path.stem: st.config(path.stem) for path in sorted(st.CONFIGS.glob("*.json"))}
    st.write(tmp_path, {}, FEW)
    read = 0
    begin = time.monotonic()
    for number in range(3000):
        told = json.loads(json.dumps(list(configs.values())[number % len(configs)]))
        place = told.get("text_config", told) if dice.random() < 0.8 else told
        for key in dice.sample(sorted(place), min(len(place), dice.randint(1, 3))):
            if isinstance(place[key], dict) and place[key] and dice.random() < 0.5:
                place[key][dice.choice(sorted(place[key]))] = dice.choice(junk)
            elif dice.random() < 0.2:
                del place[key]
            else:
                place[key] = dice.choice(junk)
        (tmp_path / "config.json").write_text(json.dumps(told))
        try:
            read_hf(LocalFiles(tmp_path))
            read += 1
        except MetadataError:
            pass
    assert 0 < read < 3000
    assert time.monotonic() - begin < 20
