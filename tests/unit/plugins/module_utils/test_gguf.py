# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Headers of GGUF files that the gguf package wrote, and the shapes in them as llama.cpp understands them."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import tarfile
import time
import typing as t
from pathlib import Path

import gguf
import numpy as np
import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _gguf as g
from ansible_collections.baremetal.llm.plugins.module_utils._gguf_shape import FILE_TYPES, read_gguf
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    CHUNKED,
    FULL,
    SLIDING,
    MetadataError,
    Missing,
    Mla,
    ModelShape,
    RecurrentState,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import LocalFiles, WebFiles
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.server import serving

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/models"
MIB = 1024 * 1024


@pytest.fixture
def read(tmp_path: Path) -> t.Callable[..., ModelShape]:
    """Writes a published model and reads it again."""

    def write_and_read(model: published.Published, **extra: t.Any) -> ModelShape:
        published.write(model, tmp_path / "model.gguf", {key.replace("__", "."): value for key, value in extra.items()})
        return read_gguf(LocalFiles(tmp_path), "model.gguf")

    return write_and_read


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small file with values of every type, whose header the tests below damage."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    keys = {"block_count": 2, "context_length": 512, "embedding_length": 64, "feed_forward_length": 128, "attention.head_count": 4}
    for key, value in keys.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_array("llama.attention.head_count_kv", [2, 1])
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("llama.use_parallel_residual", True)
    writer.add_float64("test.f64", 1.5)
    writer.add_int8("test.i8", -1)
    writer.add_uint64("test.u64", 2**40)
    writer.add_name("small")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(2000)])
    writer.add_token_scores([0.5] * 2000)
    writer.add_chat_template("{{ message }}" * 500)
    for number in range(2):
        writer.add_tensor(f"blk.{number}.ffn_up.weight", np.zeros((128, 64), np.float16))
    writer.add_tensor("token_embd.weight", np.zeros((2000, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- the format


@pytest.mark.parametrize("family", published.FAMILIES)
def test_tensors_are_those_that_gguf_itself_reads(family: str, tmp_path: Path) -> None:
    path = published.write(published.FAMILIES[family](), tmp_path / "model.gguf")
    shape = read_gguf(LocalFiles(tmp_path), path.name)
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert {tensor.name: tensor.bytes for tensor in shape.tensors} == {name: tensor.n_bytes for name, tensor in oracle.items()}
    assert shape.parameters == sum(tensor.n_elements for tensor in oracle.values())
    for tensor in shape.tensors:
        assert tensor.shape == tuple(int(length) for length in reversed(oracle[tensor.name].shape))
        assert tensor.type == oracle[tensor.name].tensor_type.name
    assert path.stat().st_blocks * 512 < 2 * MIB < path.stat().st_size


def test_block_sizes_are_those_of_ggml() -> None:
    names = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    names["Q8_1"] = (32, 36)  # never in files; gguf 0.19.0 has it wrong, see block_q8_1 in ggml-common.h
    known = {name: (block, size) for name, block, size in g.TYPES.values()}
    assert {name: known[name] for name in names} == names
    assert {kind.value for kind in gguf.GGML_QUANT_SIZES} <= set(g.TYPES)
    for kind in gguf.LlamaFileType:
        name = kind.name.replace("MOSTLY_", "").replace("ALL_", "")
        assert FILE_TYPES.get(kind.value, name) == name.replace("MXFP4_MOE", "MXFP4")


def test_values_and_what_is_only_counted(small: Path) -> None:
    (header,) = g.read_headers(LocalFiles(small.parent), small.name)
    values = header.metadata
    assert values["llama.attention.head_count_kv"] == (2, 1)
    assert (values["test.f64"], values["test.i8"], values["test.u64"]) == (1.5, -1, 2**40)
    assert values["llama.use_parallel_residual"] is True
    assert values["general.name"] == "small"
    texts = sum(8 + len(f"token{number}") for number in range(2000))
    assert values["tokenizer.ggml.tokens"] == g.Counted(2000, texts)
    assert values["tokenizer.ggml.scores"] == g.Counted(2000, 8000)
    assert values["tokenizer.chat_template"] == g.Counted(1, 6500)
    shape = read_gguf(LocalFiles(small.parent), small.name)
    assert [layer.kv_heads for layer in shape.layers] == [2, 1]
    assert [tensor.layer for tensor in shape.tensors] == [0, 1, None]
    assert shape.tokenizer is not None
    assert (shape.tokenizer.model, shape.tokenizer.tokens, shape.tokenizer.bytes) == ("gpt2", 2000, texts)
    assert (shape.vocabulary, shape.tied, shape.rope.base) == (2000, True, 10000.0)


def test_a_large_vocabulary_by_ranges(tmp_path: Path) -> None:
    """The header of a real Llama 3 has 128,256 tokens and 280,147 merges; the file has 4.5 GiB."""
    tokens = [f"token-{number}" for number in range(128256)]
    extra = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.0] * 128256}
    extra["tokenizer.ggml.merges"] = [f"left{number} right" for number in range(280147)]
    published.write(published.llama3_8b(), tmp_path / "model.gguf", extra)
    with serving(tmp_path) as server:
        files = WebFiles(f"{server.url}/")
        begin = time.process_time()
        shape = read_gguf(files, "model.gguf")
        assert time.process_time() - begin < 5
        assert server.sent == files.fetched < 16 * MIB < shape.bytes
    assert shape.vocabulary == 128256


@pytest.mark.parametrize("named", [1, 3])
def test_a_split_file_is_read_as_a_whole(tmp_path: Path, named: int) -> None:
    model = published.qwen3_30b()
    _write_parts(model, tmp_path)
    shape = read_gguf(LocalFiles(tmp_path), f"m-0000{named}-of-00003.gguf")
    published.write(model, tmp_path / "whole.gguf")
    whole = read_gguf(LocalFiles(tmp_path), "whole.gguf")
    assert (shape.parameters, shape.bytes, shape.layers) == (whole.parameters, whole.bytes, whole.layers)
    assert [file.name for file in shape.files] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert {tensor.file for tensor in shape.tensors if tensor.layer == 47} == {"m-00003-of-00003.gguf"}


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(tmp_path: Path, missing: int) -> None:
    _write_parts(published.qwen3_30b(), tmp_path)
    (tmp_path / f"m-0000{missing}-of-00003.gguf").unlink()
    with pytest.raises(Missing, match=f"m-0000{missing}-of-00003.gguf"):
        read_gguf(LocalFiles(tmp_path), "m-00001-of-00003.gguf")


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    _write_parts(published.qwen3_30b(), tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").rename(tmp_path / "second")
    (tmp_path / "m-00003-of-00003.gguf").rename(tmp_path / "m-00002-of-00003.gguf")
    (tmp_path / "second").rename(tmp_path / "m-00003-of-00003.gguf")
    with pytest.raises(MetadataError, match="the parts were mixed up"):
        read_gguf(LocalFiles(tmp_path), "m-00001-of-00003.gguf")
    _write_parts(published.qwen3_30b(), tmp_path, total=5)
    with pytest.raises(MetadataError, match="tensors of 5: they belong to different models"):
        read_gguf(LocalFiles(tmp_path), "m-00001-of-00003.gguf")
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "first.gguf")
    with pytest.raises(MetadataError, match=r"model-00001-of-00003\.gguf"):
        read_gguf(LocalFiles(tmp_path), "first.gguf")


def _write_parts(model: published.Published, directory: Path, total: int = 0) -> None:
    parts = (
        model.part(lambda name: not name.startswith("blk.")),
        model.part(lambda name: name.startswith("blk.") and not name.startswith("blk.47.")),
        model.part(lambda name: name.startswith("blk.47.")),
    )
    for number, part in enumerate(parts):
        extra = {"split.no": number, "split.count": 3, "split.tensors.count": total or len(model.tensors)}
        published.write(part, directory / f"m-0000{number + 1}-of-00003.gguf", extra)


# --- the shapes


def test_llama(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.llama3_8b())
    assert (shape.architecture, shape.context_length, shape.embedding_length, shape.vocabulary) == ("llama", 131072, 4096, 128256)
    assert {(layer.attention, layer.heads, layer.kv_heads, layer.key_length, layer.value_length) for layer in shape.layers} == {(FULL, 32, 8, 128, 128)}
    assert {layer.feed_forward for layer in shape.layers} == {14336}
    assert (len(shape.layers), shape.attention, shape.tied, shape.experts, shape.state) == (32, "full", False, None, None)
    assert shape.cache_per_token() == 32 * 8 * 256
    assert shape.quantization.type == "Q4_K_M"
    assert shape.parameters == 8_030_261_248 + 64  # as published, and the frequencies that only the GGUF has


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("mistral_small_24b", 23_572_403_200),
        ("qwen25_7b", 7_615_616_512),
        ("qwen3_8b", 8_190_735_360),
        ("qwen3_30b", 30_532_122_624),
        ("gemma2_9b", 9_241_705_984),
        ("phi3_mini", 3_821_079_552),
        ("deepseek_v2_lite", 15_706_484_224),
        ("gpt_oss_20b", 20_914_757_184),
    ],
)
def test_parameters_are_as_many_as_published(read: t.Callable[..., ModelShape], family: str, parameters: int) -> None:
    assert read(published.FAMILIES[family]()).parameters == parameters


def test_heads_narrower_than_their_share(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.mistral_small_24b())
    assert {layer.key_length for layer in shape.layers} == {128}  # not 5120 / 32


def test_heads_by_default(read: t.Callable[..., ModelShape]) -> None:
    model = published.llama3_8b()
    for key in ("attention.key_length", "attention.value_length", "attention.head_count_kv"):
        del model.keys[key]
    shape = read(model)
    assert {(layer.kv_heads, layer.key_length, layer.value_length) for layer in shape.layers} == {(32, 128, 128)}


def test_qwen_experts(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.qwen3_30b())
    assert shape.experts is not None
    assert (shape.experts.count, shape.experts.used, shape.experts.shared) == (128, 8, 0)
    assert {(layer.experts, layer.experts_used, layer.expert_feed_forward, layer.feed_forward) for layer in shape.layers} == {(128, 8, 768, 0)}


def test_gemma_2_slides_in_every_other_layer(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.gemma2_9b())
    assert [(layer.attention, layer.window) for layer in shape.layers[:4]] == [(SLIDING, 4096), (FULL, 0)] * 2
    assert (shape.attention, shape.tied) == ("mixed", True)
    assert shape.cache_per_token(FULL) == shape.cache_per_token(SLIDING) == 21 * 8 * 512


def test_gemma_3_is_full_in_every_sixth_layer(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.gemma3_12b())
    assert [number for number, layer in enumerate(shape.layers) if layer.attention == FULL] == [5, 11, 17, 23, 29, 35, 41, 47]
    assert {layer.window for layer in shape.layers} == {0, 1024}
    assert (shape.rope.scaling, shape.rope.factor) == ("linear", 8.0)


def test_a_pattern_in_the_file_comes_first(read: t.Callable[..., ModelShape]) -> None:
    model = published.gemma3_12b()
    model.keys["attention.sliding_window_pattern"] = 4
    assert [layer.attention == FULL for layer in read(model).layers[:4]] == [False, False, False, True]
    model.keys["attention.sliding_window_pattern"] = [number != 7 for number in range(48)]
    assert [number for number, layer in enumerate(read(model).layers) if layer.attention == FULL] == [7]
    model.keys["attention.sliding_window"] = 0
    assert read(model).attention == "full"


def test_phi_3_does_not_slide_in_llama_cpp(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.phi3_mini())
    assert (shape.attention, {layer.window for layer in shape.layers}) == ("full", {0})


def test_llama_4_attends_in_chunks(read: t.Callable[..., ModelShape]) -> None:
    model = published.llama3_8b()
    model.architecture = "llama4"
    assert [(layer.attention, layer.window) for layer in read(model).layers[:4]] == [(CHUNKED, 8192)] * 3 + [(FULL, 0)]


def test_deepseek_caches_a_latent_vector(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.deepseek_v2_lite())
    assert shape.mla == Mla(kv_rank=512, q_rank=0, rope_length=64, key_length=192, value_length=128)
    assert {(layer.kv_heads, layer.key_length, layer.value_length) for layer in shape.layers} == {(1, 576, 0)}
    assert (shape.attention, shape.cache_per_token()) == ("mla", 27 * 576)
    assert [(layer.feed_forward, layer.experts) for layer in shape.layers[:2]] == [(10944, 0), (0, 64)]
    assert shape.experts is not None
    assert shape.experts.shared == 2
    assert (shape.rope.scaling, shape.rope.factor, shape.rope.original_context) == ("yarn", 40.0, 4096)


def test_an_old_file_of_deepseek_caches_every_head(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.deepseek_v2_lite(old=True))
    assert (shape.mla, shape.attention, shape.cache_per_token()) == (None, "full", 27 * 16 * (192 + 128))


def test_gpt_oss(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.gpt_oss_20b())
    assert [(layer.attention, layer.window) for layer in shape.layers[:2]] == [(SLIDING, 128), (FULL, 0)]
    assert {tensor.type for tensor in shape.tensors if "exps.weight" in tensor.name} == {"MXFP4"}
    assert sum(tensor.bytes for tensor in shape.tensors if tensor.type == "MXFP4") == 24 * 3 * 32 * 2880 * 2880 // 32 * 17


def test_qwen_next_recurs(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.qwen3_next_80b())
    assert [layer.recurrent for layer in shape.layers[:4]] == [True, True, True, False]
    assert [layer.attention for layer in shape.layers[:4]] == ["", "", "", FULL]
    assert shape.state == RecurrentState("delta", 3 * 8192, 4096 * 128, kernel=4, inner=4096, state=128, groups=16, heads=32)
    assert (shape.attention, shape.cache_per_token(), shape.state_per_sequence) == ("hybrid", 12 * 2 * 512, 36 * (3 * 8192 + 4096 * 128))
    assert shape.experts is not None
    assert (shape.experts.shared, shape.experts.shared_feed_forward) == (1, 512)


def test_granite_recurs_where_it_has_no_heads(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.granite_h_tiny())
    assert [number for number, layer in enumerate(shape.layers) if layer.attention] == [5, 15, 25, 35]
    assert sum(layer.recurrent for layer in shape.layers) == 36
    assert shape.state is not None
    assert (shape.state.kind, shape.state.convolution, shape.state.recurrence) == ("mamba2", 3 * (3072 + 256), 3072 * 128)


def test_an_embedding_model_caches_nothing(read: t.Callable[..., ModelShape]) -> None:
    shape = read(published.nomic_embed())
    assert (shape.cached, shape.cache_per_token(), shape.tied, shape.attention) == (False, 0, False, "full")


def test_layers_that_predict_further_tokens_are_apart(read: t.Callable[..., ModelShape]) -> None:
    model = published.qwen3_30b()
    model.keys["nextn_predict_layers"] = 1
    shape = read(model)
    assert [layer.draft for layer in shape.layers[-2:]] == [False, True]
    assert (len(shape.trunk), shape.cache_per_token()) == (47, 47 * 4 * 256)


def test_shared_caches_count_once(read: t.Callable[..., ModelShape]) -> None:
    model = published.gemma3_12b()
    model.architecture = "gemma4"
    model.keys |= {"attention.shared_kv_layers": 12, "attention.sliding_window_pattern": [(number + 1) % 6 > 0 for number in range(48)]}
    model.keys |= {"attention.key_length_swa": 128, "attention.value_length_swa": 128}
    shape = read(model)
    assert [layer.cache_of for layer in shape.layers[34:37]] == [None, None, 34]
    assert shape.layers[47].cache_of == 35
    assert shape.cache_per_token() == 6 * 8 * 512 + 30 * 8 * 256


def test_every_architecture_of_llama_cpp_caches_what_it_says(tmp_path: Path) -> None:
    """The models that llama.cpp b11434 makes for its own tests, one for each architecture, and what llama-fit-params logged for them."""
    oracle: dict[str, t.Any] = json.loads((FIXTURES / "llama-b11434-archs.json").read_text())
    context, wrong = 65536, {}
    with tarfile.open(FIXTURES / "llama-b11434-archs.tar.xz") as headers:
        headers.extractall(tmp_path, filter="data")
    for name, real in oracle.items():
        os.truncate(tmp_path / f"{name}.gguf", real["size"])
        shape = read_gguf(LocalFiles(tmp_path), f"{name}.gguf")
        cells = {layer: min(context, -(-(layer.window + 512) // 256) * 256) if layer.window else context for layer in shape.trunk}
        cached = [(cells[layer], 2 * layer.cached_keys, 2 * layer.cached_values) for layer in shape.trunk if shape.cached]
        cached += [(context, 2 * layer.index_key_length, 2 * layer.index_value_length) for layer in shape.trunk]
        expected = [sum(cells * part for cells, *parts in cached for part in parts[side : side + 1]) / MIB for side in (0, 1)]
        logged = [sum(cache[side] for cache in real["caches"]) for side in (2, 3)]
        states = [4 * part * sum(layer.recurrent for layer in shape.trunk) / MIB for part in _state(shape)]
        logged_states = [sum(state[side] for state in real["states"]) for side in (0, 1)]
        if [*expected, *states] != pytest.approx([*logged, *logged_states], abs=0.011) and not shape.undescribed:
            wrong[name] = (expected, logged, states, logged_states)
    assert not wrong
    assert len(oracle) == 128


def _state(shape: ModelShape) -> tuple[int, int]:
    return (shape.state.convolution, shape.state.recurrence) if shape.state else (0, 0)


# --- projectors, and what is no model


def test_a_projector_beside_its_model(tmp_path: Path) -> None:
    published.write(published.gemma3_12b(), tmp_path / "model.gguf")
    _write_projector(tmp_path / "mmproj.gguf")
    shape = read_gguf(LocalFiles(tmp_path), "model.gguf", "mmproj.gguf")
    assert shape.projector is not None
    assert (shape.projector.type, shape.projector.modalities, shape.projector.layers) == ("gemma3", ("vision",), 27)
    assert (shape.projector.embedding_length, shape.projector.image_size, shape.projector.bytes) == (1152, 896, 2 * 1152 * 4304)
    assert not any(tensor.name.startswith("v.") for tensor in shape.tensors)
    assert [file.name for file in shape.files] == ["model.gguf", "mmproj.gguf"]
    with pytest.raises(MetadataError, match="no model but a file of the kind 'multimodal projector'"):
        read_gguf(LocalFiles(tmp_path), "mmproj.gguf")
    with pytest.raises(MetadataError, match="not a multimodal projector"):
        read_gguf(LocalFiles(tmp_path), "model.gguf", "model.gguf")


def _write_projector(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    keys = {"block_count": 27, "embedding_length": 1152, "feed_forward_length": 4304, "attention.head_count": 16, "image_size": 896}
    for key, value in keys.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_tensor("v.blk.0.ffn_up.weight", np.zeros((4304, 1152), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_all_missing_keys_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "unheard-of")
    writer.add_uint32("unheard-of.block_count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(MetadataError) as caught:
        read_gguf(LocalFiles(tmp_path), "x.gguf")
    for word in ("'unheard-of'", "unheard-of.context_length", "unheard-of.embedding_length", "unheard-of.attention.head_count"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_count": 513}, "block_count is 513"),
        ({"block_count": 0}, "block_count is 0"),
        ({"context_length": "long"}, "context_length is 'long'"),
        ({"embedding_length": 2**32 - 1}, "embedding_length is 4294967295"),
        ({"attention.head_count_kv": [8] * 33}, "head_count_kv"),
        ({"nextn_predict_layers": 33}, "nextn_predict_layers is 33"),
        ({"rope.freq_base": float("nan")}, "freq_base is nan"),
    ],
)
def test_numbers_that_describe_nothing(read: t.Callable[..., ModelShape], keys: dict[str, t.Any], message: str) -> None:
    model = published.llama3_8b()
    model.keys |= keys
    with pytest.raises(MetadataError, match=message):
        read(model)


def test_other_kinds_of_files_are_told_apart(read: t.Callable[..., ModelShape]) -> None:
    with pytest.raises(MetadataError, match="no model but a file of the kind 'adapter'"):
        read(published.llama3_8b(), general__type="adapter")


# --- damaged and hostile files


def _damaged(small: Path, change: t.Callable[[bytearray], object]) -> Path:
    content = bytearray(small.read_bytes())
    change(content)
    path = small.with_name("damaged.gguf")
    path.write_bytes(content)
    return path


def _put(place: int, layout: str, value: t.Any) -> t.Callable[[bytearray], object]:
    return lambda content: struct.pack_into(layout, content, place, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put(0, "<4s", b"GGML"), "does not begin with GGUF"),
        (_put(4, "<I", 1), "version is 1"),
        (_put(4, "<I", 4), "version is 4"),
        (_put(4, ">I", 3), "big-endian"),
        (_put(8, "<Q", 2**62), "lists 4611686018427387904 tensors"),
        (_put(16, "<Q", 2**62), "4611686018427387904 keys"),
        (_put(24, "<Q", 2**40), "a name of 1099511627776 bytes"),
        (lambda content: content.__delitem__(slice(20, None)), "the file ends at 20"),
        (lambda content: content.__delitem__(slice(-1, None)), "not complete: its tensors need"),
        (lambda content: content.__delitem__(slice(0, None)), "the file ends at 0"),
    ],
)
def test_a_damaged_beginning(small: Path, change: t.Callable[[bytearray], object], message: str) -> None:
    path = _damaged(small, change)
    with pytest.raises(MetadataError, match=message):
        read_gguf(LocalFiles(path.parent), path.name)


@pytest.mark.parametrize(
    ("behind", "place", "packed", "message"),
    [
        (b"tokenizer.ggml.tokens", 8, struct.pack("<Q", 2**60), "an array of 1152921504606846976 texts"),
        (b"tokenizer.ggml.tokens", 16, struct.pack("<Q", 2**63), "bytes should follow"),
        (b"tokenizer.ggml.tokens", 4, struct.pack("<I", 9), "array of the unknown type 9"),
        (b"tokenizer.ggml.scores", 8, struct.pack("<Q", 2**50), "bytes should follow"),
        (b"tokenizer.chat_template", 4, struct.pack("<Q", 2**50), "bytes should follow"),
        (b"llama.block_count", 0, struct.pack("<I", 77), "unknown type 77"),
        (b"blk.0.ffn_up.weight", 0, struct.pack("<I", 5), "has 5 dimensions"),
        (b"blk.0.ffn_up.weight", 4, struct.pack("<Q", 2**62), "has the shape"),
        (b"blk.0.ffn_up.weight", 20, struct.pack("<I", 4), "type 4, which is unknown or was given up"),
        (b"blk.0.ffn_up.weight", 20, struct.pack("<I", 12), "type Q4_K has the shape"),
        (b"blk.1.ffn_up.weight", 24, struct.pack("<Q", 0), "begins at 0, where 16384 is its place"),
        (b"blk.1.ffn_up.weight", 24, struct.pack("<Q", 2**63), "begins at 9223372036854775808"),
        (b"token_embd.weight", 12, struct.pack("<Q", 2**40), "not complete"),
        (b"blk.1.ffn_up.weight", -19, struct.pack("<19s", b"blk.0.ffn_up.weight"), "is there twice"),
        (b"test.i8", -7, struct.pack("<7s", b"test.f6"), None),
    ],
)
def test_a_damaged_entry(small: Path, behind: bytes, place: int, packed: bytes, message: str | None) -> None:
    start = small.read_bytes().index(behind) + len(behind) + place
    path = _damaged(small, lambda content: content.__setitem__(slice(start, start + len(packed)), packed))
    if message is None:  # a strange key alone does no harm
        assert read_gguf(LocalFiles(path.parent), path.name).vocabulary == 2000
        return
    with pytest.raises(MetadataError, match=message):
        read_gguf(LocalFiles(path.parent), path.name)


def test_an_endless_vocabulary_ends_at_once(tmp_path: Path) -> None:
    """Two texts of 3 GiB, in a file that is as large and takes no space."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQQ", 9, 8, 2, 3 << 30)
    (tmp_path / "x.gguf").write_bytes(head)
    os.truncate(tmp_path / "x.gguf", 8 << 30)
    begin = time.process_time()
    with pytest.raises(MetadataError, match="its header has more than"):
        read_gguf(LocalFiles(tmp_path), "x.gguf")
    many = head[:-16] + struct.pack("<Q", 8_000_000)  # empty texts, as many as fit into what is allowed
    (tmp_path / "y.gguf").write_bytes(many)
    os.truncate(tmp_path / "y.gguf", 8 << 30)
    with pytest.raises(MetadataError, match="general.architecture"):
        read_gguf(LocalFiles(tmp_path), "y.gguf")
    assert time.process_time() - begin < 10


def test_ten_thousand_damages(small: Path) -> None:
    """Whatever is done to a header, it is read or refused, fast and in little memory."""
    content = small.read_bytes()
    spots = [content.index(word) + len(word) for word in (b"token_embd.weight", b"blk.0.ffn_up.weight", b"head_count_kv", b"ggml.tokens", b"general.name")]
    spots += [4, 8, 16, 24]
    dice = random.Random(20261121)
    files, path, read = LocalFiles(small.parent), small.with_name("fuzzed.gguf"), 0
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with path.open("r+b", buffering=0) as file:
        for _round in range(10_000):
            undo = []
            for _damage in range(dice.randint(1, 4)):
                place = dice.choice(spots) + dice.randint(0, 40) if dice.random() < 0.7 else dice.randint(0, 3000)
                junk = dice.choice([bytes([dice.randrange(256)]), b"\xff" * 8, bytes(8), dice.randbytes(8), struct.pack("<Q", 1 << dice.randrange(64))])
                undo.append(place)
                file.seek(place)
                file.write(junk)
            try:
                read_gguf(files, path.name)
                read += 1
            except MetadataError:
                pass
            for place in undo:
                file.seek(place)
                file.write(content[place : place + 8])
    assert 0 < read < 10_000
    assert time.process_time() - begin < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert path.read_bytes() == content


def test_a_header_that_is_cut_anywhere(small: Path) -> None:
    content = small.read_bytes()
    path = small.with_name("cut.gguf")
    for length in range(0, len(content) - 1, 997):
        path.write_bytes(content[:length])
        with pytest.raises(MetadataError):
            read_gguf(LocalFiles(path.parent), path.name)
