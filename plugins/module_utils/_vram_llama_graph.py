# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama.cpp computes in one step of a prompt: a model's blocks one after the other.

Sources are files of llama.cpp b11434: src/llama-graph.cpp (build_ffn, build_moe_ffn) and src/models/. What a block consists of is read off the names
of its tensors, so that a model that is not known by name is described as what it looks like; tests/bench/vram measures how near that is.
"""

from __future__ import annotations

import math

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import F32
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_attention import attention
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_ops import I32, ONE, OUTPUTS, Block, Ops
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_recurrence import recurrence
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_weights import Elsewhere

# Models whose last block goes on with all tokens; the wanted ones are picked behind the last norm (embeddings_nextn_masked).
_PICKED_LAST = frozenset(
    (
        *("bailingmoe3", "cohere2moe", "gemma3n", "gemma4", "gpt-oss", "hy_v3", "nemotron_h", "nemotron_h_moe"),
        *("qwen35", "qwen35moe", "qwen3next", "step35"),
    )
)

# Models where what goes past a block is the first source of the sum behind it, and gives its place.
_OLD_FIRST = frozenset(("jamba", "lfm2", "lfm2moe"))


class Builder(Ops):
    """Builds the graph of a model, block by block."""

    def run(self, block: Block, place: int, moved: Elsewhere, last: bool) -> None:
        self.block, self.place, self.moved = block, place, dict(moved)
        layer, before, state = block.layer, self.stream, self.shape.state
        if self.normed_first:
            before = self._first_norm(before)
        source = self.norm("attn_norm", before) if "attn_norm.weight" in block else before
        current: int | None = None
        if layer.attention:
            current = attention(self, source)
        if layer.recurrent and state:
            if current is not None:  # Falcon-H1 does the norm twice
                source = self.norm("attn_norm", before)
            recurrent = recurrence(self, source, state)
            current = recurrent if current is None else self.add(current, recurrent)
        if last and self.shape.architecture not in _PICKED_LAST:
            current = None if current is None else self._picked(current)
            before = self._picked(before)
            self.unit = OUTPUTS
        self.stream = self._second_half(source if current is None else self._joined(current, before), before, current is None)
        if self.deep:
            self.stream = self.add(self.stream, self.deep.pop(0))

    def _first_norm(self, stream: int) -> int:
        self.normed_first = False
        size = self.size(self.width)
        mean = "bert" in self.shape.architecture
        normed = self.graph.make(size, stream, place=self.place if self.way.cuda else None, reusable=not mean)
        return self.graph.make(size, normed, place=self.place, reusable=True)

    def _picked(self, source: int) -> int:
        return self.graph.make(self.size(self.width, OUTPUTS), source, self.input("outputs", ((I32, OUTPUTS),)))

    def _joined(self, current: int, before: int) -> int:
        """Attention's result and what it was made of. A norm behind it is the one before the second half, unless that has its own."""
        block = self.block
        if "post_attention_norm.weight" in block and "ffn_norm.weight" in block:
            current = self.norm("post_attention_norm", current)
        current = self._sum(current, before)
        return self.norm("attn_output_norm", current) if "attn_output_norm.weight" in block else current

    def _sum(self, current: int, before: int) -> int:
        return self.add(before, current) if self.shape.architecture in _OLD_FIRST else self.add(current, before)

    def _second_half(self, stream: int, before: int, alone: bool) -> int:
        """The feed-forward network, if the block has one; ``alone``: it has nothing else, and its norm is done."""
        block = self.block
        if "ffn_down.weight" not in block and "ffn_down_exps.weight" not in block:
            return stream
        name = next((name for name in ("ffn_norm", "post_attention_norm") if f"{name}.weight" in block), "")
        source = self.norm(name, stream) if name and "attn_output_norm.weight" not in block else stream
        current = self.experts(source) if "ffn_down_exps.weight" in block else self.feed_forward(source)
        if "post_ffw_norm.weight" in block:
            current = self.norm("post_ffw_norm", current)
        current = self._sum(current, before if alone else stream)
        return self.norm("layer_output_norm", current) if "layer_output_norm.weight" in block else current

    def feed_forward(self, source: int, suffix: str = "") -> int:
        """build_ffn. The gate is the first source of the operation that joins both, so it is computed first."""
        block = self.block
        up, gate, down = (f"ffn_{side}{suffix}" for side in ("up", "gate", "down"))
        inner = math.prod(block.names[f"{down}.weight"]) // block.rows(f"{down}.weight")
        wide = self.product(up, source)
        if f"{gate}.weight" in block:
            active = self.graph.make(self.size(inner), self.product(gate, source), wide)
        else:
            active = self.graph.make(self.size(inner), wide, reusable=block.rows(f"{up}.weight") == inner)
        return self.product(down, active)

    def experts(self, source: int) -> int:
        """build_moe_ffn, and the experts that every token goes through."""
        block, layer, graph = self.block, self.block.layer, self.graph
        used, count, inner = layer.experts_used, layer.experts, layer.expert_feed_forward
        chances = graph.make(self.size(count), self.product("ffn_gate_inp", source, count), reusable=True)
        biased = graph.make(self.size(count), chances, place=self.place) if "exp_probs_b.bias" in block else chances
        first = (*self.size(count), (-F32 * (count - used), ONE))  # of each row
        chosen = graph.view(graph.make(self.size(count), biased), first)
        weights = graph.make(self.size(used), chances, chosen)
        weights = graph.make(self.size(used), weights, graph.make(self.size(1), weights))  # so that their sum is 1
        graph.run(weights)
        weighted_first = self.shape.architecture == "llama4"
        routed, wide = source, self.size(used * self.width)
        if weighted_first:
            routed = graph.make(wide, graph.make(wide, source), weights, reusable=True)
        if "ffn_gate_up_exps.weight" in block:
            active = graph.make(self.size(used * inner), self.product("ffn_gate_up_exps", routed, 2 * used * inner, chosen))
        else:
            up = self.product("ffn_up_exps", routed, used * inner, chosen)
            gates = [self.product("ffn_gate_exps", routed, used * inner, chosen)] if "ffn_gate_exps.weight" in block else []
            active = graph.make(self.size(used * inner), *gates, up, reusable=not gates)
        made = self.product("ffn_down_exps", active, used * self.width, chosen)
        parts = made
        if not weighted_first:
            parts = graph.make(wide, made, weights, reusable=not self.way.cuda)
        graph.run(parts)
        fused = (made,) if self.way.cuda else ()
        summed = graph.make(self.size(self.width), parts)
        graph.run(summed)
        for _expert in range(used - 2):
            summed = graph.make(self.size(self.width), summed, parts, *fused, reusable=True)
            graph.run(summed)
        if "ffn_down_shexp.weight" in block:
            summed = self.add(summed, self.feed_forward(source, "_shexp"))
        return summed

    def finish(self, place: int, vocabulary: int) -> None:
        """The last norm and the probabilities; what gives embeddings ends with the norm."""
        self.place, self.moved = place, {}
        graph, size = self.graph, self.size(self.width)
        result = graph.make(size, graph.make(size, self.stream, reusable=True), place=place, reusable=True)
        if self.unit != OUTPUTS:
            result = self._picked(result)
        if vocabulary:
            result = graph.make(self.size(vocabulary, OUTPUTS), result, place=place, kept=True)
        graph.run(result)
