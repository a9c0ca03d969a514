# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model's files say about the memory that the model will need, whichever format they have.

Lengths are numbers of elements (a factor of the type's size turns them into bytes), windows and contexts are tokens,
and whatever is called ``bytes`` or ``size`` is bytes.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, fields

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

GGUF = "gguf"
SAFETENSORS = "safetensors"

FULL = "full"  # every token sees all before it
SLIDING = "sliding"  # the last `window` tokens
CHUNKED = "chunked"  # those since the last multiple of `window`
NONE = ""

F16, F32 = 2, 4  # bytes


class MetadataError(LLMError):
    """A model's files are damaged, hostile, incomplete, or of a kind that nobody here knows."""


class Missing(MetadataError):
    """A file of the model is not there."""


class Tensor(t.NamedTuple):
    """One tensor of a file. A tuple, because models have up to a hundred thousand of them."""

    name: str
    type: str  # ggml's or safetensors' name in capitals: Q4_K, BF16, F8_E4M3
    shape: tuple[int, ...]  # outermost dimension first, as PyTorch has it
    parameters: int  # how many parameters of the model it holds; none for scales and zero points
    bytes: int  # in the file
    layer: int | None  # the block it belongs to; None for embeddings, output and what else is there once
    file: str


class File(t.NamedTuple):
    """One file of the model."""

    name: str
    size: int


@dataclass(frozen=True)
class Layer:
    """One block: what of it is cached for every token, and how wide it is.

    A layer may attend, recur, do both (Falcon-H1) or neither (the feed-forward layers of Nemotron-H).
    """

    attention: str = NONE  # FULL, SLIDING, CHUNKED or NONE
    window: int = 0  # tokens; 0 with FULL and NONE
    recurrent: bool = False  # keeps the model's `state` for every sequence
    heads: int = 0  # query heads
    kv_heads: int = 0  # heads in the cache; 1 with MLA
    key_length: int = 0  # per head in the cache; with MLA the latent vector and its rotary part
    value_length: int = 0  # per head in the cache; 0 with MLA, whose values are in the latent vector
    cache_of: int | None = None  # the layer whose cache this one reads instead of having its own (Gemma 3n, 4)
    index_key_length: int = 0  # what a sparse-attention indexer caches per token (DeepSeek V3.2)
    index_value_length: int = 0
    feed_forward: int = 0  # of the dense feed-forward network; 0 if there is none
    experts: int = 0  # 0 in a dense layer
    experts_used: int = 0  # per token
    expert_feed_forward: int = 0  # of one routed expert
    draft: bool = False  # predicts further tokens (MTP); not run, and not cached, without speculative decoding

    @property
    def cached_keys(self) -> int:
        """Elements of keys that this layer itself caches per token, without the indexer's."""
        return self.kv_heads * self.key_length if self.attention and self.cache_of is None else 0

    @property
    def cached_values(self) -> int:
        """Elements of values that this layer itself caches per token, without the indexer's."""
        return self.kv_heads * self.value_length if self.attention and self.cache_of is None else 0


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: what is cached is one compressed vector per token and layer (DeepSeek V2, V3)."""

    kv_rank: int  # of the compressed keys and values
    q_rank: int  # of the compressed queries; 0 if they are not
    rope_length: int  # the rotary part beside the latent vector
    key_length: int  # per head after decompression
    value_length: int  # per head after decompression


@dataclass(frozen=True)
class RecurrentState:
    """What a recurrent layer keeps for a sequence, however long it is.

    ``convolution`` and ``recurrence`` are elements per layer and sequence. llama.cpp keeps both as F32
    (llama-memory-recurrent.cpp, llama_hparams::n_embd_r and n_embd_s), vLLM in its own cache types
    (model_executor/layers/mamba/mamba_utils.py, where the other fields say what tensor parallelism divides).
    """

    kind: str  # mamba, mamba2, delta (gated delta net), kda, linear, shortconv, rwkv
    convolution: int
    recurrence: int
    kernel: int = 0  # of the convolution
    inner: int = 0
    state: int = 0
    groups: int = 0
    heads: int = 0  # of Mamba 2 and linear attention; the rank of the time step with Mamba 1


@dataclass(frozen=True)
class Experts:
    """A mixture of experts; which layers have it and how wide an expert is, the layers say."""

    count: int
    used: int  # per token, the most of all layers
    shared: int = 0  # that every token goes through
    shared_feed_forward: int = 0  # of all shared ones together; 0 if it is not told


@dataclass(frozen=True)
class Rope:
    """Rotary positions. ``factor`` > 1 with a ``scaling`` means that the context is already stretched that much."""

    base: float = 0.0
    length: int = 0  # of the rotated part of a head
    scaling: str = ""  # none, linear, yarn, longrope, llama3, dynamic; empty: nothing is told
    factor: float = 1.0
    original_context: int = 0  # tokens; before it was stretched


@dataclass(frozen=True)
class Quantization:
    """How the weights are stored. In mixed files the tensors have the last word."""

    method: str  # gguf; for safetensors none, awq, gptq, fp8, compressed-tensors, mxfp4, bitsandbytes, ...
    type: str = ""  # GGUF's file type (Q4_K_M) or the scheme (w4, fp8-block)
    bits: int = 0  # of a weight, without scales; 0 if that is not one number
    group: int = 0  # weights that share a scale; 0 if that is not told
    kv_cache: str = ""  # fp8 if the file brings scales for an FP8 cache


@dataclass(frozen=True)
class Tokenizer:
    """What of the file is the vocabulary, which lands in main memory."""

    model: str
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Projector:
    """The encoder of images or sound: a second GGUF file (mmproj), or the tensors beside the language model."""

    type: str  # as the file calls it
    modalities: tuple[str, ...]  # vision, audio
    tensors: tuple[Tensor, ...]
    layers: int = 0
    embedding_length: int = 0
    feed_forward: int = 0
    heads: int = 0
    image_size: int = 0  # pixels; 0 where any size goes
    patch_size: int = 0  # pixels
    projection_length: int = 0

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


@dataclass(frozen=True)
class ModelShape:
    """A model. A GGUF is described as llama.cpp reads it, a directory of safetensors as vLLM does."""

    format: str  # GGUF or SAFETENSORS
    architecture: str  # llama.cpp's name, or the model_type of config.json
    name: str
    context_length: int  # tokens that it was trained for; 0 if it is not limited
    embedding_length: int
    vocabulary: int  # tokens
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]  # without those of the projector
    files: tuple[File, ...]
    quantization: Quantization
    rope: Rope = Rope()
    cached: bool = True  # False: an encoder or diffusion model, which sees its whole input at once
    tied: bool = False  # the output is the embedding once more (llama.cpp loads it a second time)
    dtype: str = ""  # of activations, as config.json has it; GGUF does not say
    mla: Mla | None = None
    state: RecurrentState | None = None
    experts: Experts | None = None
    tokenizer: Tokenizer | None = None
    projector: Projector | None = None
    undescribed: tuple[str, ...] = ()  # sentences: what needs memory that this record does not tell

    @property
    def trunk(self) -> tuple[Layer, ...]:
        """The layers that every token goes through."""
        return tuple(layer for layer in self.layers if not layer.draft)

    @property
    def bytes(self) -> int:
        """Of the weights in the files, without the projector."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Without the projector. A tied output does not count twice."""
        return sum(tensor.parameters for tensor in self.tensors)

    @property
    def attention(self) -> str:
        """In a word: none, recurrent, hybrid, mla, sliding, chunked, mixed (full beside sliding or chunked) or full."""
        kinds = {layer.attention for layer in self.trunk} - {NONE}
        if any(layer.recurrent for layer in self.trunk):
            return "hybrid" if kinds else "recurrent"
        if self.mla:
            return "mla"
        return "mixed" if len(kinds) > 1 else kinds.pop() if kinds else "none"

    def cache_per_token(self, *kinds: str) -> int:
        """Elements that a token costs in the caches of the trunk, of layers of these ``kinds`` (all if none is named)."""
        if not self.cached:
            return 0
        return sum(
            layer.cached_keys + layer.cached_values + layer.index_key_length + layer.index_value_length
            for layer in self.trunk
            if not kinds or layer.attention in kinds
        )

    @property
    def state_per_sequence(self) -> int:
        """Elements of recurrent state of the trunk for one sequence."""
        state = self.state
        return sum(state.convolution + state.recurrence for layer in self.trunk if layer.recurrent) if state else 0


class Same:
    """A shape as a key of what is remembered of it, equal to itself only: comparing its thousands of tensors would take longer than adding them up."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape

    def __hash__(self) -> int:
        return id(self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.shape is self.shape


def layers_of(tensors: t.Iterable[Tensor], part: str) -> frozenset[int]:
    """The layers that have a tensor with ``part`` in its name."""
    return frozenset(tensor.layer for tensor in tensors if tensor.layer is not None and part in tensor.name)


def described(shape: ModelShape, with_tensors: bool = False) -> dict[str, t.Any]:
    """The shape as plain data: sums and counts, and all layers and tensors only if they are wanted."""
    data = {
        "format": shape.format,
        "architecture": shape.architecture,
        "name": shape.name,
        "parameters": shape.parameters,
        "bytes": shape.bytes,
        "types": _by_type(shape.tensors),
        "quantization": asdict(shape.quantization),
        "dtype": shape.dtype,
        "context_length": shape.context_length,
        "embedding_length": shape.embedding_length,
        "vocabulary": shape.vocabulary,
        "layers": _counts(shape),
        "attention": _attention(shape),
        "kv_bytes_per_token": F16 * shape.cache_per_token(),
        "kv_bytes_per_token_full": F16 * shape.cache_per_token(FULL),
        "state_bytes_per_sequence": F32 * shape.state_per_sequence,
        "experts": shape.experts and asdict(shape.experts),
        "rope": asdict(shape.rope),
        "tied": shape.tied,
        "tokenizer": shape.tokenizer and asdict(shape.tokenizer),
        "projector": shape.projector and _projector(shape.projector, with_tensors),
        "files": [file._asdict() for file in shape.files],
        "undescribed": list(shape.undescribed),
    }
    if with_tensors:
        data["blocks"] = [asdict(layer) for layer in shape.layers]
        data["tensors"] = [_listed(tensor) for tensor in shape.tensors]
    return data


def _counts(shape: ModelShape) -> dict[str, int]:
    layers = shape.trunk
    return {
        "total": len(layers),
        **{kind: sum(layer.attention == kind for layer in layers) for kind in (FULL, SLIDING, CHUNKED)},
        "recurrent": sum(layer.recurrent for layer in layers),
        "experts": sum(layer.experts > 0 for layer in layers),
        "draft": len(shape.layers) - len(layers),
    }


def _attention(shape: ModelShape) -> dict[str, t.Any]:
    attending = [layer for layer in shape.trunk if layer.attention]

    def values(name: str) -> list[int]:
        return sorted({getattr(layer, name) for layer in attending})

    return {
        "kind": shape.attention,
        "cached": shape.cached and bool(attending),
        "window": max((layer.window for layer in attending), default=0),
        "heads": values("heads"),
        "kv_heads": values("kv_heads"),
        "key_length": values("key_length"),
        "value_length": values("value_length"),
        "mla": shape.mla and asdict(shape.mla),
    }


def _by_type(tensors: t.Iterable[Tensor]) -> dict[str, dict[str, int]]:
    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        entry = types.setdefault(tensor.type, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.bytes
    return types


def _projector(projector: Projector, with_tensors: bool) -> dict[str, t.Any]:
    data = {field.name: getattr(projector, field.name) for field in fields(projector) if field.name != "tensors"}
    data |= {"bytes": projector.bytes, "modalities": list(projector.modalities)}
    return {**data, "tensors": [_listed(tensor) for tensor in projector.tensors]} if with_tensors else data


def _listed(tensor: Tensor) -> dict[str, t.Any]:
    return {**tensor._asdict(), "shape": list(tensor.shape)}
