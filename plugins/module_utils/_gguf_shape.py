# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of a model in GGUF files, as llama.cpp b11434 understands their metadata.

Sources: llama_model_base::load_hparams and llama_model::create_memory (src/llama-model.cpp), load_arch_hparams of each
architecture (src/models/*.cpp), src/llama-hparams.cpp for the sizes of recurrent states.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.baremetal.llm.plugins.module_utils._gguf import Counted, Header, Value, read_headers
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    CHUNKED,
    FULL,
    GGUF,
    NONE,
    SLIDING,
    Experts,
    Layer,
    MetadataError,
    Mla,
    ModelShape,
    Projector,
    Quantization,
    RecurrentState,
    Rope,
    Tokenizer,
    layers_of,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import Files

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_BIGGEST = 2**31 - 1  # of any number that describes a shape

# general.file_type (enum llama_ftype, include/llama.h): what most tensors are.
FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M"},
    **{13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS"},
    **{21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S"},
    **{29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4"},
    **{40: "Q1_0", 41: "Q2_0"},
}


@dataclass(frozen=True)
class _Windows:
    """How an architecture slides: every ``pattern``-th layer is full, unless the file has a pattern of its own."""

    pattern: int | None = None  # None: the file must have one
    full_first: bool = False  # the full layer is the first of the pattern, not the last
    kind: str = SLIDING
    default: int | None = 0  # tokens, if the file does not tell; 0: then no layer slides; None: the file must tell


_SOMETIMES_4 = _Windows(4)
_ALWAYS_4 = _Windows(4, default=None)
_OWN_PATTERN = _Windows(None, default=None)
_WINDOWS = {
    "afmoe": _SOMETIMES_4,
    "cohere2": _ALWAYS_4,
    "cohere2moe": _Windows(4, full_first=True, default=None),
    "dots3note": _OWN_PATTERN,
    "exaone-moe": _ALWAYS_4,
    "exaone4": _Windows(4, default=4096),
    "gemma-embedding": _Windows(6, default=None),
    "gemma2": _Windows(2, default=4096),
    "gemma3": _Windows(6),
    "gemma3n": _Windows(5, default=None),
    "gemma4": _OWN_PATTERN,
    "gemma4-assistant": _OWN_PATTERN,
    "gpt-oss": _Windows(2, default=None),
    "granite_swa": _OWN_PATTERN,
    "laguna": _Windows(4, full_first=True),
    "llama4": _Windows(4, kind=CHUNKED, default=8192),
    "maple": _OWN_PATTERN,
    "mellum": _SOMETIMES_4,
    "mimo2": _OWN_PATTERN,
    "modern-bert": _Windows(3, full_first=True),
    "muse-glimmer": _ALWAYS_4,
    "olmo2": _SOMETIMES_4,
    "plamo3": _Windows(8),
    "smallthinker": _Windows(4, full_first=True),
    "spark2_5": _OWN_PATTERN,
    "step35": _OWN_PATTERN,
}
_FIXED_WINDOW = {"llama4": 8192, "smallthinker": 4096}  # whatever the file says

_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})  # no layer attends
_RECURRENT_WITHOUT_HEADS = frozenset(  # the layers that have no KV heads recur
    {"bailingmoe3", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2", "lfm2moe", "plamo2"}
)
_FULL_INTERVAL = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}  # every n-th attends
_MLA = frozenset({"bailingmoe3", "deepseek2", "deepseek32", "dots3note", "glm-dsa", "glm5-next", "hy_v4", "kimi-k3", "kimi-linear", "mistral4"})
_ENCODERS = frozenset(  # they see their whole input at once, and put out no tokens
    {"bert", "clef", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert"}
    | {"nomic-bert-moe", "wavtokenizer-dec"}
)
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})
_UNDESCRIBED = {
    "deepseek4": "deepseek4 caches compressed keys and values whose sizes are not told here.",
    "dflash": "dflash drafts for another model and shares its memory.",
    "eagle3": "eagle3 drafts for another model and shares its memory.",
    "gemma4-assistant": "gemma4-assistant drafts for another model and uses its cache.",
    "granite-switch": "graniteswitch has one more cached layer for its adapters.",
    "nanbeige": "nanbeige runs its layers several times, with a cache for each time.",
    "pockettts": "pockettts keeps state that is not told here.",
    "qwen3tts": "qwen3tts keeps state that is not told here.",
    "qwen4exp": "qwen4exp keeps the history of its n-gram embeddings, which is not told here.",
}


def read_gguf(files: Files, name: str, projector: str = "") -> ModelShape:
    """The model in the file ``name`` (one part is enough of a split one) and its ``projector``'s file, if there is one.

    Raises MetadataError, also with the names of all keys that are missing, and what the place of the files raises.
    """
    headers = read_headers(files, name)
    encoder = read_headers(files, projector) if projector else ()
    shape = model_shape(headers)
    if encoder:
        shape = replace(shape, projector=projector_of(encoder), files=shape.files + tuple(header.file for header in encoder))
    return shape


def model_shape(headers: t.Sequence[Header]) -> ModelShape:
    """The shape that the parts of one model describe together."""
    keys = _Keys(headers[0])
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    layers = _layers(keys, layers_of(tensors, "_exps."), layers_of(tensors, ".ffn_up."))
    names = {tensor.name: tensor for tensor in tensors}
    embedding = names.get("token_embd.weight")
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    listed = tokens.items if isinstance(tokens, Counted) else 0
    rows = embedding.shape[0] if embedding and embedding.shape else 0
    shape = ModelShape(
        format=GGUF,
        architecture=keys.architecture,
        name=keys.text("general.name"),
        context_length=keys.required("context_length"),
        embedding_length=keys.required("embedding_length"),
        vocabulary=keys.number("vocab_size") or listed or rows,
        layers=layers,
        tensors=tensors,
        files=tuple(header.file for header in headers),
        quantization=Quantization("gguf", _file_type(keys)),
        rope=_rope(keys, layers),
        cached=keys.architecture not in _ENCODERS | _DIFFUSION,
        tied=embedding is not None and "output.weight" not in names and keys.architecture not in _ENCODERS | {"t5encoder"},
        mla=_mla(keys),
        state=_state(keys, layers),
        experts=_experts(keys),
        tokenizer=Tokenizer(keys.text("tokenizer.ggml.model"), listed, tokens.bytes) if isinstance(tokens, Counted) else None,
        undescribed=(_UNDESCRIBED[keys.architecture],) if keys.architecture in _UNDESCRIBED else (),
    )
    keys.refuse_missing()
    return shape


def is_projector(header: Header) -> bool:
    return header.metadata.get("general.architecture") == "clip" or header.metadata.get("general.type") == "mmproj"


def projector_of(headers: t.Sequence[Header]) -> Projector:
    """The encoder in an mmproj file (tools/mtmd/clip-impl.h)."""
    header = headers[0]
    if not is_projector(header):
        raise MetadataError(f"{header.file.name} is not a multimodal projector: name the model's mmproj file.")
    modalities = tuple(name for name in ("vision", "audio") if header.metadata.get(f"clip.has_{name}_encoder"))
    keys = _Keys(header, f"clip.{modalities[0] if modalities else 'vision'}")
    return Projector(
        type=keys.text("clip.projector_type") or keys.text(f"{keys.architecture}.projector_type"),
        modalities=modalities,
        tensors=tuple(tensor for part in headers for tensor in part.tensors),
        layers=keys.number("block_count"),
        embedding_length=keys.number("embedding_length"),
        feed_forward=keys.number("feed_forward_length"),
        heads=keys.number("attention.head_count"),
        image_size=keys.number("image_size"),
        patch_size=keys.number("patch_size"),
        projection_length=keys.number("projection_dim"),
    )


class _Keys:
    """The metadata of one architecture. What is required and not there is collected, to be told all at once."""

    def __init__(self, header: Header, prefix: str = "") -> None:
        self.metadata = header.metadata
        self._file = header.file.name
        self._missing: list[str] = []
        self.architecture = prefix or self.text("general.architecture")
        if not prefix:
            self._refuse_other_files(header)
        self.blocks = 0 if prefix else self._blocks()

    def _refuse_other_files(self, header: Header) -> None:
        kind = self.text("general.type") or "model"
        if not self.architecture:
            raise MetadataError(f"{self._file} has no general.architecture, so no engine can load it.")
        if kind != "model" or is_projector(header):
            kind = "multimodal projector" if is_projector(header) else kind
            raise MetadataError(f"{self._file} is no model but a file of the kind {kind!r}: name the model's own file.")

    def _blocks(self) -> int:
        blocks = self.required("block_count")
        if blocks > MAX_LAYERS or (not blocks and self.has("block_count")):
            raise self.error("block_count", blocks)
        return blocks

    def error(self, key: str, value: object) -> MetadataError:
        return MetadataError(f"{self._file}: {self.architecture}.{key} is {value!r}, which describes no model.")

    def refuse_missing(self) -> None:
        if self._missing:
            names = ", ".join(f"{self.architecture}.{key}" for key in dict.fromkeys(self._missing))
            raise MetadataError(f"{self._file} has the architecture {self.architecture!r}, but does not describe it. Missing: {names}.")

    def text(self, key: str) -> str:
        """A text by its full name, empty if it is not there."""
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int = 0) -> int:
        value = self._get(key)
        return default if value is None else self._checked(key, value)

    def required(self, key: str) -> int:
        if self._get(key) is None:
            self._missing.append(key)
        return self.number(key)

    def real(self, key: str, default: float) -> float:
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
        raise self.error(key, value)

    def per_layer(self, key: str, default: int | t.Sequence[int] = 0) -> list[int]:
        """A number for each layer; the file has one for all of them, or one for each."""
        value = self._get(key)
        if value is None:
            return [default] * self.blocks if isinstance(default, int) else list(default)
        if not isinstance(value, tuple):
            return [self._checked(key, value)] * self.blocks
        if len(value) > self.blocks:
            raise self.error(key, value)
        return [self._checked(key, one) for one in value] + [0] * (self.blocks - len(value))

    def has(self, key: str) -> bool:
        return self._get(key) is not None

    def is_list(self, key: str) -> bool:
        return isinstance(self._get(key), tuple)

    def _get(self, key: str) -> Value | None:
        return self.metadata.get(f"{self.architecture}.{key}")

    def _checked(self, key: str, value: Value) -> int:
        if not isinstance(value, int) or not 0 <= value <= _BIGGEST:
            raise self.error(key, value)
        return int(value)


def _layers(keys: _Keys, with_experts: frozenset[int], with_dense: frozenset[int]) -> tuple[Layer, ...]:
    drafts = keys.number("nextn_predict_layers")
    trunk = keys.blocks - drafts
    if trunk < 0:
        raise keys.error("nextn_predict_layers", drafts)
    heads = keys.per_layer("attention.head_count")
    kv_heads = keys.per_layer("attention.head_count_kv", heads)
    feed_forward = keys.per_layer("feed_forward_length")
    expert_feed_forward = keys.per_layer("expert_feed_forward_length")
    used = keys.per_layer("expert_used_count")
    recurrent = _recurrent(keys, trunk, kv_heads, feed_forward)
    windows = _windows(keys, trunk, recurrent)
    kind = _WINDOWS[keys.architecture].kind if keys.architecture in _WINDOWS else SLIDING
    lengths = _head_lengths(keys, heads)
    own_caches = _own_caches(keys)
    index = _index(keys, trunk, recurrent)
    mla = _is_mla(keys)
    layers = []
    for number in range(keys.blocks):
        attends = kv_heads[number] > 0 and _attends(keys.architecture, recurrent[number], feed_forward[number])
        window = windows[number] if attends else 0
        key_length, value_length = lengths[1 if window else 0]
        is_expert = number in with_experts
        reads = own_caches - (2 if window else 1)
        layers.append(
            Layer(
                attention=NONE if not attends else kind if window else FULL,
                window=window,
                recurrent=recurrent[number],
                heads=heads[number] if attends else 0,
                kv_heads=kv_heads[number] if attends else 0,
                key_length=key_length if attends else 0,
                value_length=value_length if attends and not mla else 0,
                cache_of=reads if attends and number >= own_caches else None,
                index_key_length=index[number] if attends else 0,
                index_value_length=value_length if attends and index[number] and keys.architecture == "minimax-m3" else 0,
                feed_forward=feed_forward[number] if number in with_dense or not is_expert else 0,
                experts=keys.number("expert_count") if is_expert else 0,
                experts_used=used[number] if is_expert else 0,
                expert_feed_forward=(expert_feed_forward[number] or feed_forward[number]) if is_expert else 0,
                draft=number >= trunk,
            )
        )
    return tuple(layers)


def _attends(architecture: str, recurrent: bool, feed_forward: int) -> bool:
    if architecture.startswith("nemotron_h"):  # a layer is only one thing: recurrent, attention or feed-forward
        return not recurrent and feed_forward == 0
    return architecture == "falcon-h1" or not recurrent


def _recurrent(keys: _Keys, trunk: int, kv_heads: list[int], feed_forward: list[int]) -> list[bool]:
    architecture, blocks = keys.architecture, range(keys.blocks)
    if architecture in _RECURRENT or architecture == "falcon-h1":
        return [True] * keys.blocks
    if architecture in _RECURRENT_WITHOUT_HEADS:
        return [number < trunk and kv_heads[number] == 0 for number in blocks]
    if architecture.startswith("nemotron_h"):
        return [number < trunk and kv_heads[number] == 0 and feed_forward[number] == 0 for number in blocks]
    if architecture in _FULL_INTERVAL:
        if keys.has("attention.recurrent_layers"):
            return [bool(flag) for flag in keys.per_layer("attention.recurrent_layers")]
        interval = keys.number("full_attention_interval", _FULL_INTERVAL[architecture])
        if not interval:
            raise keys.error("full_attention_interval", interval)
        return [number < trunk and (number + 1) % interval != 0 for number in blocks]
    return [False] * keys.blocks


def _windows(keys: _Keys, trunk: int, recurrent: list[bool]) -> list[int]:
    """The window of each layer in tokens, 0 where it is full."""
    architecture = keys.architecture
    none = [0] * keys.blocks
    stated = "attention.sliding_window"
    if architecture in ("lfm2", "lfm2moe"):
        return [0 if recurs else keys.number(stated) for recurs in recurrent]
    rule = _WINDOWS.get(architecture)
    if rule is None or (architecture == "exaone4" and trunk != 64):
        return none
    window = keys.required(stated) if rule.default is None else keys.number(stated, rule.default)
    if not window:
        return none
    window = _FIXED_WINDOW.get(architecture, window)
    pattern = "attention.sliding_window_pattern"
    if keys.is_list(pattern):
        return [window if flag else 0 for flag in keys.per_layer(pattern)]
    if rule.pattern is None:
        keys.required(pattern)
        return none
    every = keys.number(pattern, rule.pattern)  # 0: all layers slide
    full = 0 if rule.full_first else every - 1
    return [window if number < trunk and (not every or number % every != full) else 0 for number in range(keys.blocks)]


def _head_lengths(keys: _Keys, heads: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Lengths of a key and a value, of full layers and of those with a window."""
    first = heads[0] if heads else 0
    default = keys.number("embedding_length") // first if first else 0
    if not any(heads) and keys.architecture not in _RECURRENT:
        keys.required("attention.head_count")
    key = keys.number("attention.key_length", default)
    value = keys.number("attention.value_length", default)
    return (key, value), (keys.number("attention.key_length_swa", key), keys.number("attention.value_length_swa", value))


def _own_caches(keys: _Keys) -> int:
    """How many layers, counted from the first, have a cache of their own."""
    if keys.architecture == "gemma3n":
        return 20
    if keys.architecture == "gemma4":
        shared = keys.number("attention.shared_kv_layers")
        if shared > keys.blocks - 2:  # they read the last full layer's or the last sliding one's
            raise keys.error("attention.shared_kv_layers", shared)
        return keys.blocks - shared
    return keys.blocks


def _index(keys: _Keys, trunk: int, recurrent: list[bool]) -> list[int]:
    """Elements per token that the indexer of each layer caches (src/llama-kv-cache-{dsa,msa}.cpp, llama-memory-hybrid-idx.cpp)."""
    architecture = keys.architecture
    length = keys.number("attention.indexer.key_length")
    types = "attention.indexer.types"
    if architecture == "deepseek32":
        own = [1] * keys.blocks
    elif architecture == "minimax-m3":
        own = [int(number >= keys.number("leading_dense_block_count")) for number in range(keys.blocks)]
    elif architecture in ("glm-dsa", "glm5-next"):
        own = keys.per_layer(types, 1)
        length *= 3 if architecture == "glm5-next" else 1  # key, gate and pooled key
    elif architecture in ("dots3note", "hy_v4") and keys.number("attention.indexer.top_k"):
        own = keys.per_layer(types)
    elif architecture == "qwen4exp":
        own = [1] * keys.blocks
        length *= 2  # raw and pooled key
    else:
        return [0] * keys.blocks
    return [length if own[number] and number < trunk and not recurrent[number] else 0 for number in range(keys.blocks)]


def _is_mla(keys: _Keys) -> bool:
    """Files from before April 2025 lack these keys, and their models are cached head by head."""
    return keys.architecture in _MLA and keys.number("attention.key_length_mla") > 0


def _mla(keys: _Keys) -> Mla | None:
    if not _is_mla(keys):
        return None
    return Mla(
        kv_rank=keys.required("attention.kv_lora_rank"),
        q_rank=keys.number("attention.q_lora_rank"),
        rope_length=keys.number("rope.dimension_count"),
        key_length=keys.required("attention.key_length_mla"),
        value_length=keys.required("attention.value_length_mla"),
    )


def _state(keys: _Keys, layers: t.Sequence[Layer]) -> RecurrentState | None:
    """As llama_hparams::n_embd_r and n_embd_s have it, which decide by what is there and not by the architecture."""
    if not any(layer.recurrent for layer in layers):
        return None
    width, heads = keys.number("embedding_length"), keys.per_layer("attention.head_count")[0]
    if "rwkv" in keys.architecture:
        size = keys.required("wkv.head_size")
        return RecurrentState("rwkv", keys.number("token_shift_count", 2) * width, width * size, heads=width // size if size else 0)
    if keys.architecture.startswith("lfm2"):
        kernel = keys.required("shortconv.l_cache")
        return RecurrentState("shortconv", width * max(0, kernel - 1), 0, kernel, inner=width)
    if keys.number("kda.head_dim"):
        size, kernel = keys.number("kda.head_dim"), keys.number("ssm.conv_kernel")
        inner = heads * size
        return RecurrentState("kda", 3 * (kernel - 1 if kernel else 3) * inner, inner * size, kernel, inner, size, heads=heads)
    if keys.architecture == "minimax-01":
        size = keys.number("attention.key_length", width // heads if heads else 0)
        return RecurrentState("linear", 0, size * size * heads, state=size, heads=heads)
    kernel, inner, state = keys.required("ssm.conv_kernel"), keys.required("ssm.inner_size"), keys.required("ssm.state_size")
    groups = keys.number("ssm.group_count")
    kind = "delta" if keys.architecture in _FULL_INTERVAL else "mamba2" if groups else "mamba"
    convolution = max(0, kernel - 1) * (inner + 2 * groups * state)
    return RecurrentState(kind, convolution, state * inner, kernel, inner, state, groups, keys.number("ssm.time_step_rank"))


def _experts(keys: _Keys) -> Experts | None:
    count = keys.number("expert_count")
    if not count:
        return None
    wide = keys.number("expert_shared_feed_forward_length")
    return Experts(
        count=count,
        used=max(keys.per_layer("expert_used_count"), default=0),
        shared=keys.number("expert_shared_count") or int(wide > 0),
        shared_feed_forward=wide,
    )


def _rope(keys: _Keys, layers: t.Sequence[Layer]) -> Rope:
    return Rope(
        base=keys.real("rope.freq_base", 0.0),
        length=keys.number("rope.dimension_count", max((layer.key_length for layer in layers), default=0)),
        scaling=keys.text(f"{keys.architecture}.rope.scaling.type"),
        factor=keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0)),
        original_context=keys.number("rope.scaling.original_context_length"),
    )


def _file_type(keys: _Keys) -> str:
    value = keys.metadata.get("general.file_type")
    return FILE_TYPES.get(value, "") if isinstance(value, int) else ""
