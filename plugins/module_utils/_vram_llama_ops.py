# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts that the blocks of all models are made of: products with weights, norms, sums, and the inputs of a step.

Sources are functions of src/llama-graph.cpp of llama.cpp b11434.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import F16, F32, Layer, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_alloc import HOST, Graph, Size

I32, I64 = 4, 8  # bytes

# Units of sizes; what they are worth is up to the settings.
ONE = "one"
TOKENS = "tokens"  # of one step
OUTPUTS = "outputs"  # tokens whose probabilities are wanted
SLOTS = "slots"
OTHER_SLOTS = "other slots"  # than the first
CELLS = "cells"  # of the cache, of all streams together
WINDOW_CELLS = "window cells"  # the same of layers with a window
PAIRS = "pairs"  # a token of the step and a cell that it may see
WINDOW_PAIRS = "window pairs"
PICKS = "picks"  # cells that an indexer picks for all tokens of the step

_DEEP = {"qwen3vl": 3, "qwen3vlmoe": 3}  # blocks that images are fed to beside the first (n_deepstack_layers); inputs are as much wider
_SCALED = ("gemma", "granite", "minicpm")  # the embeddings of a token are scaled
_FOUR_POSITIONS = ("qwen2vl", "qwen3vl", "qwen35", "paddleocr")  # a token has four (rope_sections)


@dataclass(frozen=True)
class Way:
    """What of the settings decides which operations there are."""

    flash_attention: bool
    rotate_keys: bool  # quantised caches are rotated (src/llama-kv-cache.cpp: attn_rot_k, attn_rot_v)
    rotate_values: bool
    convert: bool  # CUDA's attention makes an F16 copy of a cache of another type (ggml_cuda_flash_attn_ext_get_alloc_size)
    cuda: bool  # a real engine: it pins the norm before a block to the block's device, and keeps what it fuses (ggml_backend_cuda_graph_optimize)
    offload: bool  # CUDA computes with weights of main memory, which are copied to it first (offload_op)


class Block:
    """One layer of a model with its tensors, without their numbers: equal layers are equal."""

    def __init__(self, layer: Layer, parts: tuple[tuple[str, tuple[int, ...], int], ...]) -> None:
        """``parts`` are names in the block, shapes and bytes."""
        self.layer, self.parts = layer, parts
        self.names = {name: shape for name, shape, _size in parts}
        self.sizes = {name: size for name, _shape, size in parts}
        self._hash = hash((layer, parts))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Block) and (self.layer, self.parts) == (other.layer, other.parts))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def rows(self, name: str) -> int:
        return self.names[name][-2] if len(self.names[name]) > 1 else self.names[name][0]


class Ops:
    """Adds operations to a graph. ``place`` is where the weights of the current block lie, ``stream`` what goes from block to block."""

    def __init__(self, shape: ModelShape, way: Way) -> None:
        self.shape, self.way = shape, way
        self.graph = Graph()
        self.width = shape.embedding_length
        self.place = HOST
        self.unit = TOKENS  # of rows; the last block goes on with those that are wanted
        self.block = Block(Layer(), ())
        self.moved: dict[str, int] = {}  # tensors of the block that lie elsewhere
        self.windowed = any(layer.window for layer in shape.trunk)
        self.widest = max((layer.cached_values for layer in shape.trunk), default=0)
        self.inputs: dict[str, int] = {}
        self.deep: list[int] = []
        self.stream = self._embedded()

    def _embedded(self) -> int:
        """build_inp_embd: the graph has a way for tokens, one for what an encoder made of an image, and one for both, whichever is taken."""
        graph, deep = self.graph, _DEEP.get(self.shape.architecture, 0)
        wide = self.width * (1 + deep)
        row = ((F32 * wide, TOKENS),)

        def embed(name: str) -> int:
            result = graph.make(self.size(self.width), self.input(name, ((I32, TOKENS),)), place=HOST)
            return graph.make(row, result) if deep else result

        stream = embed("tokens")
        graph.run(stream, self.input("embeddings", row))
        others = embed("mixed tokens")
        slots = self.input("slots", ((I64, TOKENS),))
        graph.run(others, slots)
        graph.write(others, slots, graph.make(row, self.input("mixed", row), kept=True))
        if deep:
            part = ((F32 * wide, TOKENS), (-F32 * self.width * deep, ONE))
            whole = stream
            stream, *self.deep = (graph.view(whole, part) for _part in range(1 + deep))
        if self.shape.architecture.startswith(_SCALED):
            stream = graph.make(row, stream, reusable=True)
        graph.run(stream)
        return self._beside(stream)

    def _beside(self, stream: int) -> int:
        """What is added to the embeddings: types and positions of tokens, a norm (src/models/bert.cpp, gpt2.cpp)."""
        there = {tensor.name: tensor for tensor in self.shape.tensors if tensor.layer is None}
        if "token_types.weight" in there:
            stream = self.graph.make(self.size(self.width), stream, reusable=True)
        if "position_embd.weight" in there:
            stream = self.add(self.graph.make(self.size(self.width), self.positions, place=HOST), stream)
        self.normed_first = "token_embd_norm.weight" in there and not self.shape.architecture.startswith("lfm2")
        return stream

    def input(self, name: str, size: Size) -> int:
        if name not in self.inputs:
            self.inputs[name] = self.graph.input(size)
        return self.inputs[name]

    @property
    def positions(self) -> int:
        return self.input("positions", ((I32 * (4 if self.shape.architecture.startswith(_FOUR_POSITIONS) else 1), TOKENS),))

    @property
    def states(self) -> int:
        """Which slot's state is read (build_rs_inp)."""
        return self.input("states", ((I32, SLOTS),))

    def mask(self, windowed: bool) -> int:
        return self.input(f"mask {windowed}", ((F16 if self.way.flash_attention else F32, WINDOW_PAIRS if windowed else PAIRS),))

    def cells(self, windowed: bool, values: bool) -> int:
        """Where in the cache this step's keys or values go. Without flash attention values are transposed, and every number of one has a place."""
        columns = max(1, self.widest) if values and not self.way.flash_attention else 1
        return self.input(f"cells {windowed} {values}", ((I64 * columns, TOKENS),))

    def size(self, elements: float, unit: str = "") -> Size:
        return ((F32 * elements, unit or self.unit),)

    def product(self, name: str, source: int, elements: float = 0, *others: int) -> int:
        """A product with the weights ``name``, and its bias. ``elements`` are those of a row, if they are not the rows of the weights."""
        place, stored = self._where(f"{name}.weight")
        size = self.size(elements or self.block.rows(f"{name}.weight"))
        result = self.graph.make(size, *stored, source, *others, place=place)
        return self.with_(f"{name}.bias", result, size)

    def with_(self, name: str, result: int, size: Size, reusable: bool = True) -> int:
        """Added to or multiplied with a vector of the block, if it has it."""
        if name not in self.block:
            return result
        place, stored = self._where(name)
        return self.graph.make(size, result, *stored, place=place, reusable=reusable)

    def _where(self, name: str) -> tuple[int, tuple[int, ...]]:
        """Where an operation with this tensor runs, and the copy of it that is needed there."""
        place = self.moved.get(name, self.place)
        if place != HOST:
            return place, ()
        if self.way.offload and self.unit == TOKENS:
            return 0, (self.graph.stored(((self.block.sizes.get(name, 0), ONE),), HOST),)
        return HOST, ()

    def norm(self, name: str, source: int, elements: float = 0, viewed: bool = False) -> int:
        """A norm and its weights (build_norm). ``viewed``: its source is a view, whose place it cannot take; nor can LayerNorm, which has a bias."""
        size = self.size(elements or self.width)
        place = self.place if self.way.cuda and self.place != HOST else None
        result = self.graph.make(size, source, place=place, reusable=not viewed and f"{name}.bias" not in self.block)
        return self.with_(f"{name}.bias", self.with_(f"{name}.weight", result, size), size)

    def add(self, one: int, other: int, elements: float = 0) -> int:
        return self.graph.make(self.size(elements or self.width), one, other, reusable=True)
