# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama.cpp keeps of a conversation: keys and values per token, and recurrent state per slot.

Sources are files of llama.cpp b11434: src/llama-model.cpp (create_memory: which cache a model gets), src/llama-kv-cache.cpp,
src/llama-kv-cache-iswa.cpp (layers with a window have a shorter cache), src/llama-kv-cache-dsa.cpp (indexers), src/llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from collections import Counter

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import CHUNKED, F32, SLIDING, Layer, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama_settings import LlamaSettings, Placement, padded, row_bytes

_STEP = 256  # cells that a window's cache is rounded up to (src/llama-kv-cache-iswa.cpp)
_ALIGNMENT = 32  # of a tensor in a buffer


def cells(settings: LlamaSettings, layer: Layer) -> int:
    """Tokens that a layer keeps for one stream. With a window (src/llama-kv-cache-iswa.cpp): it, for every slot of a unified cache, and one step."""
    whole = settings.sequence
    if layer.attention not in (SLIDING, CHUNKED) or settings.swa_full:
        return whole
    return padded(min(whole, layer.window * (settings.parallel if settings.unified else 1) + ubatch(settings)), _STEP)


def ubatch(settings: LlamaSettings) -> int:
    """Tokens of one step. A causal model's batch is not longer than its cache (src/llama-context.cpp)."""
    return min(settings.ubatch, settings.batch, settings.context)


def cache(shape: ModelShape, settings: LlamaSettings, placement: Placement) -> Counter[int]:
    """Bytes of keys and values by device; HOST is main memory. Every layer's are where its weights are."""
    found: Counter[int] = Counter()
    if not shape.cached:
        return found
    widest = max((layer.cached_values for layer in shape.trunk), default=0)
    kinds: dict[Layer, int] = {}
    for layer, device in zip(shape.layers, placement.layers):
        if layer.draft or not layer.attention:
            continue
        if layer not in kinds:
            kinds[layer] = _layer_bytes(layer, settings, widest)
        found[device] += kinds[layer]
    return found


def _layer_bytes(layer: Layer, settings: LlamaSettings, widest: int) -> int:
    """Without flash attention values are kept transposed, every layer as wide as the widest (TAG_V_CACHE_VARIABLE of src/llama-kv-cache.cpp)."""
    kept = cells(settings, layer) * settings.streams
    values = layer.cached_values if settings.flash_attention or not layer.cached_values else widest
    keys = row_bytes(layer.cached_keys, settings.cache_k) + row_bytes(layer.index_key_length, settings.cache_k)
    return kept * (keys + row_bytes(values, settings.cache_v) + row_bytes(layer.index_value_length, settings.cache_v))


def state(shape: ModelShape, settings: LlamaSettings, placement: Placement) -> Counter[int]:
    """Bytes of recurrent state by device, as F32 for every slot (src/llama-memory-recurrent.cpp; llama_hparams::n_embd_r and n_embd_s)."""
    found: Counter[int] = Counter()
    if shape.state:
        parts = (shape.state.convolution, shape.state.recurrence)
        each = sum(padded(F32 * part * settings.parallel, _ALIGNMENT) for part in parts)
        for layer, device in zip(shape.layers, placement.layers):
            if layer.recurrent and not layer.draft:
                found[device] += each
    return found
