# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The attention of a block, as build_qkv, build_attn and build_attn_mha of src/llama-graph.cpp of llama.cpp b11434 have it, and latent attention."""

from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import F16, F32, Mla
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_ops import CELLS, ONE, PAIRS, PICKS, TOKENS, WINDOW_CELLS, WINDOW_PAIRS, Ops

# Models without rotary positions.
_NOT_TURNED = frozenset(("bert", "bloom", "gpt2", "jamba", "jina-bert-v2", "mpt", "nemotron_h", "nemotron_h_moe", "refact"))
_VALUE_ROTATION = 64  # src/llama-kv-cache.cpp: n_rot_v


def attention(ops: Ops, source: int) -> int:
    block, layer, graph = ops.block, ops.block.layer, ops.graph
    if "attn_kv_a_mqa.weight" in block:
        return _latent(ops, source, ops.shape.mla) if ops.shape.mla else _old_latent(ops, source)
    if not ("attn_q.weight" in block or "attn_qkv.weight" in block):
        return _unknown(ops, source)
    long, keys, values = layer.heads * layer.key_length, layer.kv_heads * layer.key_length, layer.kv_heads * layer.value_length
    fused = ops.product("attn_qkv", source) if "attn_qkv.weight" in block else None
    query = ops.product("attn_q", source) if fused is None else fused
    gate = query if fused is None and block.rows("attn_q.weight") == 2 * long else None
    query = _turned(ops, "attn_q_norm", query, long)
    made: tuple[int, ...] = ()  # keys and values of this step, if the layer has its own
    if fused is not None:
        made = (_turned(ops, "attn_k_norm", fused, keys), fused)
    elif "attn_k.weight" in block:
        key = ops.product("attn_k", source)
        made = (_turned(ops, "attn_k_norm", key, keys), ops.product("attn_v", source) if "attn_v.weight" in block else key)
    result = _attend(ops, query, made, layer.heads * layer.value_length, (keys, values), *_indexed(ops, source))
    if gate is not None:  # src/models/qwen3next.cpp, build_layer_attn
        opened = graph.make(ops.size(long), graph.make(ops.size(long), gate), reusable=True)
        result = graph.make(ops.size(long), opened, result, reusable=True)
    return ops.product("attn_output", result) if "attn_output.weight" in block else result


def _turned(ops: Ops, norm: str, source: int, elements: int) -> int:
    """A norm over the heads, if there is one, and the rotary positions. Heads are a view, so that only what comes after a norm is done in place."""
    normed = f"{norm}.weight" in ops.block
    if normed:
        source = ops.norm(norm, source, elements, viewed=True)
    if ops.shape.architecture in _NOT_TURNED:
        return source
    return ops.graph.make(ops.size(elements), source, ops.positions, reusable=normed)


def _rotated(ops: Ops, source: int, elements: int, values: bool = False) -> int:
    """Turned as the numbers of a quantised cache are: keys by the largest power of two that divides a head, values by 64."""
    if not ops.shape.cached or not (ops.way.rotate_values if values else ops.way.rotate_keys):
        return source
    length = _VALUE_ROTATION
    while not values and ops.block.layer.key_length % (2 * length) == 0:
        length *= 2
    matrix = ops.input(f"rotation {values} {ops.block.layer.window > 0}", ((F32 * length * length, ONE),))
    return ops.graph.make(ops.size(elements), matrix, source)


def _indexed(ops: Ops, source: int) -> tuple[int, ...]:
    """What an indexer picks of the cache (build_attn with llm_graph_input_attn_k_dsa): scores of all cells, the best of them, and a mask of these."""
    name = next((name for name in ("indexer.attn_q_b", "indexer.q_proj") if f"{name}.weight" in ops.block), "")
    if not ops.block.layer.index_key_length or not name:
        return ()
    graph, rows = ops.graph, ops.size(ops.block.rows(f"{name}.weight"))
    mask = ops.input("index mask", ((F16 if ops.way.flash_attention else F32, PAIRS),))
    asked = graph.make(rows, ops.product(name, source), ops.positions)
    best = graph.make(((F32, PICKS),), graph.make(((F32, PAIRS),), asked, mask))
    zeros = graph.input(((F32, PICKS),), ops.place)
    picked = graph.make(((F16 if ops.way.flash_attention else F32, PAIRS),), ops.mask(False), place=ops.place)
    return (picked, best, zeros)


def _unknown(ops: Ops, source: int) -> int:
    """A block whose tensors have other names: all its products side by side, which is more than lives at once."""
    layer = ops.block.layer
    matrices = [name for name, shape, _size in ops.block.parts if name.startswith("attn") and len(shape) > 1 and "norm" not in name]
    names = [name.removesuffix(".weight") for name in matrices]
    query = ops.graph.make(ops.size(layer.heads * layer.key_length), *(ops.product(name, source) for name in names))
    made = tuple(ops.graph.make(ops.size(max(1, layer.kv_heads * length)), source) for length in (layer.key_length, layer.value_length))
    wide = (layer.kv_heads * layer.key_length, layer.kv_heads * layer.value_length)
    result = _attend(ops, query, made, layer.heads * max(layer.value_length, layer.key_length), wide)
    return ops.graph.make(ops.size(ops.width), result)


def _attend(ops: Ops, query: int, made: tuple[int, ...], elements: int, wide: tuple[int, int], *picked: int) -> int:
    """``made`` are keys and values of this step, ``wide`` their elements per token in the cache, ``elements`` those of the result."""
    keys, values = wide
    layer, way, graph, windowed = ops.block.layer, ops.way, ops.graph, ops.block.layer.window > 0
    cells, pairs = (WINDOW_CELLS, WINDOW_PAIRS) if windowed else (CELLS, PAIRS)
    query = _rotated(ops, query, layer.heads * layer.key_length)
    if made:
        made = (_rotated(ops, made[0], keys), _rotated(ops, made[1], values, values=True))
    graph.run(query, *(made if ops.windowed or not ops.shape.cached else made[::-1]))
    if ops.shape.cached:
        for one, is_value in zip(made, (False, True)):
            graph.write(one, ops.cells(windowed, is_value), place=ops.place)
        stored = tuple(graph.stored(((F16 * part, cells),), ops.place) for part in (keys, values))
    elif way.flash_attention:
        stored = tuple(graph.make(((F16 * part, TOKENS),), one) for part, one in zip((keys, values), made))
    else:
        stored = made
    if way.flash_attention:
        copied = ((F16 * (keys + values), cells),) if way.convert and ops.shape.cached else ()
        result = graph.make(ops.size(elements) + copied, query, *stored, *(picked or (ops.mask(windowed),)))
    else:
        scores = graph.make(ops.size(layer.heads, pairs), stored[0], query)
        scores = graph.make(ops.size(layer.heads, pairs), scores, *(picked or (ops.mask(windowed),)), reusable=True)
        turned = stored[1] if ops.shape.cached else graph.make(ops.size(values), stored[1])
        result = graph.make(ops.size(elements), graph.make(ops.size(elements), turned, scores))
    graph.run(result)
    return _rotated(ops, result, elements, values=True)


def _latent(ops: Ops, source: int, mla: Mla) -> int:
    """src/models/deepseek2.cpp: queries are compressed as the keys are, all heads share one, and the values are in it."""
    block, layer, graph = ops.block, ops.block.layer, ops.graph
    query = _latent_query(ops, source)
    both = ops.product("attn_kv_a_mqa", source)
    key_turned = graph.make(ops.size(mla.rope_length), both, ops.positions)
    low = ops.norm("attn_kv_a_norm", both, mla.kv_rank, viewed=True)
    turned = graph.make(ops.size(layer.heads * mla.rope_length), query, ops.positions)
    query = graph.make(ops.size(layer.heads * layer.key_length), ops.product("attn_k_b", query, layer.heads * mla.kv_rank), turned)
    key = graph.make(ops.size(layer.key_length), low, key_turned)
    graph.run(query, low, key)
    graph.write(key, ops.cells(False, False), place=ops.place)
    stored = graph.stored(((F16 * layer.key_length, CELLS),), ops.place)
    masks = _indexed(ops, source) or (ops.mask(False),)
    elements = layer.heads * mla.kv_rank
    if ops.way.flash_attention:
        copied = ((F16 * layer.key_length, CELLS),) if ops.way.convert else ()
        result = graph.make(ops.size(elements) + copied, query, stored, *masks)
    else:
        scores = graph.make(ops.size(layer.heads, PAIRS), stored, query)
        scores = graph.make(ops.size(layer.heads, PAIRS), scores, *masks, reusable=True)
        result = graph.make(ops.size(elements), graph.make(((F16 * mla.kv_rank, CELLS),), stored), scores)
    result = ops.product("attn_v_b", result, layer.heads * mla.value_length)
    result = graph.make(ops.size(layer.heads * mla.value_length), result)
    graph.run(result)
    return ops.product("attn_output", result) if "attn_output.weight" in block else result


def _latent_query(ops: Ops, source: int) -> int:
    if "attn_q_a.weight" not in ops.block:
        return ops.product("attn_q", source)
    low = ops.norm("attn_q_a_norm", ops.product("attn_q_a", source), ops.block.rows("attn_q_a.weight"))
    return ops.product("attn_q_b", low)


def _old_latent(ops: Ops, source: int) -> int:
    """Files from before April 2025: keys and values are decompressed and cached head by head."""
    layer, graph, turned_length = ops.block.layer, ops.graph, ops.shape.rope.length
    long, values = layer.heads * layer.key_length, layer.heads * layer.value_length
    query = _latent_query(ops, source)
    both = ops.product("attn_kv_a_mqa", source)
    low = ops.norm("attn_kv_a_norm", both, ops.block.rows("attn_kv_a_mqa.weight") - turned_length, viewed=True)
    wide = ops.product("attn_kv_b", low)
    value = graph.make(ops.size(values), wide)
    query = graph.make(ops.size(long), query, ops.positions)
    turned = graph.make(ops.size(turned_length), both, ops.positions)
    key = graph.make(ops.size(long), wide, graph.make(ops.size(layer.heads * turned_length), turned))
    return ops.product("attn_output", _attend(ops, query, (key, value), values, (long, values)))
