# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is derived from a shape: sums, words, plain data."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    CHUNKED,
    FULL,
    SLIDING,
    Experts,
    File,
    Layer,
    Mla,
    ModelShape,
    Projector,
    Quantization,
    RecurrentState,
    Tensor,
    described,
    layers_of,
)

ATTENTION = Layer(attention=FULL, heads=8, kv_heads=2, key_length=64, value_length=32, feed_forward=128)
WINDOW = replace(ATTENTION, attention=SLIDING, window=16)
CHUNK = replace(ATTENTION, attention=CHUNKED, window=16)
RECURRENT = Layer(recurrent=True)
TENSORS = (
    Tensor("token_embd.weight", "F16", (10, 4), 40, 80, None, "a.gguf"),
    Tensor("blk.0.ffn_up_exps.weight", "Q8_0", (2, 32, 4), 256, 272, 0, "a.gguf"),
    Tensor("blk.1.ffn_up.weight", "Q8_0", (32, 4), 128, 136, 1, "b.gguf"),
    Tensor("blk.1.scales", "F16", (32,), 0, 64, 1, "b.gguf"),
)


def shape(*layers: Layer, **more: t.Any) -> ModelShape:
    files = (File("a.gguf", 500), File("b.gguf", 300))
    return ModelShape("gguf", "x", "m", 9, 4, 10, layers, TENSORS, files, Quantization("gguf"), **more)


def test_sums() -> None:
    model = shape(ATTENTION)
    assert (model.bytes, model.parameters) == (80 + 272 + 136 + 64, 40 + 256 + 128)
    assert layers_of(TENSORS, "_exps.") == {0}
    assert layers_of(TENSORS, "ffn") == {0, 1}


def test_the_cache_of_a_token() -> None:
    borrowed = replace(ATTENTION, cache_of=0)
    indexed = replace(ATTENTION, index_key_length=5, index_value_length=6)
    model = shape(ATTENTION, WINDOW, borrowed, RECURRENT, indexed, replace(ATTENTION, draft=True))
    one = 2 * 64 + 2 * 32
    assert (ATTENTION.cached_keys, ATTENTION.cached_values, borrowed.cached_keys, RECURRENT.cached_values) == (128, 64, 0, 0)
    assert model.cache_per_token() == 3 * one + 11
    assert model.cache_per_token(FULL) == 2 * one + 11
    assert model.cache_per_token(SLIDING, CHUNKED) == one
    assert replace(model, cached=False).cache_per_token() == 0


def test_the_state_of_a_sequence() -> None:
    state = RecurrentState("mamba", convolution=3, recurrence=4)
    assert shape(RECURRENT, RECURRENT, ATTENTION, state=state).state_per_sequence == 14
    assert shape(ATTENTION).state_per_sequence == 0


@pytest.mark.parametrize(
    ("layers", "more", "word"),
    [
        ((ATTENTION,), {}, "full"),
        ((WINDOW, WINDOW), {}, "sliding"),
        ((CHUNK, CHUNK), {}, "chunked"),
        ((CHUNK, ATTENTION), {}, "mixed"),
        ((ATTENTION, RECURRENT), {}, "hybrid"),
        ((replace(ATTENTION, recurrent=True),), {}, "hybrid"),
        ((RECURRENT,), {}, "recurrent"),
        ((ATTENTION,), {"mla": Mla(4, 0, 1, 2, 2)}, "mla"),
        ((Layer(),), {}, "none"),
        ((WINDOW, replace(ATTENTION, draft=True)), {}, "sliding"),
    ],
)
def test_attention_in_a_word(layers: tuple[Layer, ...], more: dict[str, t.Any], word: str) -> None:
    assert shape(*layers, **more).attention == word


def test_plain_data() -> None:
    sparse = replace(WINDOW, feed_forward=0, experts=4, experts_used=2, expert_feed_forward=16)
    encoder = Projector("clip", ("vision",), TENSORS[:1], layers=3)
    state = RecurrentState("mamba", convolution=3, recurrence=4)
    draft = replace(ATTENTION, draft=True)
    model = shape(ATTENTION, sparse, RECURRENT, draft, projector=encoder, state=state, experts=Experts(4, 2), mla=None)
    data = described(model)
    assert json.loads(json.dumps(data)) == data
    assert data["layers"] == {"total": 3, "full": 1, "sliding": 1, "chunked": 0, "recurrent": 1, "experts": 1, "draft": 1}
    assert data["attention"] == {
        **{"kind": "hybrid", "cached": True, "window": 16, "heads": [8], "kv_heads": [2]},
        **{"key_length": [64], "value_length": [32], "mla": None},
    }
    assert (data["kv_bytes_per_token"], data["kv_bytes_per_token_full"], data["state_bytes_per_sequence"]) == (2 * 2 * 192, 2 * 192, 4 * 7)
    assert data["types"] == {"F16": {"tensors": 2, "bytes": 144}, "Q8_0": {"tensors": 2, "bytes": 408}}
    assert data["files"] == [{"name": "a.gguf", "size": 500}, {"name": "b.gguf", "size": 300}]
    assert (data["projector"]["bytes"], data["projector"]["layers"], data["experts"]["count"]) == (80, 3, 4)
    assert "tensors" not in data and "tensors" not in data["projector"]
    more = described(model, with_tensors=True)
    assert json.loads(json.dumps(more)) == more
    assert [tensor["name"] for tensor in more["tensors"]] == [tensor.name for tensor in TENSORS]
    assert more["projector"]["tensors"][0]["shape"] == [10, 4]
    assert [block["draft"] for block in more["blocks"]] == [False, False, False, True]
    assert {key: value for key, value in more.items() if key not in ("tensors", "blocks", "projector")} == {
        key: value for key, value in data.items() if key != "projector"
    }
