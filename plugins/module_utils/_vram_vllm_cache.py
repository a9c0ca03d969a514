# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How vLLM 0.32 divides its cache: blocks of one size, which all layers and all sequences take from one pool.

A block holds one page of each layer of a group. Layers of different kinds are in different groups, and every group takes
blocks of its own for a sequence: that is how sliding windows and recurrent states come out of the same pool as full attention.
Exact: compared with vLLM's own code and with running engines by tests/bench/vram/vllm.py.
"""

from __future__ import annotations

import functools
import math
import typing as t
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import CHUNKED, FULL, SLIDING, Layer, ModelShape, RecurrentState, Same
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_settings import VllmSettings, head_bytes, model_bytes, type_bytes

_RECURRENT = "recurrent"
_FLOAT32_STATE = frozenset(  # architectures whose recurrence stays in float32 if nothing else is said (models/config.py)
    {"nemotron_h", "nemotron_h_puzzle", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_5", "qwen3_5_moe", "qwen4_exp"}
)
_MLA_BLOCK = 128  # what the block of a hybrid with MLA is a multiple of


class Pages(t.NamedTuple):
    """What a layer keeps: pages of ``size`` bytes, each for ``block`` tokens or for one of ``states`` recurrent states."""

    kind: str  # FULL, SLIDING, CHUNKED, _RECURRENT
    window: int  # tokens
    block: int
    states: int  # that a sequence holds
    size: int
    heads: tuple[int, ...]  # layers of unlike heads are never in one group, even with pages of one size


class Pool(t.NamedTuple):
    """The pool that all sequences share."""

    block_bytes: int  # of one block in all layers of its group; 0 if nothing is cached
    sequence_blocks: int  # that one sequence of the greatest length may hold
    groups: int

    def bytes_for(self, sequences: int) -> int:
        """One block more than they hold: vLLM keeps one for itself (block_pool.py, null_block)."""
        return (sequences * self.sequence_blocks + 1) * self.block_bytes if self.sequence_blocks else 0

    def tokens_in(self, size: int, length: int) -> int:
        """What vLLM prints as its cache size: sequences of the greatest length that fit, times that length.

        kv_cache_utils.py: get_max_concurrency_for_kv_cache_config, get_kv_cache_capacity (its rounding included).
        """
        return int(size // self.block_bytes / self.sequence_blocks * length) if self.sequence_blocks else 0


def pool(shape: ModelShape, settings: VllmSettings) -> Pool:
    return _pool(Same(shape), settings)


@functools.lru_cache(maxsize=4096)
def _pool(shape: Same, settings: VllmSettings) -> Pool:
    pages = _pages(shape.shape, settings)
    if not pages:
        return Pool(0, 0, 0)
    groups = _groups(pages, settings)
    block = max(sum(page.size for page in group) for group in groups)
    return Pool(block, sum(max(_blocks(page, settings) for page in group) for group in groups), len(groups))


def _pages(shape: ModelShape, settings: VllmSettings) -> list[Pages]:
    """One entry for each layer that keeps something, and one more if it has an indexer or a state beside its keys and values."""
    if not shape.cached:
        return []
    layers = [layer for layer in shape.trunk if layer.cache_of is None]
    state = _state_bytes(shape.state, shape.architecture, settings) if shape.state else 0
    block = _block_size(shape, layers, state, settings)
    attending = [page for layer in layers if layer.attention for page in _attention(layer, block, shape, settings)]
    # The state of a hybrid is padded to the page of the attention.
    size = attending[0].size if attending else state
    states = _states(shape, settings) if attending else 1
    return attending + [Pages(_RECURRENT, 0, 0, states, size, ()) for layer in layers if layer.recurrent and state]


def _states(shape: ModelShape, settings: VllmSettings) -> int:
    """That a sequence of a hybrid holds: for the prefix cache the last one as well, and with some kinds the one at a prompt's end.

    MambaSpec.max_memory_usage_bytes; num_prefill_checkpoint_blocks in mamba_mixer2.py and kda.py.
    """
    if not settings.prefix_caching or not shape.state:
        return 1
    return 3 if shape.state.kind in ("mamba2", "kda") else 2


def _attention(layer: Layer, block: int, shape: ModelShape, settings: VllmSettings) -> list[Pages]:
    """MLA is not divided by tensor parallelism; of other heads each GPU has its part, and at least one (ModelConfig.get_num_kv_heads)."""
    heads = layer.kv_heads if shape.mla else max(1, layer.kv_heads // settings.degree)
    token = heads * head_bytes(layer.key_length, layer.value_length, settings, shape.quantization.kv_cache == "fp8")
    found = [Pages(layer.attention, layer.window, block, 0, token * block, (heads, layer.key_length, layer.value_length))]
    if layer.index_key_length:  # FP8 with a float32 scale for 128 of them (deepseek_v2.py, Indexer)
        token = layer.index_key_length + layer.index_key_length // 128 * 4
        found.append(Pages(FULL, 0, block, 0, token * block, (1, token, 0)))
    return found


def _state_bytes(state: RecurrentState, architecture: str, settings: VllmSettings) -> int:
    """Of one recurrent layer and one sequence on one GPU.

    model_executor/layers/mamba/mamba_utils.py: MambaStateShapeCalculator, MambaStateDtypeCalculator. Groups of Mamba 2 that tensor
    parallelism does not divide are repeated on every GPU.
    """
    degree = settings.degree
    convolution = state.convolution
    if state.kind == "mamba2" and state.groups % degree:
        convolution += max(0, state.kernel - 1) * 2 * (degree - state.groups) * state.state
    small = type_bytes(settings.mamba_cache_dtype, model_bytes(settings))
    float32 = state.kind == "kda" or architecture in _FLOAT32_STATE
    large = type_bytes(settings.mamba_ssm_cache_dtype, 4 if float32 else small)
    return convolution // degree * small + state.recurrence // degree * large


def _block_size(shape: ModelShape, layers: t.Sequence[Layer], state: int, settings: VllmSettings) -> int:
    """Of a hybrid so large that a page of attention holds a recurrent state (platforms/interface.py, _align_hybrid_block_size)."""
    attending = [layer for layer in layers if layer.attention]
    if not state or not attending or not any(layer.recurrent for layer in layers):
        return settings.block_size
    step = max(settings.block_size, _MLA_BLOCK) if shape.mla else settings.block_size
    token = _attention(replace(attending[0], index_key_length=0), 1, shape, settings)[0].size
    return max(settings.block_size, step * math.ceil(state / (step * token)))


def _blocks(page: Pages, settings: VllmSettings) -> int:
    """That one sequence of the greatest length may hold in one group: max_memory_usage_bytes of the specs in v1/kv_cache_interface.py."""
    if page.kind == _RECURRENT:
        return page.states
    length = settings.max_model_len
    if page.kind == SLIDING:
        return math.ceil(min(page.window - 1 + settings.tokens_in_flight, length) / page.block) + 1
    if page.kind == CHUNKED:
        length = min(page.window + settings.tokens_in_flight, length)
    return math.ceil(length / page.block)


def _groups(pages: list[Pages], settings: VllmSettings) -> list[list[Pages]]:
    """kv_cache_utils.py, get_kv_cache_groups."""
    if not settings.hybrid_cache and any(page.kind == FULL for page in pages):
        if any(page.kind == _RECURRENT for page in pages):
            raise InputError("vLLM: disable_hybrid_kv_cache_manager is set, but the model has recurrent layers beside attention. Remove it.")
        pages = [page._replace(kind=FULL, window=0) for page in pages]
    if len({(page.kind, page.window, page.size if page.kind == _RECURRENT else page.block) for page in pages}) == 1:
        return [pages]  # all need blocks for the same tokens, so they share them, however wide they are
    buckets: dict[Pages, list[Pages]] = {}
    for page in _of_one_size(pages):
        buckets.setdefault(page, []).append(page)
    counts = [len(bucket) for bucket in buckets.values()]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    groups = []
    for bucket in buckets.values():
        number = math.ceil(len(bucket) / size)
        groups += [bucket[first::number] for first in range(number)]
    return groups


def _of_one_size(pages: list[Pages]) -> list[Pages]:
    """All pages as large as the largest: by more tokens where that comes out even, by waste where not (unify_kv_cache_spec_page_size)."""
    largest = max(page.size for page in pages)

    def fitted(page: Pages) -> Pages:
        more = largest // page.size if page.kind != _RECURRENT and largest % page.size == 0 else 1
        return page._replace(block=page.block * more, size=largest)

    return [fitted(page) for page in pages]
