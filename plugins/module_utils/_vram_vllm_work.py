# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What vLLM 0.32 needs on each GPU beside weights and cache: scratch of the widest step, buffers, CUDA graphs, the CUDA context.

Less sure than weights and cache. The scratch is derived from the shapes of what is alive at a time, but the compiler decides what really is.
Graphs, context and NCCL follow no formula that is known from outside: they are numbers that fit logs which others published, and each says which.
"""

from __future__ import annotations

import math

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import Layer, ModelShape, Projector, RecurrentState
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_settings import VllmSettings, model_bytes

_CONTEXT = 500 * MIB  # CUDA context, loaded kernels and cuBLAS: 250 to 350 MiB on consumer cards, up to 600 on an H100
_ALLOCATOR = 64 * MIB  # what PyTorch's allocator holds beyond what is allocated, cuBLAS' workspace (32 MiB on Hopper)
_NCCL = 320 * MIB  # and buffers of custom all-reduce (16 MiB): logs of two to four GPUs without NVLink show 200 to 330 MiB more than those of one
_GRAPH_OF_PIECE = MIB // 4  # one captured piece of a layer at one batch size; logs of 28 to 36 layers at 51 and 67 sizes: 0.44 to 0.54 GiB
_GRAPH_WHOLE = 8 * MIB  # one whole decoding step; logs at 35 sizes: 0.21 to 0.29 GiB
_GRAPH_RECURRENT = 24 * MIB  # the same with recurrent layers (github.com/vllm-project/vllm/issues/50780; a hybrid of 40 layers: 1.6 GiB altogether)
_WIDEST_GRAPH = 512  # tokens (config/vllm.py, _set_cudagraph_sizes); 1024 for GPT-OSS and on Blackwell data-centre GPUs
_IMAGE_PATCHES = 16  # patches that become one token of the language model, at the most (Gemma 3)
_HOST = (2 << 30, 3 << 30)  # of the API server and of each worker: PyTorch, CUDA's libraries, pinned buffers
_HOST_CPU = 3 << 30  # of all processes of vLLM for processors together


def compute_bytes(shape: ModelShape, settings: VllmSettings) -> int:
    """The widest moment of a step: in a layer with max_num_batched_tokens, or at the end with logits for max_num_seqs."""
    return max(_in_layers(shape, settings), _at_the_end(shape, settings))


def _in_layers(shape: ModelShape, settings: VllmSettings) -> int:
    """The hidden states with their residual and the input of the layer, and the widest layer's attention or feed-forward network."""
    hidden = 3 * shape.embedding_length
    widest = max((max(_attention(layer, settings), _feed_forward(layer, shape, settings)) for layer in shape.trunk), default=0)
    states = _recurrence(shape.state, settings) if shape.state else 0
    return math.ceil(settings.max_num_batched_tokens * (hidden + max(widest, states)) * model_bytes(settings))


def _attention(layer: Layer, settings: VllmSettings) -> float:
    """Elements for a token: queries, keys, values, and the output."""
    heads = layer.heads * (layer.key_length + (layer.value_length or layer.key_length))
    return (heads + layer.kv_heads * (layer.key_length + layer.value_length)) / settings.degree


def _feed_forward(layer: Layer, shape: ModelShape, settings: VllmSettings) -> float:
    """Elements for a token: gate and up together, and their product; of experts two workspaces (fused_moe/experts/triton_moe.py, workspace_shapes)."""
    dense = 3 * layer.feed_forward / settings.degree
    expert = layer.expert_feed_forward / settings.degree
    width = shape.embedding_length
    routed = layer.experts_used * (max(expert, width) + max(2 * expert, width)) + width if layer.experts else 0
    return max(dense, routed)


def _recurrence(state: RecurrentState, settings: VllmSettings) -> float:
    """Elements for a token: its projections, and a float32 state for every chunk of tokens (mamba/ops/ssd_combined.py: 256; fla/ops: 64)."""
    chunk = 64 if state.kind in ("delta", "kda") else 256
    return (4 * state.inner + 2 * state.recurrence / chunk) / settings.degree


def _at_the_end(shape: ModelShape, settings: VllmSettings) -> int:
    """Logits in 16 bits, once more in float32, their probabilities and random numbers for them.

    v1/sample/sampler.py and ops/topk_topp_sampler.py; the newer v1/worker/gpu/sample/sampler.py, which most models get, keeps less.
    """
    if not shape.cached:
        return 0
    sequences = min(settings.max_num_seqs, settings.max_num_batched_tokens)
    hidden = 3 * settings.max_num_batched_tokens * shape.embedding_length * model_bytes(settings)
    return hidden + sequences * shape.vocabulary * (model_bytes(settings) + 3 * 4)


def encoder_bytes(projector: Projector, settings: VllmSettings) -> int:
    """Scratch of the encoder of images for as many as one step may bring. A rough upper bound: how many patches an image has, the model decides."""
    images = (projector.image_size // projector.patch_size) ** 2 if projector.patch_size else 0
    patches = max(images, _IMAGE_PATCHES * settings.max_num_batched_tokens)
    return patches * (projector.feed_forward + 4 * projector.embedding_length) * model_bytes(settings)


def overhead_bytes(shape: ModelShape, settings: VllmSettings, groups: int) -> int:
    """Of the process on one GPU. ``groups`` are those of the cache."""
    nccl = _NCCL if settings.tensor_parallel * settings.hosts > 1 else 0
    return _CONTEXT + _ALLOCATOR + nccl + _buffers(shape, settings, groups) + _graphs(shape, settings)


def _buffers(shape: ModelShape, settings: VllmSettings, groups: int) -> int:
    """For all sequences: counts of their tokens for penalties, bit masks of allowed tokens, and tables of their blocks, twice.

    v1/worker/gpu/sample/penalties.py, structured_outputs.py, block_table.py.
    """
    if not shape.cached:
        return 0
    tokens = shape.vocabulary * 4 + 2 * math.ceil(shape.vocabulary / 32) * 4
    blocks = groups * math.ceil(settings.max_model_len / settings.block_size) * 4 * 2
    return settings.max_num_seqs * (tokens + blocks)


def _graphs(shape: ModelShape, settings: VllmSettings) -> int:
    """CUDA graphs: in pieces between the attentions for every batch size, and whole for those of decoding alone."""
    if settings.enforce_eager:
        return 0
    widest = 1024 if shape.architecture == "gpt_oss" else min(2 * settings.max_num_seqs, _WIDEST_GRAPH)
    sizes = graph_sizes(min(widest, settings.max_num_batched_tokens))
    whole = sum(size <= settings.max_num_seqs for size in sizes) if shape.cached else 0
    return len(sizes) * (len(shape.trunk) + 1) * _GRAPH_OF_PIECE + whole * (_GRAPH_RECURRENT if shape.state else _GRAPH_WHOLE)


def graph_sizes(widest: int) -> list[int]:
    """Of the batches that are captured (config/vllm.py, _set_cudagraph_sizes)."""
    return [size for size in (1, 2, 4, *range(8, 256, 8), *range(256, widest + 1, 16)) if size <= widest]


def host_bytes(settings: VllmSettings) -> int:
    """Main memory of the processes. A rule of thumb: it follows the libraries, not the model."""
    return _HOST_CPU if settings.cpu else _HOST[0] + settings.tensor_parallel * _HOST[1]
