# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of a model in a directory of safetensors with a ``config.json``, as vLLM 0.32 understands it.

Sources: vllm/transformers_utils/model_arch_config_convertor.py (heads, lengths, experts, context), the attention of
each model in vllm/model_executor/models, vllm/model_executor/layers/mamba/mamba_utils.py (recurrent states), and the
configuration classes of transformers 5.23 for what a configuration leaves out.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._hf_config import CONFIG, Config
from ansible_collections.baremetal.llm.plugins.module_utils._hf_quantization import parameters, quantization_of
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    CHUNKED,
    FULL,
    NONE,
    SAFETENSORS,
    SLIDING,
    Experts,
    Layer,
    MetadataError,
    Missing,
    Mla,
    ModelShape,
    Projector,
    RecurrentState,
    Rope,
    Tensor,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import Files
from ansible_collections.baremetal.llm.plugins.module_utils._safetensors import (
    Entry,
    Safetensors,
    is_whole,
    json_object,
    read_safetensors,
)

MAX_LAYERS = 1024

_KINDS = {
    **dict.fromkeys(("attention", "full", "full_attention", "global", "global_attention", "indexed_attention", "*"), FULL),
    **dict.fromkeys(("sliding_attention", "sliding_window", "local_attention", "local"), SLIDING),
    **dict.fromkeys(("chunked_attention",), CHUNKED),
}
_RECURRENT_KINDS = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "conv", "short_conv", "kda", "M"})
_NEITHER_KINDS = frozenset({"mlp", "moe", "-", "E"})
_BOTH_KINDS = frozenset({"hybrid"})

_RECURRENT = frozenset({"mamba", "mamba2", "falcon_mamba"})
_FULL_EVERY = {  # the layers in between slide; newer configurations list the kinds of their layers
    **{"afmoe": 4, "cohere2": 4, "exaone4": 4, "gemma2": 2, "gemma3_text": 6, "gemma3n_text": 5, "gemma4_text": 6, "gpt_oss": 2, "olmo3": 4},
}
_NEVER_FULL = frozenset(
    {"mistral", "mixtral", "phi3", "phi3_v", "phi4_multimodal", "phi4mm", "phimoe", "starcoder2"}
)  # where a window is told, all layers slide
_FOUR_TIMES = frozenset({"bloom", "falcon", "gpt2", "gptj", "mpt"})  # so much wider than the model is their feed-forward network
_GEMMA4 = frozenset({"gemma4_text", "gemma4_unified_text", "diffusion_gemma_text"})  # full layers have other heads than those with a window
_DELTA_EVERY = 4  # of Qwen3-Next and 3.5, if `full_attention_interval` does not tell
_MORE_WINDOW = {"cohere2": 1}  # tokens; what vLLM adds to the window
_MLA = frozenset(
    {"axk1", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note", "glm_moe_dsa", "glm4_moe_lite", "kimi_k2", "kimi_linear"}
    | {"longcat_flash", "pangu_ultra_moe", "bailing_hybrid", "hy_v4", "glm5_next", "glm5_next_text"}
)
_ENCODERS = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "nomic_bert", "modernbert", "new", "gte"}
    | {"deberta", "deberta-v2", "eurobert", "xlm-roberta-xl", "bert_with_rope"}
)
_UNDESCRIBED = {
    **dict.fromkeys(("deepseek_v4", "deepseek_v41"), "its compressed keys and values"),
    "glm5_next_text": "the pooled keys of its indexer",
    "longcat_flash": "the second attention of each layer",
    "mllama_text_model": "the keys and values of images",
    "nemotron-nas": "the blocks that differ from each other",
    "qwen4_exp": "its hyper-connections and n-gram embeddings",
    "recurrent_gemma": "its recurrent state",
    "zamba2": "its shared attention blocks",
}

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d{1,6})\.")
_EXPERTS = re.compile(r"\.(?:experts|shared_experts|block_sparse_moe)\.")
_PROJECTOR = re.compile(
    r"(?:model\.|thinker\.)?(?:vision\w*|visual|vit|image_\w+|img_\w+|mm_\w+|multi_modal_projector|multimodal_projector|embed_vision|"
    r"audio\w*|speech\w*|embed_audio|embed_tokens_extend|connector|mlp1|patch_merger|pre_mm_projector_norm|aligner|perceive\w*|"
    r"resampler|vpm|apm|talker|token2wav|code2wav)\."
)


def read_hf(files: Files, name: str = "") -> ModelShape:
    """The model of a directory; ``name`` is what it is called in the result.

    Raises MetadataError, also with the names of all keys that are missing, and what the place of the files raises.
    """
    try:
        config = json_object(files.document(CONFIG), CONFIG)
    except Missing as exc:
        raise Missing(f"The model has no {CONFIG}, so nobody knows what it is. {exc}") from exc
    return model_shape(config, read_safetensors(files), files, name)


def model_shape(config: dict[str, t.Any], weights: Safetensors, files: Files, name: str = "") -> ModelShape:
    """The shape that a configuration and the tensors describe together."""
    values = Config(config)
    quantization = quantization_of(config, weights.entries, files)
    trunk = _layer_count(values)
    tensors, encoder = _tensors(weights.entries, quantization.bits, trunk, bool(values.encoders))
    layers = _layers(values, trunk, tensors)
    shape = ModelShape(
        format=SAFETENSORS,
        architecture=values.model_type,
        name=name,
        context_length=_context(values),
        embedding_length=values.required("width"),
        vocabulary=values.required("vocabulary"),
        layers=layers,
        tensors=tensors,
        files=weights.files,
        quantization=quantization,
        rope=_rope(values),
        cached=values.model_type not in _ENCODERS and not values.flag("use_bidirectional_attention"),
        tied=_tied(values, tensors),
        dtype=values.dtype,
        mla=_mla(values),
        state=_state(values) if any(layer.recurrent for layer in layers) else None,
        experts=_experts(values),
        projector=_projector(values, encoder),
        undescribed=_undescribed(values, config),
    )
    values.refuse_missing()
    return shape


def _layer_count(values: Config) -> int:
    count = values.number("layers") or len(_told_kinds(values))
    if not count:
        count = values.required("layers")
    if count > MAX_LAYERS:
        raise values.error("num_hidden_layers", count)
    return count


def _context(values: Config) -> int:
    """As vLLM derives it: what the configuration has not been stretched by yet is counted in."""
    length = values.number("model_max_length") or min(values.lengths(), default=0)
    rope = _rope(values)
    stretched = rope.scaling in ("linear", "dynamic", "ntk") and not values.model_type.startswith("gemma3")
    return int(length * rope.factor) if stretched else length


def _told_kinds(values: Config) -> list[str]:
    """The kind of each layer where the configuration lists them."""
    pattern = values.values.get("hybrid_override_pattern")
    told = values.names("layer_types", "layers_block_type", "block_types")
    return told or (list(pattern.replace("|", "")) if isinstance(pattern, str) else [])


def _kinds(values: Config, count: int) -> list[str]:
    """What each layer is, in words of _KINDS, _RECURRENT_KINDS, _NEITHER_KINDS or _BOTH_KINDS."""
    told = _told_kinds(values)
    if told:
        if len(told) < count:
            raise values.error("layer_types", told)
        return told[:count]
    if values.model_type in _RECURRENT:
        return ["mamba"] * count
    if values.model_type == "falcon_h1":
        return ["hybrid"] * count
    attending = _attending(values, count)
    if attending is not None:
        return ["attention" if number in attending else "recurrent" for number in range(count)]
    return _sliding(values, count)


def _attending(values: Config, count: int) -> frozenset[int] | None:
    """The layers of a hybrid that attend; None if the model is no hybrid."""
    layers = range(count)
    if values.model_type == "jamba":
        period, offset = values.number("attn_layer_period", 8), values.number("attn_layer_offset", 4)
        return frozenset(number for number in layers if period and number % period == offset)
    if values.has("linear_num_value_heads"):  # Qwen3-Next and 3.5
        every = values.number("full_attention_interval", _DELTA_EVERY)
        return frozenset(number for number in layers if every and (number + 1) % every == 0)
    if values.has("attn_type_list"):  # MiniMax-Text-01
        return frozenset(number for number, flag in enumerate(values.numbers("attn_type_list")) if flag)
    for key in ("attn_layer_indices", "full_attn_idxs"):  # Bamba, LFM2
        if values.has(key):
            return frozenset(values.numbers(key))
    linear = values.table("linear_attn_config").get("full_attn_layers")
    return frozenset(number - 1 for number in linear if is_whole(number)) if isinstance(linear, list) else None  # Kimi counts from 1


def _sliding(values: Config, count: int) -> list[str]:
    """Which layers of a model that only attends see less than everything."""
    layers = range(count)
    if values.has("no_rope_layers") and values.number("attention_chunk_size"):  # Llama 4
        rotated = values.numbers("no_rope_layers") or [int((number + 1) % 4 != 0) for number in layers]
        return ["chunked_attention" if rotated[number : number + 1] == [1] else "attention" for number in layers]
    full = _full(values, count)
    return ["attention" if number in full else "sliding_attention" for number in layers]


def _full(values: Config, count: int) -> t.Collection[int]:
    """The layers that see everything."""
    layers = range(count)
    if values.numbers("hybrid_layer_pattern"):  # MiMo V2
        return [number for number in layers if values.numbers("hybrid_layer_pattern")[number : number + 1] != [1]]
    if not values.number("window") or values.values.get("use_sliding_window") is False:
        return layers
    if values.flag("use_sliding_window") and values.has("max_window_layers"):  # Qwen 2 and 3
        return range(min(count, values.number("max_window_layers")))
    pattern = values.values.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # Exaone 4: LLLG
        return [number for number in layers if pattern[number % len(pattern)] != "L"]
    every = values.number("sliding_window_pattern", _FULL_EVERY.get(values.model_type, 0))
    if every:
        return [number for number in layers if (number + 1) % every == 0]
    return [] if values.model_type in _NEVER_FULL else layers  # of others nobody knows which, so none: that is never too little


def _layers(values: Config, trunk: int, tensors: t.Sequence[Tensor]) -> tuple[Layer, ...]:
    kinds = _kinds(values, trunk)
    unknown = sorted(set(kinds) - _KINDS.keys() - _RECURRENT_KINDS - _NEITHER_KINDS - _BOTH_KINDS)
    if unknown:
        raise MetadataError(f"{CONFIG} has layers of a kind that is not known here: {', '.join(unknown)}.")
    sparse = {tensor.layer for tensor in tensors if _EXPERTS.search(tensor.name)}
    layers = [_layer(values.of_layer(number), kind, number in sparse) for number, kind in enumerate(kinds)]
    own = trunk - values.number("num_kv_shared_layers")
    for number in range(max(0, own), trunk):
        same = [other for other in range(own) if layers[other].attention == layers[number].attention]
        if not same:
            raise values.error("num_kv_shared_layers", trunk - own)
        layers[number] = replace(layers[number], cache_of=same[-1])
    last = next((layer for layer in reversed(layers) if layer.attention), Layer())
    # The files have more layers than the model where they bring a head that predicts further tokens.
    for number in sorted({tensor.layer for tensor in tensors if tensor.layer is not None and tensor.layer >= trunk})[:MAX_LAYERS]:
        layers.append(_with_feed_forward(replace(last, draft=True, recurrent=False, cache_of=None), values, number in sparse))
    return tuple(layers)


def _layer(values: Config, kind: str, is_sparse: bool) -> Layer:
    attention = FULL if kind in _BOTH_KINDS else _KINDS.get(kind, NONE)
    layer = Layer(recurrent=kind in _RECURRENT_KINDS | _BOTH_KINDS)
    if attention:
        layer = replace(_with_attention(layer, values, attention), recurrent=layer.recurrent)
    if values.model_type.startswith("nemotron_h") and kind not in _NEITHER_KINDS:  # its layers are one thing each
        return layer
    return _with_feed_forward(layer, values, is_sparse)


def _with_attention(layer: Layer, values: Config, attention: str) -> Layer:
    window = values.number({SLIDING: "window", CHUNKED: "attention_chunk_size"}.get(attention, ""))
    if not window:  # some switch their windows off by null
        attention = FULL
    elif attention == SLIDING:
        window += _MORE_WINDOW.get(values.model_type, 0)
    heads, kv_heads, key_length, value_length = _heads(values, attention)
    return replace(
        layer,
        attention=attention,
        window=window,
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        index_key_length=values.number("index_head_dim") if values.number("index_topk") else 0,
    )


def _with_feed_forward(layer: Layer, values: Config, is_sparse: bool) -> Layer:
    width = values.number("feed_forward") or (4 * values.number("width") if values.model_type in _FOUR_TIMES else 0)
    if not is_sparse:
        return replace(layer, feed_forward=values.number("intermediate_size_mlp", width))  # Llama 4's name for the dense ones
    return replace(
        layer,
        feed_forward=0,
        experts=values.number("experts"),
        experts_used=values.number("experts_used"),
        expert_feed_forward=values.number("expert_feed_forward", width),
    )


def _heads(values: Config, attention: str) -> tuple[int, int, int, int]:
    """Query heads, KV heads, and the lengths of a key and of a value in the cache."""
    heads = values.required("heads")
    if _is_mla(values):
        return heads, 1, values.number("kv_lora_rank") + values.number("qk_rope_head_dim"), 0
    head, kv_heads = _head(values, heads), _kv_heads(values, heads)
    if attention == SLIDING and values.has("swa_num_key_value_heads"):  # MiMo V2
        key = values.number("swa_head_dim", head)
        value = values.number("swa_v_head_dim", values.number("v_head_dim", key))
        return values.number("swa_num_attention_heads", heads), values.number("swa_num_key_value_heads"), key, value
    if attention == FULL and values.model_type in _GEMMA4 and not values.has("per_layer_config"):
        head = values.number("global_head_dim", 512)
        return heads, values.number("num_global_key_value_heads", kv_heads) if values.flag("attention_k_eq_v") else kv_heads, head, head
    if values.has("qk_nope_head_dim"):  # compressed, but cached head by head; vLLM pads the values to the keys
        head = values.number("qk_nope_head_dim") + values.number("qk_rope_head_dim")
        return heads, kv_heads, head, head
    return heads, kv_heads, head, values.number("v_head_dim", head)


def _head(values: Config, heads: int) -> int:
    return values.number("head") or (values.number("width") // heads if heads else 0)


def _kv_heads(values: Config, heads: int) -> int:
    if values.flag("multi_query") and not values.flag("new_decoder_architecture"):  # Falcon
        return 1
    if "kv_n_heads" in values.table("attn_config"):  # DBRX
        return values.whole("attn_config", "kv_n_heads")
    return values.number("kv_heads", heads)


def _is_mla(values: Config) -> bool:
    return values.model_type in _MLA and values.has("kv_lora_rank")


def _mla(values: Config) -> Mla | None:
    if not _is_mla(values):
        return None
    rope = values.number("qk_rope_head_dim")
    return Mla(
        kv_rank=values.number("kv_lora_rank"),
        q_rank=values.number("q_lora_rank"),
        rope_length=rope,
        key_length=values.number("qk_nope_head_dim") + rope,
        value_length=values.number("v_head_dim"),
    )


def _state(values: Config) -> RecurrentState | None:
    """What the recurrent layers keep."""
    width, heads = values.number("width"), values.number("heads")
    if values.has("linear_num_value_heads"):  # Qwen3-Next and 3.5
        keys, heads = values.number("linear_num_key_heads"), values.number("linear_num_value_heads")
        key, inner = values.number("linear_key_head_dim"), heads * values.number("linear_value_head_dim")
        kernel = values.number("kernel", 4)
        return RecurrentState("delta", max(0, kernel - 1) * (inner + 2 * keys * key), inner * key, kernel, inner, key, keys, heads)
    if values.table("linear_attn_config") or values.has("linear_num_heads"):  # Kimi Linear, as it is published and as transformers writes it
        if values.has("linear_num_heads"):
            head, heads, kernel = (values.number(key) for key in ("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim"))
        else:
            head, heads, kernel = (values.whole("linear_attn_config", key) for key in ("head_dim", "num_heads", "short_conv_kernel_size"))
        inner = heads * head
        return RecurrentState("kda", 3 * max(0, kernel - 1) * inner, inner * head, kernel, inner, head, heads=heads)
    if values.has("conv_L_cache"):  # LFM2
        kernel, inner = values.number("conv_L_cache"), values.number("conv_dim", width)
        return RecurrentState("shortconv", max(0, kernel - 1) * inner, 0, kernel, inner)
    if values.has("attn_type_list") or values.model_type in ("minimax", "bailing_hybrid"):
        head = _head(values, heads)
        return RecurrentState("linear", 0, heads * head * head, state=head, heads=heads)
    return _mamba(values, width)


def _mamba(values: Config, width: int) -> RecurrentState:
    kernel, state = values.number("kernel", 4), values.required("state")
    expanded = values.number("expand", 2) * width
    is_mamba2 = values.model_type == "mamba2"
    heads = values.number("num_heads") if is_mamba2 else values.number("state_heads")
    if not heads:  # the first Mamba has a rank instead of heads, and no groups
        inner = values.number("intermediate_size", expanded) if values.model_type in _RECURRENT else expanded
        rank = values.values.get("mamba_dt_rank", values.values.get("time_step_rank"))
        rank = rank if is_whole(rank) else math.ceil(width / 16)
        return RecurrentState("mamba", max(0, kernel - 1) * inner, inner * state, kernel, inner, state, heads=rank)
    told = values.raw("head_dim" if is_mamba2 else "state_head")[1]
    head = told if is_whole(told) else expanded // heads  # some write "auto"
    inner, groups = values.number("mamba_d_ssm") or heads * head, values.number("groups", 1)
    return RecurrentState("mamba2", max(0, kernel - 1) * (inner + 2 * groups * state), inner * state, kernel, inner, state, groups, heads)


def _experts(values: Config) -> Experts | None:
    count = values.number("experts")
    if not count:
        return None
    shared = values.number("experts_shared")
    wide = values.number("shared_feed_forward") or shared * values.number("expert_feed_forward")
    return Experts(count, values.number("experts_used"), shared or int(wide > 0), wide)


def _rope(values: Config) -> Rope:
    table = values.table("rope_parameters", "rope_scaling")
    if isinstance(table.get("full_attention"), dict):  # one for each kind of layer
        table = table["full_attention"]
    original = table.get("original_max_position_embeddings", values.values.get("original_max_position_embeddings"))
    rotated = _real(values.values.get("partial_rotary_factor"), 1.0) * _head(values, values.number("heads"))
    return Rope(
        base=_real(values.values.get("rope_theta", table.get("rope_theta")), 0.0),
        length=values.number("qk_rope_head_dim") or int(rotated),
        scaling=str(table.get("rope_type") or table.get("type") or ""),
        factor=_real(table.get("factor"), 1.0),
        original_context=original if is_whole(original) and original > 0 else 0,
    )


def _real(value: t.Any, default: float) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if usable else default


def _tied(values: Config, tensors: t.Sequence[Tensor]) -> bool:
    if values.model_type in _ENCODERS:
        return False
    told = values.values.get("tie_word_embeddings")
    if isinstance(told, bool):
        return told
    return not any(tensor.name.endswith(("lm_head.weight", "embed_out.weight", "output_layer.weight")) for tensor in tensors)


def _tensors(entries: t.Sequence[Entry], bits: int, trunk: int, has_encoders: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Those of the language model, and those of encoders for images and sound."""
    own: list[Tensor] = []
    beside: list[Tensor] = []
    for entry in entries:
        is_beside = has_encoders and _PROJECTOR.match(entry.name) is not None
        found = None if is_beside else _LAYER.search(entry.name)
        layer = int(found[1]) if found else None
        if layer is not None and entry.name.startswith("mtp."):  # Qwen counts the layers that predict further tokens anew
            layer += trunk
        tensor = Tensor(entry.name, entry.type, entry.shape, parameters(entry, bits), entry.bytes, layer, entry.file)
        (beside if is_beside else own).append(tensor)
    return tuple(own), tuple(beside)


def _projector(values: Config, tensors: tuple[Tensor, ...]) -> Projector | None:
    if not tensors:
        return None
    config = values.encoders.get("vision") or next(iter(values.encoders.values()))

    def number(*keys: str) -> int:
        return next((config[key] for key in keys if is_whole(config.get(key))), 0)

    return Projector(
        type=str(config.get("model_type", "")),
        modalities=tuple(sorted(values.encoders, reverse=True)),
        tensors=tensors,
        layers=number("num_hidden_layers", "depth", "encoder_layers"),
        embedding_length=number("hidden_size", "embed_dim", "d_model"),
        feed_forward=number("intermediate_size", "encoder_ffn_dim"),
        heads=number("num_attention_heads", "num_heads", "encoder_attention_heads"),
        image_size=number("image_size"),
        patch_size=number("patch_size"),
        projection_length=number("out_hidden_size", "projection_dim"),
    )


def _undescribed(values: Config, config: dict[str, t.Any]) -> tuple[str, ...]:
    told = []
    if values.model_type in _UNDESCRIBED:
        told.append(f"{values.model_type} keeps {_UNDESCRIBED[values.model_type]} in memory, which is not told here.")
    if config.get("is_encoder_decoder") is True:
        told.append("The cache of the encoder's output is not told here.")
    return tuple(told)
