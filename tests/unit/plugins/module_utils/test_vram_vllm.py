# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The estimate for vLLM: what it refuses, how its terms depend on the settings, and its inverses."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._hf import read_hf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import GGUF, Layer, ModelShape, Quantization, RecurrentState
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import (
    VllmSettings,
    tensor_parallel_reason,
    vllm_cache_bytes,
    vllm_cache_tokens,
    vllm_memory,
)
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_cache import pool
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_stage import largest_stage
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_work import graph_sizes
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import safetensors as st

GIB = 2**30
Read = t.Callable[..., ModelShape]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The shape of a published configuration with the tensors of an ordinary decoder."""

    def write_and_read(name: str, **changes: t.Any) -> ModelShape:
        config = {**st.config(name), **changes}
        return read_hf(LocalFiles(st.write(tmp_path / name, config, st.decoder(config))), name)

    return write_and_read


def test_a_dense_model(read: Read) -> None:
    estimate = vllm_memory(read("llama-3.1-8b"), VllmSettings(max_model_len=8192))
    (device,) = estimate.devices
    assert device.weights == 16_060_522_496 + 131072 * 128 * 2  # the table of rotary positions
    assert device.cache == (8192 // 16 + 1) * 16 * 131_072  # 128 KiB for a token, and the block that vLLM keeps for itself
    assert device.state == device.projector == device.draft == device.prompts == 0
    assert 0 < device.compute < GIB
    assert 0.5 * GIB < device.overhead < 2 * GIB
    assert estimate.host.weights == 0 < estimate.host.overhead
    assert "vLLM's own profile" in estimate.notes[0]


def test_two_gpus_halve_what_is_divided(read: Read) -> None:
    shape, settings = read("qwen3-8b"), VllmSettings(max_model_len=8192)
    one, two = vllm_memory(shape, settings).devices[0], vllm_memory(shape, replace(settings, tensor_parallel=2)).devices
    assert len(two) == 2
    assert two[0] == two[1]
    assert two[0].cache * 2 == one.cache
    assert one.weights / 2 < two[0].weights < one.weights / 2 * 1.01  # norms and positions are on both
    assert two[0].overhead > one.overhead  # NCCL


def test_stages_and_hosts_divide_a_model(read: Read) -> None:
    shape, settings = read("qwen3-8b"), VllmSettings(max_model_len=8192)
    one = vllm_memory(shape, settings).devices[0]
    half = largest_stage(shape, 2)
    assert len(half.trunk) == len(shape.trunk) // 2
    staged = vllm_memory(half, replace(settings, stages=2, hosts=2)).devices
    assert len(staged) == 1
    assert staged[0].cache * 2 == one.cache
    ends = shape.vocabulary * shape.embedding_length * 2  # the embedding or the output, in 16 bits
    assert one.weights / 2 < staged[0].weights < one.weights / 2 + ends
    # one GPU on each of two hosts is as two GPUs on one
    assert vllm_memory(shape, replace(settings, hosts=2)).devices[0] == vllm_memory(shape, replace(settings, tensor_parallel=2)).devices[0]
    # two on each of two: each layer within a host, half of the layers on each
    four = vllm_memory(half, replace(settings, tensor_parallel=2, stages=2, hosts=2)).devices
    assert len(four) == 2
    assert four[0].cache * 4 == one.cache


def test_stages_that_do_not_come_out_even(read: Read) -> None:
    shape = read("qwen3-8b")
    assert len(largest_stage(shape, 5).trunk) == -(-len(shape.trunk) // 5)
    with pytest.raises(InputError, match="pipeline_parallel is 99, but the model has 36 layers"):
        largest_stage(shape, 99)
    with pytest.raises(InputError, match="3 GPUs on each of 1 hosts cannot be divided into 2 stages"):
        VllmSettings(max_model_len=8192, tensor_parallel=3, stages=2)


def test_key_and_value_heads_are_repeated_when_there_are_more_gpus(read: Read) -> None:
    shape = read("qwen3-30b-a3b")  # 4 of them
    four, eight = (vllm_memory(shape, VllmSettings(max_model_len=4096, tensor_parallel=gpus)).devices[0] for gpus in (4, 8))
    assert four.cache == eight.cache


@pytest.mark.parametrize("sequences", [1, 2, 7])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-12b-it", "gpt-oss-20b", "granite-4.0-h-tiny", "llama-4-scout", "qwen3-next-80b-a3b"])
def test_bytes_and_tokens_are_inverse(tmp_path: Path, name: str, sequences: int) -> None:
    few: st.Tensors = {"model.embed_tokens.weight": ("BF16", (8, 8))}
    shape = read_hf(LocalFiles(st.write(tmp_path, st.config(name), few)), name)
    settings = VllmSettings(max_model_len=10_000)
    size, block = vllm_cache_bytes(shape, settings, sequences), pool(shape, settings).block_bytes
    assert vllm_cache_tokens(shape, settings, size) >= sequences * 10_000
    assert vllm_cache_tokens(shape, settings, size - 2 * block) < sequences * 10_000
    assert vllm_cache_tokens(shape, settings, size) == vllm_cache_tokens(shape, settings, size + block - 1)  # whole blocks only


def test_the_cache_that_is_told_is_taken_in_whole_blocks(read: Read) -> None:
    shape, settings = read("llama-3.1-8b"), VllmSettings(max_model_len=8192, kv_cache_bytes=4 * 10**9)
    block = 16 * 131_072
    assert vllm_memory(shape, settings).devices[0].cache == 4 * 10**9 // block * block
    with pytest.raises(InputError, match=r"kv_cache_bytes is 1000000000 .* one sequence of 8192 tokens needs 1\.0 GiB\. Lower max_model_len"):
        vllm_memory(shape, replace(settings, kv_cache_bytes=10**9))


def test_windows_and_types_make_the_cache_smaller(read: Read) -> None:
    shape = read("gemma-2-9b-it", sliding_window=1024)
    settings = VllmSettings(max_model_len=8192)
    whole = vllm_cache_bytes(shape, replace(settings, hybrid_cache=False))
    assert whole == (512 + 1) * 16 * 42 * 8 * 512 * 2
    assert vllm_cache_bytes(shape, settings) < 0.83 * whole
    assert vllm_cache_bytes(shape, replace(settings, async_scheduling=False)) < vllm_cache_bytes(shape, settings)
    assert vllm_cache_bytes(shape, replace(settings, kv_cache_dtype="fp8")) * 2 == vllm_cache_bytes(shape, settings)


@pytest.mark.parametrize(
    ("kind", "token"),
    [("auto", 1024), ("bfloat16", 1024), ("fp8_e4m3", 512), ("int8_per_token_head", 528), ("int4_per_token_head", 272), ("nvfp4", 288)],
)
def test_cache_types(read: Read, kind: str, token: int) -> None:
    shape = read("llama-3.1-8b", num_key_value_heads=2, num_hidden_layers=1)
    assert pool(shape, VllmSettings(max_model_len=16, kv_cache_dtype=kind)).block_bytes == 16 * token


def test_a_checkpoint_with_an_fp8_cache_decides_for_auto(read: Read) -> None:
    shape = replace(read("llama-3.1-8b"), quantization=Quantization("compressed-tensors", "fp8a8", 8, 0, "fp8"))
    settings = VllmSettings(max_model_len=4096)
    assert vllm_cache_bytes(shape, settings) * 2 == vllm_cache_bytes(shape, replace(settings, kv_cache_dtype="bfloat16"))


def test_the_block_of_a_hybrid_is_as_published() -> None:
    """github.com/noonghunna/club-3090/issues/1047, Qwen3.8-27B with an FP8 cache: "Setting attention block size to 1568 tokens"."""
    state = RecurrentState("delta", 3 * (48 * 128 + 2 * 16 * 128), 48 * 128 * 128, 4, 48 * 128, 128, 16, 48)
    attending = Layer("full", heads=24, kv_heads=4, key_length=256, value_length=256)
    layers = (*[Layer(recurrent=True)] * 3, attending)
    shape = ModelShape("safetensors", "qwen3_5_text", "", 262144, 5120, 248320, layers, (), (), Quantization("none"), state=state)
    assert pool(shape, VllmSettings(max_model_len=4096, kv_cache_dtype="fp8")).block_bytes == 1568 * 4 * 512


@pytest.mark.parametrize(("full", "sliding", "groups", "layers"), [(13, 12, 2, 13), (17, 12, 2, 17), (18, 12, 3, 12), (5, 29, 7, 5)])
def test_nearly_as_many_layers_of_two_kinds_are_padded_instead_of_split(read: Read, full: int, sliding: int, groups: int, layers: int) -> None:
    shape = read("llama-3.1-8b")
    one = shape.layers[0]
    shape = replace(shape, layers=(one,) * full + (replace(one, attention="sliding", window=512),) * sliding)
    blocks = pool(shape, VllmSettings(max_model_len=4096))
    assert (blocks.groups, blocks.block_bytes) == (groups, layers * 16 * 4096)


def test_the_bias_of_a_divided_input_is_whole_everywhere(tmp_path: Path) -> None:
    config = st.config("llama-3.1-8b")
    tensors = {**st.decoder(config), "model.layers.0.self_attn.o_proj.bias": ("BF16", (4096,)), "model.layers.0.self_attn.q_proj.bias": ("BF16", (4096,))}
    plain = read_hf(LocalFiles(st.write(tmp_path / "plain", config, st.decoder(config))))
    biased = read_hf(LocalFiles(st.write(tmp_path / "biased", config, tensors)))
    settings = VllmSettings(max_model_len=4096, tensor_parallel=4)
    assert vllm_memory(biased, settings).devices[0].weights - vllm_memory(plain, settings).devices[0].weights == 4096 * 2 + 4096 * 2 // 4


def test_an_output_that_is_the_embedding_is_loaded_once(read: Read, tmp_path: Path) -> None:
    config = {**st.config("qwen3-8b"), "tie_word_embeddings": True}
    tensors = {**st.decoder(config), "lm_head.weight": ("BF16", (151936, 4096))}  # some files bring it all the same
    twice = read_hf(LocalFiles(st.write(tmp_path, config, tensors)))
    once = read("qwen3-8b", tie_word_embeddings=True)
    assert vllm_memory(twice, VllmSettings(max_model_len=4096)) == vllm_memory(once, VllmSettings(max_model_len=4096))


def test_recurrent_layers_need_the_hybrid_cache(tmp_path: Path) -> None:
    shape = read_hf(LocalFiles(st.write(tmp_path, st.config("granite-4.0-h-tiny"), {"model.embed_tokens.weight": ("BF16", (8, 8))})))
    with pytest.raises(InputError, match="disable_hybrid_kv_cache_manager is set, but the model has recurrent layers"):
        vllm_cache_bytes(shape, VllmSettings(max_model_len=4096, hybrid_cache=False))


def test_an_encoder_caches_nothing(tmp_path: Path) -> None:
    shape = read_hf(LocalFiles(st.write(tmp_path, st.config("nomic-embed-text-v1.5"), {"embeddings.word_embeddings.weight": ("BF16", (30528, 768))})))
    settings = VllmSettings(max_model_len=2048)
    assert (vllm_cache_bytes(shape, settings), vllm_cache_tokens(shape, settings, GIB), vllm_memory(shape, settings).devices[0].cache) == (0, 0, 0)


def test_scratch_grows_with_the_batch_and_graphs_with_the_sequences(read: Read) -> None:
    shape, settings = read("llama-3.1-8b"), VllmSettings(max_model_len=8192)
    usual = vllm_memory(shape, settings).devices[0]
    assert vllm_memory(shape, replace(settings, max_num_batched_tokens=16384)).devices[0].compute > 2 * usual.compute
    assert vllm_memory(shape, replace(settings, max_num_seqs=8)).devices[0].overhead < usual.overhead
    assert vllm_memory(shape, replace(settings, enforce_eager=True)).devices[0].overhead < usual.overhead - GIB // 2


@pytest.mark.parametrize(("widest", "number"), [(256, 35), (512, 51), (1024, 83), (16, 5), (4, 3), (1, 1)])
def test_the_graphs_are_as_many_as_logs_tell(widest: int, number: int) -> None:
    assert len(graph_sizes(widest)) == number


def test_weights_that_are_quantized_while_they_load(read: Read) -> None:
    shape, settings = read("qwen3-8b"), VllmSettings(max_model_len=4096)
    whole, fp8 = vllm_memory(shape, settings).devices[0].weights, vllm_memory(shape, replace(settings, quantization="fp8")).devices[0].weights
    layers = sum(tensor.bytes for tensor in shape.tensors if tensor.name.endswith("_proj.weight"))
    assert whole - fp8 == layers // 2
    with pytest.raises(InputError, match="quantization is 'int3', but the weights of qwen3-8b are not quantized"):
        vllm_memory(shape, replace(settings, quantization="int3"))


def test_a_gptq_model_loses_its_zero_points(read: Read, tmp_path: Path) -> None:
    config = {**st.config("qwen2.5-7b-instruct-awq"), "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    shape = read_hf(LocalFiles(st.write(tmp_path, config, st.awq(st.decoder(config)))))
    zeros = sum(tensor.bytes for tensor in shape.tensors if tensor.name.endswith("qzeros"))
    assert vllm_memory(shape, VllmSettings(max_model_len=4096)).devices[0].weights == shape.bytes - zeros + 32768 * 128 * 2


def test_offloaded_weights_are_in_main_memory(read: Read) -> None:
    shape, settings = read("qwen3-8b"), VllmSettings(max_model_len=4096, tensor_parallel=2)
    whole, part = vllm_memory(shape, settings), vllm_memory(shape, replace(settings, cpu_offload_bytes=4 * GIB))
    assert whole.devices[0].weights - part.devices[0].weights == 4 * GIB
    assert part.host.weights == 8 * GIB


@pytest.mark.parametrize(
    ("changes", "degree", "reason"),
    [
        ({}, 1, ""),
        ({}, 2, ""),
        ({}, 16, ""),  # 8 key and value heads are repeated
        ({}, 3, "32 attention heads cannot be divided by 3"),
        ({"num_attention_heads": 36, "num_key_value_heads": 4}, 6, "4 key and value heads can neither be divided by 6 nor repeated evenly"),
        ({"intermediate_size": 14338}, 4, "a feed-forward network of width 14338 cannot be divided by 4"),
        ({"num_attention_heads": 40, "intermediate_size": 14340}, 5, "a vocabulary of 128256 rows cannot be divided by 5"),
    ],
)
def test_what_can_be_divided(tmp_path: Path, changes: dict[str, t.Any], degree: int, reason: str) -> None:
    config = {**st.config("llama-3.1-8b"), "head_dim": 128, "num_key_value_heads": 8, **changes}
    if degree == 5:
        config["num_key_value_heads"] = 5
    shape = read_hf(LocalFiles(st.write(tmp_path, config, {"model.embed_tokens.weight": ("BF16", (8, 8))})))
    assert tensor_parallel_reason(shape, degree) == reason


def test_quantized_weights_are_divided_between_groups(read: Read, tmp_path: Path) -> None:
    config = st.config("qwen2.5-7b-instruct-awq")  # 18944 = 148 groups of 128
    shape = read_hf(LocalFiles(st.write(tmp_path, config, st.awq(st.decoder(config)))), "qwen")
    assert tensor_parallel_reason(shape, 4) == ""
    wide = replace(shape, layers=tuple(replace(layer, heads=32, feed_forward=18944) for layer in shape.layers))
    assert tensor_parallel_reason(wide, 8) == "a feed-forward network of width 18944 divided by 8 does not come out in whole groups of 128 quantized weights"
    with pytest.raises(InputError, match=r"tensor_parallel is 8, but 28 attention heads cannot be divided by 8 \(qwen\)\. Choose another number of GPUs"):
        vllm_memory(shape, VllmSettings(max_model_len=4096, tensor_parallel=8))


def test_recurrent_layers_are_divided_by_heads_and_groups(tmp_path: Path) -> None:
    shape = read_hf(LocalFiles(st.write(tmp_path, st.config("granite-4.0-h-tiny"), {"model.embed_tokens.weight": ("BF16", (8, 8))})))
    assert tensor_parallel_reason(shape, 4) == ""
    assert shape.state is not None
    assert tensor_parallel_reason(replace(shape, state=replace(shape.state, groups=6)), 4) == "6 groups of the recurrent layers cannot be divided by 4"
    assert "50 channels or heads" in tensor_parallel_reason(replace(shape, state=replace(shape.state, heads=50)), 4)


def test_what_is_refused(read: Read) -> None:
    with pytest.raises(InputError, match="llama.gguf is a GGUF file, which vLLM 0.32 reads only with a plugin"):
        vllm_memory(replace(read("llama-3.1-8b"), format=GGUF, name="llama.gguf"), VllmSettings(max_model_len=4096))
    with pytest.raises(InputError, match="max_num_seqs is 0, it must be at least 1"):
        VllmSettings(max_model_len=4096, max_num_seqs=0)
    with pytest.raises(InputError, match="kv_cache_dtype is 'q8_0', of which the size is not known here. Known: auto, float16"):
        VllmSettings(max_model_len=4096, kv_cache_dtype="q8_0")
    with pytest.raises(InputError, match="only models with multi-head latent attention"):
        vllm_memory(read("llama-3.1-8b"), VllmSettings(max_model_len=4096, kv_cache_dtype="fp8_ds_mla"))


def test_it_is_fast_after_the_first_time(read: Read) -> None:
    shape = read("qwen3-30b-a3b")  # 18,000 tensors
    vllm_memory(shape, VllmSettings(max_model_len=4096))
    began = time.process_time()
    for length in range(1000, 1100):
        vllm_memory(shape, VllmSettings(max_model_len=length))
    assert (time.process_time() - began) / 100 < 0.005
