# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What vLLM 0.32 loads on each GPU of a tensor-parallel group: weights, scales, and its tables of rotary positions.

Sources: vllm/model_executor/layers/linear.py (which side of a matrix is divided), vocab_parallel_embedding.py, fused_moe,
quantization/*, rotary_embedding/*, and the models. Compared with the parameters of vLLM's own models by tests/bench/vram/vllm.py.
"""

from __future__ import annotations

import functools
import math
import re
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import FULL, Layer, ModelShape, Same, Tensor
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_settings import VllmSettings, model_bytes

_VOCABULARY = frozenset({"embed_tokens", "embed_tokens_per_layer", "lm_head", "wte", "word_embeddings", "embeddings", "embed_out", "tok_embeddings"})
_VOCABULARY_STEP = 64  # rows of a vocabulary are padded to a multiple (DEFAULT_VOCAB_PADDING_SIZE)
_KEYS_AND_VALUES = frozenset({"k_proj", "v_proj", "key", "value", "wk", "wv"})
_FUSED_ATTENTION = frozenset({"qkv_proj", "Wqkv", "c_attn", "query_key_value", "qkv", "attn_qkv"})
_COLUMNS = frozenset(  # their outputs are divided
    {"q_proj", "query", "gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "w1", "w3", "dense_h_to_4h", "q_b_proj", "kv_b_proj"}
    | {"wq", "linear_1", "in_proj", "in_proj_qkvz", "in_proj_ba", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "dt_proj"}
    | {"input_linear", "q_conv1d", "k_conv1d", "v_conv1d", "linear_fc1", "dt_bias", "D", "sinks", "A_log"}
)
_ROWS = frozenset(  # their inputs are divided, so each GPU has the whole bias
    {"o_proj", "down_proj", "out_proj", "dense", "fc2", "c_proj", "w2", "dense_4h_to_h", "wo", "x_proj", "output_linear", "linear_2", "linear_fc2"}
)
_MAMBA2_FUSED = frozenset({"in_proj", "conv1d"})
_EXPERTS = re.compile(r"\.experts\.")
_DRAFT = re.compile(r"(?:^|\.)mtp\.")
_PARAMETER = re.compile(
    r"(?:\.|_)(?:weight|bias|qweight|qzeros|scales|g_idx|blocks|weight_packed|weight_scale|weight_scale_inv|weight_shape|weight_zero_point|"
    r"weight_g_idx|weight_global_scale|input_global_scale|weight_scale_2|input_scale|k_scale|v_scale)$"
)
_SCALE = re.compile(r"(?:scales|scale|scale_inv|scale_2|global_scale|e_score_correction_bias)$")
_FLOATS = frozenset({"F32", "F16", "BF16"})
_ONLINE = {  # bytes of a weight with its scales, quantized while it is loaded
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel", "int8_per_channel_weight_only"), 1.0),
    "bitsandbytes": 1 / 2 + 4 / 64,
    "fp8_per_block": 1 + 4 / 128**2,
    "mxfp8": 1 + 1 / 32,
    "nvfp4_per_token": 1 / 2 + 1 / 16,
}
_NO_ROPE = frozenset({"bloom", "gpt2", "gpt_bigcode", "jamba", "mpt", "nemotron_h", "nemotron_h_puzzle", "opt"})
_MARLIN = (256, 128)  # what widths and experts of MXFP4 are padded to


class Weights(t.NamedTuple):
    """Bytes on one GPU."""

    model: int
    projector: int  # encoders of images and sound
    rope: int
    copies: int  # part of the model's: weights that are kept in a second form


def weights(shape: ModelShape, settings: VllmSettings) -> Weights:
    return _weights(Same(shape), settings.degree, model_bytes(settings), settings.quantization)


@functools.lru_cache(maxsize=256)
def _weights(key: Same, degree: int, dtype: int, quantization: str) -> Weights:
    shape = key.shape
    online = _online(shape, quantization)
    tensors = [tensor for tensor in shape.tensors if _is_loaded(tensor, shape)]
    own = sum(_on_rank(tensor, shape, degree, dtype, online) for tensor in tensors) + _mxfp4_padding(tensors, shape, degree)
    copies = _mla_copies(tensors, degree)
    encoder = sum(_on_rank(tensor, shape, degree, dtype, None) for tensor in shape.projector.tensors) if shape.projector else 0
    return Weights(own + copies, encoder, _rope_bytes(shape, dtype), copies)


def _online(shape: ModelShape, quantization: str) -> float | None:
    if not quantization or shape.quantization.method != "none":
        return None  # the files are quantized already, and vLLM names the kernels only
    if quantization not in _ONLINE:
        known = ", ".join(sorted(_ONLINE))
        raise InputError(f"vLLM: quantization is {quantization!r}, but the weights of {shape.name or 'the model'} are not quantized. Known here: {known}.")
    return _ONLINE[quantization]


def _is_loaded(tensor: Tensor, shape: ModelShape) -> bool:
    """Not loaded: heads that predict further tokens, an output that is the embedding once more, zero points of symmetric GPTQ."""
    if _DRAFT.search(tensor.name) or (tensor.layer is not None and tensor.layer < len(shape.layers) and shape.layers[tensor.layer].draft):
        return False
    if _module(tensor.name) == "lm_head" and (shape.tied or not shape.cached):
        return False
    return not (shape.quantization.method == "gptq" and tensor.name.endswith((".qzeros", ".g_idx")))


def _module(name: str) -> str:
    """``q_proj`` of ``model.layers.0.self_attn.q_proj.weight``."""
    return _PARAMETER.sub("", name).rpartition(".")[2]


def _on_rank(tensor: Tensor, shape: ModelShape, degree: int, dtype: int, online: float | None) -> int:
    """Bytes of one tensor on one GPU."""
    module, is_expert = _module(tensor.name), _EXPERTS.search(tensor.name) is not None
    size: float = tensor.bytes
    divided = is_expert or module in _COLUMNS | _ROWS | _KEYS_AND_VALUES | _FUSED_ATTENTION
    if tensor.type in _FLOATS and not _SCALE.search(tensor.name):
        elements = math.prod(tensor.shape)
        width: float = 4 if module == "A_log" else dtype
        if online and divided and len(tensor.shape) > 1 and tensor.layer is not None and module not in _MAMBA2_FUSED:
            width = online
        size = elements * width
    if module in _VOCABULARY and len(tensor.shape) > 1 and tensor.layer is None:
        rows = tensor.shape[0]
        return int(size * math.ceil(rows / _VOCABULARY_STEP) * _VOCABULARY_STEP / rows / degree)
    if not divided or degree == 1:
        return math.ceil(size)
    return math.ceil(size * _fraction(tensor, module, is_expert, shape, degree))


def _fraction(tensor: Tensor, module: str, is_expert: bool, shape: ModelShape, degree: int) -> float:
    """The part of a divided tensor that one GPU has."""
    if tensor.name.endswith("bias") and (module in _ROWS or "down_proj" in tensor.name):
        return 1.0
    layer = shape.layers[tensor.layer] if tensor.layer is not None and tensor.layer < len(shape.layers) else None
    if is_expert or layer is None or shape.mla:
        return 1 / degree
    if module in _KEYS_AND_VALUES and layer.kv_heads:
        return max(1, layer.kv_heads // degree) / layer.kv_heads
    if module in _FUSED_ATTENTION and layer.kv_heads:
        return _fused(layer, degree)
    state = shape.state
    if module in _MAMBA2_FUSED and layer.recurrent and state and state.kind == "mamba2" and state.groups % degree:
        rows = tensor.shape[0]
        return (rows + 2 * (degree - state.groups) * state.state) / rows / degree
    return 1 / degree


def _fused(layer: Layer, degree: int) -> float:
    """Queries are divided, keys and values only as far as there are heads."""
    kv = max(1, layer.kv_heads // degree)
    return (layer.heads // degree + 2 * kv) / (layer.heads + 2 * layer.kv_heads)


def _mxfp4_padding(tensors: t.Sequence[Tensor], shape: ModelShape, degree: int) -> int:
    """What padding adds to the experts of GPT-OSS: widths to 256, experts to 128 on each GPU, as Marlin's kernels want them.

    fused_moe/oracle/mxfp4.py, mxfp4_round_up_hidden_size_and_intermediate_size. Triton's kernels on Hopper pad less.
    """
    if shape.quantization.method != "mxfp4" or not shape.experts:
        return 0
    padded = stored = 0
    width = _rounded(shape.embedding_length, _MARLIN[0])
    for layer in shape.trunk:
        if layer.experts:
            expert = _rounded(math.ceil(layer.expert_feed_forward / degree), _MARLIN[1])
            weight = layer.experts * 3 * expert * width
            padded += weight // 2 + weight // 32 + layer.experts * (2 * expert + width) * 2
    for tensor in tensors:
        if _EXPERTS.search(tensor.name):
            stored += _on_rank(tensor, shape, degree, 2, None)
    return padded - stored


def _mla_copies(tensors: t.Sequence[Tensor], degree: int) -> int:
    """Of a quantized kv_b_proj MLA keeps the weights once more in 16 bits (mla_attention.py, process_weights_after_loading)."""
    packed = [tensor for tensor in tensors if _module(tensor.name) == "kv_b_proj" and tensor.type not in _FLOATS]
    return sum(2 * tensor.parameters for tensor in packed) // degree


def _rope_bytes(shape: ModelShape, dtype: int) -> int:
    """The table of sines and cosines, whole on every GPU: positions x rotated part of a head (rotary_embedding/base.py and its subclasses)."""
    attending = [layer for layer in shape.trunk if layer.attention]
    rope, length = shape.rope, shape.context_length
    if not attending or shape.architecture in _NO_ROPE:
        return 0
    positions: float = length
    if rope.scaling in ("yarn", "deepseek_yarn") and rope.original_context:
        positions = rope.original_context * rope.factor
    elif rope.scaling in ("longrope", "su"):
        positions = rope.original_context + length
    elif shape.architecture.startswith(("gemma3", "gemma4")):  # one for layers that see everything, another for those with a window
        positions = length * (rope.factor if rope.scaling == "linear" else 1)
        positions += length if any(layer.attention != FULL for layer in attending) else 0
    return int(positions * rope.length * (4 if shape.architecture == "gpt_oss" else dtype))


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
