# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Blocks that keep a state instead of a cache, as llama.cpp b11434 computes them in src/models (mamba-base, delta-net-base, qwen3next, lfm2)."""

from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import RecurrentState
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_ops import OTHER_SLOTS, SLOTS, Ops


def recurrence(ops: Ops, source: int, state: RecurrentState) -> int:
    if state.kind == "delta":
        return _delta(ops, source, state)
    if state.kind == "mamba2":
        return _mamba2(ops, source, state)
    if state.kind == "mamba":
        return _mamba(ops, source, state)
    if state.kind == "shortconv":
        return _short_convolution(ops, source, state)
    return _any(ops, source, state)


def _state(ops: Ops, elements: int) -> int:
    """The state of every slot (build_rs): one is zeroed, all are read, those of slots that are not in the step are moved."""
    ops.graph.write(place=ops.place)
    before = ops.graph.make(ops.size(elements, SLOTS), ops.states)
    ops.graph.run(before)
    ops.graph.write(before, place=ops.place)
    return before


def _window(ops: Ops, source: int, state: RecurrentState, channels: int) -> int:
    """What is new behind what is left of the last step, whose end is kept."""
    before = _state(ops, state.convolution)
    both = ops.graph.make(ops.size(channels) + ops.size(channels * (state.kernel - 1), SLOTS), before, source)
    ops.graph.write(both, place=ops.place)
    return both


def _filtered(ops: Ops, window: int, channels: int) -> int:
    size = ops.size(channels)
    result = ops.with_("ssm_conv1d.bias", ops.graph.make(size, window, place=ops.place), size)
    return ops.graph.make(size, result, reusable=True)


def _scanned(ops: Ops, state: RecurrentState, *sources: int) -> int:
    """All tokens of the step one after the other; the states of further slots are read a second time, to be moved."""
    ops.graph.write(place=ops.place)
    result = ops.graph.make(ops.size(state.inner) + ops.size(state.inner * state.state, SLOTS), *sources, ops.states, place=ops.place)
    ops.graph.run(result)
    ops.graph.write(ops.graph.make(ops.size(state.inner * state.state, OTHER_SLOTS), ops.states), place=ops.place)
    ops.graph.write(result, place=ops.place)
    return result


def _mamba2(ops: Ops, source: int, state: RecurrentState) -> int:
    """build_mamba2_layer."""
    graph, channels, inner = ops.graph, state.inner + 2 * state.groups * state.state, ops.size(state.inner)
    mixed = ops.product("ssm_in", source)
    conv = _filtered(ops, _window(ops, mixed, state, channels), channels)
    step = ops.with_("ssm_dt.bias", graph.make(ops.size(state.heads), mixed), ops.size(state.heads))
    scan = _scanned(ops, state, conv, step)
    summed = graph.make(inner, graph.make(inner, conv, place=ops.place), scan, reusable=True)
    result = graph.make(inner, graph.make(inner, mixed), summed)
    if "ssm_norm.weight" in ops.block:
        result = ops.norm("ssm_norm", result, state.inner, viewed=True)
    return ops.product("ssm_out", result)


def _mamba(ops: Ops, source: int, state: RecurrentState) -> int:
    """build_mamba_layer. ``heads`` is the rank of the time step."""
    graph, inner = ops.graph, ops.size(state.inner)
    mixed = ops.product("ssm_in", source)
    conv = _filtered(ops, _window(ops, mixed, state, state.inner), state.inner)
    low = ops.product("ssm_x", conv)
    parts = [low, low, low]
    for index, (name, size) in enumerate((("ssm_dt_norm", state.heads), ("ssm_b_norm", state.state), ("ssm_c_norm", state.state))):
        if f"{name}.weight" in ops.block:
            parts[index] = ops.norm(name, low, size, viewed=True)
    scan = _scanned(ops, state, conv, ops.product("ssm_dt", parts[0]), *parts[1:])
    summed = graph.make(inner, graph.make(inner, conv, place=ops.place, reusable=True), scan, reusable=True)
    return ops.product("ssm_out", graph.make(inner, graph.make(inner, mixed), summed))


def _delta(ops: Ops, source: int, state: RecurrentState) -> int:
    """Gated delta net (build_layer_attn_linear), as one operation (build_delta_net_fused)."""
    graph, inner, heads = ops.graph, ops.size(state.inner), ops.size(state.heads)
    keys, channels = state.groups * state.state, state.inner + 2 * state.groups * state.state
    graph.run(source)
    conv = _filtered(ops, _window(ops, ops.product("attn_qkv", source), state, channels), channels)
    before = _state(ops, state.inner * state.state)
    pair = []
    for _time in range(2):
        normed = graph.make(ops.size(keys), conv)
        pair.append(graph.make(inner, normed) if keys != state.inner else normed)
    if "ssm_ba.weight" in ops.block:
        both = ops.product("ssm_ba", source)
        gates = [graph.make(heads, both), graph.make(heads, both)]
    else:
        gates = [ops.product("ssm_alpha", source), ops.product("ssm_beta", source)]
    scan = graph.make(inner + ops.size(state.inner * state.state, SLOTS), *pair, conv, *gates, before)
    graph.write(scan, place=ops.place)
    normed = ops.norm("ssm_norm", scan, state.inner, viewed=True)
    gate = graph.make(inner, ops.product("attn_gate", source))
    return ops.product("ssm_out", graph.make(inner, normed, gate, reusable=True))


def _short_convolution(ops: Ops, source: int, state: RecurrentState) -> int:
    """build_shortconv_block of src/models/lfm2.cpp."""
    size = ops.size(state.inner)
    three = ops.product("shortconv.in_proj", source)
    window = _window(ops, ops.graph.make(size, three), state, state.inner)
    conv = ops.graph.make(size, window, place=ops.place)
    return ops.product("shortconv.out_proj", ops.graph.make(size, conv, three, reusable=True))


def _any(ops: Ops, source: int, state: RecurrentState) -> int:
    """Linear attention, KDA, RWKV: all products of the block side by side, which is more than lives at once, and the state twice."""
    names = [name for name, shape, _size in ops.block.parts if len(shape) > 1 and name.startswith(("attn", "ssm", "time_mix"))]
    made = [ops.product(name.removesuffix(".weight"), source) for name in names if name.endswith(".weight") and "norm" not in name]
    before = _state(ops, state.convolution + state.recurrence)
    after = ops.size(ops.width) + ops.size(state.recurrence, SLOTS)
    return ops.graph.make(ops.size(ops.width), ops.graph.make(after, before, *made))
