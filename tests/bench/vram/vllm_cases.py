# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the memory of vLLM is measured with: published shapes for its own code, small ones of every kind of attention for real engines."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.baremetal.llm.tests.unit.fixtures.models import safetensors as st

Config = dict[str, t.Any]
Tensors = t.Sequence[tuple[str, t.Sequence[int], t.Sequence[int]]]  # name with {} for the layer, shape, layers
SIZES = (2**30, 2**33, 10**10)  # bytes of cache per GPU
_SHORT = {"gemma-2-9b-it": 8192, "nemotron-h-8b": 8192, "phi-3-mini-4k": 4096}
_TWO_GPUS: Config = {"tensor_parallel": 2, "max_num_batched_tokens": 8192, "prefix_caching": False}
_FOUR_GPUS: Config = {"tensor_parallel": 4, "kv_cache_dtype": "fp8", "block_size": 64, "async_scheduling": False}


def models() -> list[str]:
    """All but the encoder: vLLM cannot make it from a configuration without what describes no shape, and it caches nothing."""
    return sorted(path.stem for path in st.CONFIGS.glob("*.json") if path.stem != "nomic-embed-text-v1.5")


def questions(names: t.Iterable[str]) -> list[Config]:
    """Each model on one, two and four GPUs, with other settings on each."""
    asked = []
    for name in names:
        longest = _SHORT.get(name, 32768)
        cases = [{"max_model_len": min(8192, longest)}, {"max_model_len": longest, **_TWO_GPUS}, {"max_model_len": min(4000, longest), **_FOUR_GPUS}]
        asked.append({"name": name, "config": st.config(name), "cases": [{**case, "bytes": list(SIZES)} for case in cases]})
    return asked


def files(config: Config, tensors: Tensors) -> st.Tensors:
    """The tensors as the published files have them: quantized where the configuration says so."""
    whole: st.Tensors = {}
    for pattern, shape, layers in tensors:
        whole |= {pattern.format(layer): ("BF16", tuple(shape)) for layer in (layers or [0])}
    method = config.get("quantization_config", {}).get("quant_method", "")
    return {"awq": st.awq, "fp8": _fp8, "mxfp4": _mxfp4}.get(method, dict)(whole)


def _fp8(tensors: st.Tensors) -> st.Tensors:
    """Every projection in FP8 with a scale for a block of 128 x 128, as DeepSeek publishes them."""
    packed: st.Tensors = {}
    for name, (kind, shape) in tensors.items():
        if "_proj" not in name or len(shape) < 2:
            packed[name] = (kind, shape)
            continue
        packed[name] = ("F8_E4M3", shape)
        packed[f"{name.removesuffix('.weight')}.weight_scale_inv"] = ("F32", (*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128)))
    return packed


def _mxfp4(tensors: st.Tensors) -> st.Tensors:
    """Experts in blocks of 32 weights with a scale, as GPT-OSS is published."""
    packed: st.Tensors = {}
    for name, (kind, shape) in tensors.items():
        if ".experts." not in name or len(shape) < 3:
            packed[name] = (kind, shape)
            continue
        experts, columns, rows = shape
        packed |= {f"{name}_blocks": ("U8", (experts, rows, columns // 32, 16)), f"{name}_scales": ("U8", (experts, rows, columns // 32))}
    return packed


_SMALL: Config = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
_HEADS: Config = {"num_key_value_heads": 2, "head_dim": 64}
_EXPERTS: Config = {"num_experts_per_tok": 2, "moe_intermediate_size": 128}


def small() -> dict[str, Config]:
    """Models of a few MB, one for each way to cache that a CPU build can run."""
    hybrid = {"num_hidden_layers": 5, "layer_types": ["mamba", "mamba", "attention", "mamba", "mamba"], "mamba_n_heads": 16, "mamba_d_head": 32}
    delta = {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64}
    mixed = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    mla = {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 0, "num_key_value_heads": 8}
    return {
        "full": _small("llama-3.1-8b", **_HEADS),
        "sliding": _small("mistral-7b-v0.1", **_HEADS, sliding_window=512),
        "full and sliding": _small("gemma-2-9b-it", **_HEADS, sliding_window=256, query_pre_attn_scalar=64),
        "full and sliding with sinks": _small("gpt-oss-20b", **_HEADS, **mixed, num_local_experts=4, num_experts_per_tok=2),
        "full and five times sliding": _text("gemma-3-12b-it", "Gemma3ForCausalLM", num_hidden_layers=7, sliding_window=256, query_pre_attn_scalar=64),
        "full and chunked": _text("llama-4-scout", "Llama4ForCausalLM", attention_chunk_size=512, num_local_experts=4, max_position_embeddings=16384),
        "experts": _small("qwen3-30b-a3b", **_HEADS, **_EXPERTS, num_experts=4),
        "MLA": _small("deepseek-v3", **_EXPERTS, **mla),
        "Mamba 2 hybrid": _small("granite-4.0-h-tiny", **hybrid, num_key_value_heads=4, num_local_experts=4, num_experts_per_tok=2),
        "gated delta net hybrid": _small("qwen3-next-80b-a3b", **_HEADS, **_EXPERTS, **delta, num_experts=4, shared_expert_intermediate_size=128),
    }


def _small(name: str, **changes: t.Any) -> Config:
    config = copy.deepcopy(st.config(name))
    config.pop("quantization_config", None)
    return {**config, **_SMALL, **changes}


def _text(name: str, architecture: str, **changes: t.Any) -> Config:
    """The language model of one that sees images."""
    return {**st.config(name)["text_config"], **_SMALL, **_HEADS, "architectures": [architecture], "dtype": "bfloat16", **changes}


class Published(t.NamedTuple):
    """What somebody's log says after loading: ``Model loading took N GiB``."""

    model: str
    gpus: int
    gib: float
    source: str
    context: int = 0  # of a model that is alike but for this


PUBLISHED = (
    Published("llama-3.1-8b", 1, 14.9889, "github.com/vllm-project/vllm/pull/17122"),
    Published("llama-3.1-8b", 1, 14.96, "github.com/vllm-project/vllm/pull/10511", 8192),
    Published("llama-3.1-8b", 2, 7.48, "github.com/vllm-project/vllm/pull/10511", 8192),
    Published("qwen3-30b-a3b", 4, 14.2474, "github.com/vllm-project/vllm/issues/17469"),
    Published("gpt-oss-20b", 1, 13.72, "myoceane.fr/index.php/ai-vllm-a100-gemma-4"),
)
