# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama-server takes, worked out by hand on a small model, and against llama.cpp's own answers for every architecture that it has."""

from __future__ import annotations

import json
import os
import tarfile
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._gguf_shape import read_gguf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    FULL,
    GGUF,
    SLIDING,
    File,
    Layer,
    Mla,
    ModelShape,
    Projector,
    Quantization,
    RecurrentState,
    Tensor,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import ASLEEP, CONTEXT, LlamaSettings, llama_memory
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_settings import HOST, place
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
LAYERS, WIDTH, INNER, TOKENS = 4, 1024, 4096, 32000
ATTENDING = Layer(attention=FULL, heads=8, kv_heads=2, key_length=128, value_length=128, feed_forward=INNER)


def matrix(name: str, *shape: int, layer: int | None = None, kind: str = "F16") -> Tensor:
    count = 1
    for length in shape:
        count *= length
    return Tensor(name, kind, shape, count, 2 * count, layer, "model.gguf")


def block(number: int, *, experts: bool = False) -> list[Tensor]:
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (1024, WIDTH),
        "attn_k.weight": (256, WIDTH),
        "attn_v.weight": (256, WIDTH),
        "attn_output.weight": (WIDTH, 1024),
        "ffn_norm.weight": (WIDTH,),
    }
    if experts:
        parts |= {"ffn_gate_inp.weight": (8, WIDTH), **{f"ffn_{side}_exps.weight": (8, 512, WIDTH) for side in ("gate", "up", "down")}}
    else:
        parts |= {"ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
    return [matrix(f"blk.{number}.{name}", *shape, layer=number) for name, shape in parts.items()]


def model(*, tied: bool = False, experts: bool = False, **changes: t.Any) -> ModelShape:
    layer = replace(ATTENDING, feed_forward=0, experts=8, experts_used=2, expert_feed_forward=512) if experts else ATTENDING
    tensors = [matrix("token_embd.weight", TOKENS, WIDTH), matrix("output_norm.weight", WIDTH), matrix("rope_freqs.weight", 64)]
    tensors += [] if tied else [matrix("output.weight", TOKENS, WIDTH)]
    tensors += [tensor for number in range(LAYERS) for tensor in block(number, experts=experts)]
    shape = ModelShape(
        format=GGUF,
        architecture="llama",
        name="small",
        context_length=131072,
        embedding_length=WIDTH,
        vocabulary=TOKENS,
        layers=(layer,) * LAYERS,
        tensors=tuple(tensors),
        files=(File("model.gguf", 1),),
        quantization=Quantization("gguf"),
        tied=tied,
    )
    return replace(shape, **changes)


def plain(**changes: t.Any) -> LlamaSettings:
    return LlamaSettings(**{"context": 8192, "split": (1.0,), "cuda": False, "cache_ram": 0, **changes})


EMBEDDING = 2 * TOKENS * WIDTH
BLOCK = sum(tensor.bytes for tensor in block(0))
EXPERTS = 3 * 2 * 8 * 512 * WIDTH


# --- where layers and tensors go


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"split": ()}, ((HOST,) * 4, HOST)),
        ({"split": (1.0,)}, ((0,) * 4, 0)),
        ({"gpu_layers": 0}, ((HOST,) * 4, HOST)),
        ({"gpu_layers": 1}, ((HOST,) * 4, 0)),  # the output goes first
        ({"gpu_layers": 3}, ((HOST, HOST, 0, 0), 0)),
        ({"gpu_layers": 99}, ((0,) * 4, 0)),
        ({"split": (1.0, 1.0)}, ((0, 0, 0, 1), 1)),
        ({"split": (3.0, 1.0)}, ((0, 0, 0, 0), 1)),
        ({"split": (0.0, 1.0)}, ((1,) * 4, 1)),
        ({"split": (1.0, 1.0), "split_mode": "none", "main_gpu": 1}, ((1,) * 4, 1)),
        ({"split": (1.0, 1.0), "gpu_layers": 2}, ((HOST, HOST, HOST, 0), 1)),
    ],
)
def test_the_last_layers_go_to_devices_by_the_running_sum_of_their_parts(changes: dict[str, t.Any], expected: tuple[tuple[int, ...], int]) -> None:
    placement = place(model(), plain(**changes))
    assert (placement.layers, placement.output) == expected


def test_parts_are_summed_in_single_precision() -> None:
    """0.7 + 0.1 is exactly 0.8 in single precision and less in double: a bound at layer 4 of 5 moves."""
    placement = place(model(), plain(split=(0.7, 0.1, 0.2)))
    assert (*placement.layers, placement.output) == (0, 0, 0, 0, 2)


def test_the_embedding_stays_in_main_memory() -> None:
    estimate = llama_memory(model(), plain())
    assert estimate.host.weights == EMBEDDING
    assert estimate.devices[0].weights == EMBEDDING + 2 * WIDTH + 128 + LAYERS * BLOCK


def test_a_tied_output_is_loaded_again_but_not_in_main_memory() -> None:
    assert llama_memory(model(tied=True), plain()).devices[0].weights == llama_memory(model(), plain()).devices[0].weights
    assert llama_memory(model(tied=True), plain(split=())).host.weights == EMBEDDING + 2 * WIDTH + 128 + LAYERS * BLOCK


def test_rope_factors_are_on_every_device_that_has_layers() -> None:
    one, two = llama_memory(model(), plain(split=(1.0, 1.0))).devices
    assert one.weights == 3 * BLOCK + 128
    assert two.weights == BLOCK + 128 + EMBEDDING + 2 * WIDTH


def test_experts_of_the_first_layers_stay_in_main_memory() -> None:
    shape = model(experts=True)
    all_there, moved = (llama_memory(shape, plain(cpu_moe=count)) for count in (0, 3))
    assert all_there.devices[0].weights - moved.devices[0].weights == 3 * EXPERTS
    assert moved.host.weights == EMBEDDING + 3 * EXPERTS
    assert llama_memory(shape, plain(cpu_moe=99)).host.weights == EMBEDDING + LAYERS * EXPERTS


def test_the_first_override_that_matches_decides() -> None:
    shape, split = model(experts=True), (1.0, 1.0)
    rules = ((r"blk\.0\.ffn_up_exps", "CUDA1"), (r"blk\.[01]\.ffn_.*_exps", "CPU"))
    before, after = (llama_memory(shape, plain(split=split, override_tensor=overrides)) for overrides in ((), rules))
    assert after.devices[1].weights - before.devices[1].weights == EXPERTS // 3
    assert after.host.weights - before.host.weights == EXPERTS // 3 * 5
    assert sum(usage.weights for usage in (*before.devices, before.host)) == sum(usage.weights for usage in (*after.devices, after.host))


def test_an_override_to_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"override_tensor .*'disk'.*CPU or a device such as CUDA0"):
        llama_memory(model(), plain(override_tensor=((".", "disk"),)))


def test_cuda_pads_rows_of_quantised_tensors() -> None:
    """A matrix of 3 x 288 in Q8_0 has 3 x 306 bytes; the last row is filled to 512 elements: 224 more, 238 bytes."""
    shape = model()
    odd = Tensor("blk.0.odd.weight", "Q8_0", (3, 288), 864, 918, 0, "model.gguf")
    grown = replace(shape, tensors=(*shape.tensors, odd))
    for cuda, size in ((False, 928), (True, 1280)):  # 918 and 1156, aligned to 32 and 128
        without, with_it = (llama_memory(one, plain(cuda=cuda)).devices[0].weights for one in (shape, grown))
        assert with_it - without == size


def test_layers_that_draft_are_not_loaded() -> None:
    shape = model()
    shape = replace(shape, layers=(*shape.layers, replace(ATTENDING, draft=True)), tensors=(*shape.tensors, *block(LAYERS)))
    estimate = llama_memory(shape, plain())
    assert estimate.devices[0].weights == llama_memory(model(), plain()).devices[0].weights
    assert estimate.devices[0].cache == llama_memory(model(), plain()).devices[0].cache


# --- what is kept of a conversation


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 8192),
        ({"context": 8000}, 8192),  # rounded up to 256
        ({"parallel": 3, "context": 3000}, 3 * 1024),
        ({"parallel": 3, "context": 3000, "unified": True}, 3072),
    ],
)
def test_cells_of_a_full_cache(changes: dict[str, t.Any], cells: int) -> None:
    assert llama_memory(model(), plain(**changes)).devices[0].cache == LAYERS * cells * 2 * (256 + 256)


@pytest.mark.parametrize(
    ("kind", "row"),
    [("f32", 1024), ("f16", 512), ("bf16", 512), ("q8_0", 272), ("q5_1", 192), ("q5_0", 176), ("q4_1", 160), ("q4_0", 144), ("iq4_nl", 144)],
)
def test_a_row_of_256_elements_of_each_cache_type(kind: str, row: int) -> None:
    assert llama_memory(model(), plain(cache_k=kind, cache_v="f16")).devices[0].cache == LAYERS * 8192 * (row + 512)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, 1536),  # 1000 + 512, rounded up
        ({"ubatch": 2048}, 3072),
        ({"parallel": 4, "context": 32768}, 4 * 1536),
        ({"parallel": 4, "context": 32768, "unified": True}, 4608),
        ({"context": 1024}, 1024),
        ({"swa_full": True}, 8192),
    ],
)
def test_a_window_keeps_itself_and_one_step(changes: dict[str, t.Any], cells: int) -> None:
    shape = model(layers=(replace(ATTENDING, attention=SLIDING, window=1000),) * LAYERS)
    assert llama_memory(shape, plain(**changes)).devices[0].cache == LAYERS * cells * 2 * 512


def test_a_latent_vector_is_cached_once() -> None:
    shape = model(layers=(replace(ATTENDING, kv_heads=1, key_length=576, value_length=0),) * LAYERS, mla=Mla(512, 0, 64, 192, 128))
    assert llama_memory(shape, plain()).devices[0].cache == LAYERS * 8192 * 576 * 2


def test_without_flash_attention_values_are_as_wide_as_the_widest() -> None:
    shape = model(layers=(ATTENDING, replace(ATTENDING, kv_heads=4), ATTENDING, ATTENDING))
    assert llama_memory(shape, plain()).devices[0].cache == 8192 * 2 * (3 * 512 + 1024)
    assert llama_memory(shape, plain(flash_attention=False)).devices[0].cache == 8192 * 2 * (3 * (256 + 512) + 1024)


def test_a_layer_that_reads_another_layers_cache_has_none() -> None:
    shape = model(layers=(ATTENDING, ATTENDING, ATTENDING, replace(ATTENDING, cache_of=2)))
    assert llama_memory(shape, plain()).devices[0].cache == 3 * 8192 * 2 * 512


def test_recurrent_state_is_f32_for_every_slot() -> None:
    shape = model(layers=(Layer(recurrent=True, feed_forward=INNER),) * LAYERS, state=RecurrentState("kda", 3000, 50000))
    assert llama_memory(shape, plain(parallel=4)).devices[0].state == LAYERS * 4 * 4 * (3000 + 50000)
    assert llama_memory(shape, plain(parallel=4)).devices[0].cache == 0


def test_an_encoder_keeps_nothing() -> None:
    assert llama_memory(model(cached=False), plain(embeddings=True)).devices[0].cache == 0


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context is 0"),
        ({"parallel": 300, "context": 300 * 256}, "parallel is 300: llama.cpp has at most 256 slots"),
        ({"parallel": 8, "context": 4}, "context is 4 for 8 slots"),
        ({"cache_k": "q3_k"}, "cache_k is 'q3_k': use one of f32, f16"),
        ({"cache_v": "q8_0", "flash_attention": False}, "cache_v is 'q8_0', and quantised values need flash attention"),
        ({"split_mode": "rows"}, "split_mode is 'rows': use one of none, layer, row, tensor"),
        ({"split": (0.0, 0.0)}, r"split is \[0.0, 0.0\]"),
        ({"split": (1.0,), "main_gpu": 1}, "main_gpu is 1: there are 1 devices"),
    ],
)
def test_what_llama_cpp_would_refuse(changes: dict[str, t.Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        llama_memory(model(), plain(**changes))


def test_blocks_of_a_cache_type_must_divide_the_heads() -> None:
    shape = model(layers=(replace(ATTENDING, key_length=80, value_length=80),) * LAYERS)
    with pytest.raises(InputError, match="cache_k is 'q8_0', whose blocks of 32 do not divide the model's heads of 80: use f16"):
        llama_memory(shape, plain(cache_k="q8_0"))


def test_latent_attention_needs_one_type() -> None:
    shape = model(mla=Mla(512, 0, 64, 192, 128))
    with pytest.raises(InputError, match="cache_k is 'q8_0' and cache_v 'f16': a model with latent attention needs the same"):
        llama_memory(shape, plain(cache_k="q8_0"))


def test_phi_with_a_quantised_cache_for_each_slot_is_refused() -> None:
    settings, shape = plain(parallel=2, cache_k="q8_0", cache_v="q8_0"), model(architecture="phi3")
    deep = replace(shape, layers=shape.layers * 10, tensors=(*shape.tensors, *(tensor for number in range(4, 40) for tensor in block(number))))
    with pytest.raises(InputError, match="aborts on this with a Phi model.* Use unified or f16"):
        llama_memory(deep, settings)
    assert llama_memory(deep, replace(settings, unified=True)).devices[0].cache > 0
    assert llama_memory(deep, replace(settings, cache_v="f16")).devices[0].cache > 0
    assert llama_memory(shape, settings).devices[0].cache > 0


# --- compute buffers


def test_the_widest_moment_of_a_dense_model() -> None:
    """The gate, its partner and what they become; the mask; the stream twice, and the copy of the embeddings that an image would need."""
    step = 512
    row, wide, mask = 4 * WIDTH * step, 4 * INNER * step, 2 * 8192 * step
    estimate = llama_memory(model(), plain())
    assert 0 <= estimate.devices[0].compute - (3 * wide + mask + 3 * row) < 3 * row  # holes
    assert 0 <= estimate.host.compute - (4 * row + mask) < 64 * 1024


def test_without_flash_attention_every_head_scores_every_cell() -> None:
    scores = 4 * 8 * 8192 * 512
    with_it, without = (llama_memory(model(), plain(flash_attention=on)).devices[0].compute for on in (True, False))
    assert scores < without < scores + with_it + 2 * 8192 * 512


def test_only_as_many_rows_of_probabilities_as_there_are_slots() -> None:
    shape = model(vocabulary=4_000_000)
    one, four, every = (llama_memory(shape, plain(ubatch=32, **changes)) for changes in ({}, {"parallel": 4}, {"embeddings": True}))
    assert one.devices[0].compute < four.devices[0].compute < every.devices[0].compute
    assert every.devices[0].compute >= 4 * 4_000_000 * 32


def test_devices_in_a_row_hold_four_steps_at_once_unless_experts_are_elsewhere() -> None:
    mask = 2 * 8192 * 512
    alone = llama_memory(model(), plain()).devices[0].compute
    one, two = llama_memory(model(), plain(split=(1.0, 1.0))).devices
    assert one.compute > alone + 2 * mask
    assert two.compute > 4 * mask
    assert llama_memory(model(), plain(split=(1.0, 1.0), cpu_moe=1)).devices[0].compute <= alone


def test_cuda_converts_a_quantised_cache_of_one_layer() -> None:
    """ggml_cuda_flash_attn_ext_get_alloc_size: keys and values of a layer as F16 behind the result of attention."""
    settings = plain(context=131072, cuda=True)
    converted = 131072 * 512 * 2
    f16, quantised = (llama_memory(model(), replace(settings, cache_k=kind, cache_v=kind)).devices[0].compute for kind in ("f16", "q8_0"))
    assert converted - 32 * MIB < quantised - f16 <= converted + 32 * MIB


def test_cuda_fetches_experts_from_main_memory_one_matrix_at_a_time() -> None:
    shape = model(experts=True)
    plainly, fetching = (llama_memory(shape, plain(cpu_moe=4, cuda=cuda, ubatch=64)) for cuda in (False, True))
    assert EXPERTS // 3 < fetching.devices[0].compute - plainly.devices[0].compute + 2 * MIB < EXPERTS
    assert fetching.host.compute < plainly.host.compute + 1024


# --- the process and what is beside the model


def test_cuda_costs_every_device_a_context_and_the_first_its_libraries() -> None:
    one, two = llama_memory(model(), plain(split=(1.0, 1.0), cuda=True)).devices
    assert one.overhead - two.overhead == ASLEEP - CONTEXT == 150 * MIB
    assert 450 * MIB <= two.overhead < 470 * MIB
    assert llama_memory(model(), plain()).devices[0].overhead == 0


def test_a_device_that_is_not_used_has_nothing() -> None:
    one, two = llama_memory(model(), plain(split=(1.0, 1.0), split_mode="none", main_gpu=1, cuda=True)).devices
    assert one.total == 0
    assert two.weights == llama_memory(model(), plain(cuda=True)).devices[0].weights


def test_prompts_are_remembered_in_main_memory() -> None:
    assert llama_memory(model(), plain(cache_ram=4096)).host.prompts == 4096 * MIB
    assert llama_memory(model(), plain(cache_ram=0)).host.prompts == 0


def test_a_draft_model_counts_as_a_whole_without_a_second_context() -> None:
    own = plain(context=4096, cuda=True)
    estimate = llama_memory(model(), plain(cuda=True, draft=(model(), own)))
    alone = llama_memory(model(), own).devices[0]
    assert estimate.devices[0].draft == alone.total - alone.overhead
    assert estimate.devices[0].overhead == llama_memory(model(), plain(cuda=True)).devices[0].overhead


@pytest.mark.parametrize(
    ("changes", "where"),
    [({}, 0), ({"mmproj_offload": False}, HOST), ({"split": ()}, HOST), ({"split": (1.0, 1.0), "main_gpu": 1}, 1)],
)
def test_an_encoder_is_on_the_main_device_or_in_main_memory(changes: dict[str, t.Any], where: int) -> None:
    tensor = matrix("v.blk.0.ffn_up.weight", 4304, 1152)
    encoder = Projector("gemma3", ("vision",), (tensor,), 27, 1152, 4304, 16, 896, 14, 3840)
    estimate = llama_memory(model(projector=encoder), plain(**changes))
    places = dict(enumerate(estimate.devices)) | {HOST: estimate.host}
    assert places[where].projector == tensor.bytes + 4 * 64 * 64 * (4304 + 3 * 1152)
    assert estimate.host.projector == (places[where].projector if where == HOST else 896 * 896 * 3 * 4)
    assert any("a larger one takes more" in note for note in estimate.notes)


def test_grok_has_no_flash_attention() -> None:
    assert llama_memory(model(architecture="grok"), plain()) == llama_memory(model(architecture="grok"), plain(flash_attention=False))


# --- against llama.cpp itself


def test_every_architecture_of_llama_cpp_takes_what_it_says(tmp_path: Path) -> None:
    """The models that llama.cpp b11434 makes for its own tests, over two devices; asked with tests/bench/vram's oracle.

    They are tiny, so that compute buffers are held to 1 MiB or half of them: most are exact, those with indexers are estimates.
    """
    oracle: dict[str, t.Any] = json.loads((FIXTURES / "vram/llama-archs-b11434.json").read_text())
    sizes: dict[str, t.Any] = json.loads((FIXTURES / "models/llama-b11434-archs.json").read_text())
    with tarfile.open(FIXTURES / "models/llama-b11434-archs.tar.xz") as headers:
        headers.extractall(tmp_path, filter="data")
    wrong: dict[str, tuple[t.Any, ...]] = {}
    exact, count = 0, 0
    for name, real in oracle.items():
        os.truncate(tmp_path / f"{name}.gguf", sizes[name]["size"])
        shape = read_gguf(LocalFiles(tmp_path), f"{name}.gguf")
        kind = real["cache"]
        estimate = llama_memory(shape, LlamaSettings(8192, 2, ubatch=256, cache_k=kind, cache_v=kind, split=(2.0, 1.0), cuda=False))
        for usage, (weights, kept, compute) in zip((*estimate.devices, estimate.host), real["places"]):
            count += 1
            exact += usage.compute == compute
            if usage.weights != weights or (usage.cache + usage.state != kept and not shape.undescribed):
                wrong[name] = (usage.weights, weights, usage.cache + usage.state, kept)
            if usage.compute < compute - max(MIB, compute / 2) and not any("described only in part" in note for note in estimate.notes):
                wrong[name] = (usage.compute, compute)
    assert not wrong
    assert len(oracle) == 128
    assert exact > 0.7 * count


def test_an_answer_takes_a_millisecond(tmp_path: Path) -> None:
    """The ledger asks thousands of times. Ten times the time that it takes here, for slow and busy machines."""
    shape = read_gguf(LocalFiles(tmp_path), published.write(published.llama3_8b(), tmp_path / "model.gguf").name)
    llama_memory(shape, plain())
    start = time.process_time()
    for number in range(100):
        llama_memory(shape, plain(context=4096 + 256 * number))
    assert time.process_time() - start < 100 * 0.005
