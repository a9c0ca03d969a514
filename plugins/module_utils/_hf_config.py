# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""``config.json`` of a model: the same things under the names that each family has for them."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError
from ansible_collections.baremetal.llm.plugins.module_utils._safetensors import is_whole

CONFIG = "config.json"
_LISTS = ("feed_forward", "expert_feed_forward", "experts", "experts_used")  # some tell them for each layer: the largest counts
_BIGGEST = 2**31 - 1  # of any number that describes a shape

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"),
    "head": ("head_dim", "hidden_size_per_head", "kv_channels", "attention_head_dim"),
    "feed_forward": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "context": (
        *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
        *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
    ),
    "window": ("sliding_window", "sliding_window_size"),
    "experts": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "experts_used": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k"),
    "expert_feed_forward": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "experts_shared": ("n_shared_experts", "num_shared_experts"),
    "shared_feed_forward": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"),
    "kernel": ("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel", "conv_kernel_size", "d_conv"),
    "state": ("mamba_d_state", "ssm_state_size", "state_size"),
    "state_heads": ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"),
    "state_head": ("mamba_d_head", "mamba_head_dim", "mamba_headdim"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "n_groups"),
    "expand": ("mamba_expand", "expand"),
}

# A language model inside of another is saved without what its class has by default (to_diff_dict of transformers).
_LLAMA = {
    **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False},
}
_MISTRAL = {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_QWEN = {**_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768}
_GEMMA = {
    **{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8},
    **{"num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
}
_NESTED_DEFAULTS: dict[str, dict[str, t.Any]] = {
    "gemma": {**_GEMMA, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16},
    "gemma2": {**_GEMMA, "sliding_window": 4096},
    "gemma3_text": {**_GEMMA, "vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window": 4096},
    "llama": _LLAMA,
    "mistral": {**_MISTRAL, "sliding_window": 4096},
    "mixtral": {**_MISTRAL, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
}


class Config:
    """The part of a configuration that describes the language model, by names that do not differ by family.

    ``encoders`` are the parts for images (vision) and sound (audio). What is required and not there is collected,
    to be told all at once.
    """

    def __init__(self, config: dict[str, t.Any]) -> None:
        if isinstance(config.get("thinker_config"), dict):  # Qwen-Omni
            config = config["thinker_config"]
        inner = [config[key] for key in ("text_config", "llm_config", "language_config") if isinstance(config.get(key), dict)]
        own = inner[0] if inner else config
        kind = str(own.get("model_type") or config.get("model_type") or "")
        if not kind:
            raise MetadataError(f"{CONFIG} has no model_type, so no engine can load the model.")
        self.model_type = kind
        self.values: dict[str, t.Any] = {**(_NESTED_DEFAULTS.get(kind, {}) if inner else {}), **own}
        if inner and "tie_word_embeddings" in config:
            self.values.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
        self.dtype = str(own.get("dtype") or own.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "")
        self.encoders = {
            kind: config[key]
            for kind, keys in (("vision", ("vision_config", "vision_tower_config")), ("audio", ("audio_config", "speech_config")))
            for key in keys
            if isinstance(config.get(key), dict)
        }
        self._missing: list[str] = []

    def error(self, key: str, value: object) -> MetadataError:
        return MetadataError(f"{CONFIG}: {key} is {value!r}, which describes no {self.model_type} model.")

    def refuse_missing(self) -> None:
        if self._missing:
            names = ", ".join(dict.fromkeys(self._missing))
            raise MetadataError(f"{CONFIG} has the model_type {self.model_type!r}, but does not describe it. Missing: {names}.")

    def raw(self, name: str) -> tuple[str, t.Any]:
        """The key that is there for a name of ours (or for a key itself), and its value; None if there is none."""
        keys = _NAMES.get(name, (name,))
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return keys[0], None

    def has(self, name: str) -> bool:
        return self.raw(name)[1] is not None

    def number(self, name: str, default: int = 0) -> int:
        """A whole number by our name for it, or by its key. Raises MetadataError if it is something else."""
        key, value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, list) and value and name in _LISTS:
            value = max((one for one in value if isinstance(one, int)), default=None)
        if isinstance(value, float) and value.is_integer():  # expand: 2.0
            value = int(value)
        if not is_whole(value) or not 0 <= value <= _BIGGEST:
            raise self.error(key, value)
        return value

    def required(self, name: str) -> int:
        key, value = self.raw(name)
        if value is None:
            self._missing.append(key)
        return self.number(name)

    def flag(self, key: str) -> bool:
        return self.values.get(key) is True

    def names(self, *keys: str) -> list[str]:
        """A list of words, such as the kinds of layers."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                return value
        return []

    def numbers(self, key: str) -> list[int]:
        value = self.values.get(key)
        return value if isinstance(value, list) and all(is_whole(one) for one in value) else []

    def table(self, *keys: str) -> dict[str, t.Any]:
        for key in keys:
            if isinstance(self.values.get(key), dict):
                return t.cast("dict[str, t.Any]", self.values[key])
        return {}

    def of_layer(self, number: int) -> Config:
        """The same with what is different in one layer (transformers 5: per_layer_config, keys such as 05)."""
        own = [told for key, told in self.table("per_layer_config").items() if key.isdecimal() and int(key) == number]
        if not own or not isinstance(own[0], dict):
            return self
        one = copy.copy(self)
        one.values = {**self.values, **own[0]}
        return one

    def whole(self, table: str, key: str) -> int:
        """A number inside of a table, such as linear_attn_config.head_dim."""
        value = self.table(table).get(key)
        if not is_whole(value) or not 0 <= value <= _BIGGEST:
            raise self.error(f"{table}.{key}", value)
        return value

    def lengths(self) -> list[int]:
        """All the lengths of a context that are told."""
        return [length for length in map(self.number, _NAMES["context"]) if length]
