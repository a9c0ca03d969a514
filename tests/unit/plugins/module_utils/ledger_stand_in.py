# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for the estimates of llama.cpp and vLLM: so simple that the ledger's sums can be checked in one's head. Not what engines take.

A token costs 1/16 MiB of cache in every model (16,384 tokens: 1 GiB), half of that in q8_0 and a quarter in q4_0; a process takes 500 MiB on every
GPU and 100 MiB of main memory (with llama.cpp), or 1 GiB on every GPU and 1 GiB of main memory (with vLLM).
"""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _ledger_answer, _ledger_auto, _ledger_place, _ledger_run, _vram_fit
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import LLAMA, VLLM, Budget, Demand, Device, Machine, Plan, Policy, plan
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import (
    FULL,
    GGUF,
    SAFETENSORS,
    Experts,
    Layer,
    ModelShape,
    Quantization,
    Tensor,
)
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB, MemoryEstimate, Usage
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings

TOKEN = MIB // 16
FACTORS = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "auto": 2.0, "q8_0": 1.0, "fp8": 1.0, "q4_0": 0.5}
NOTHING = Policy(margin=0, ram_reserved=0, ram_margin=0)


def shape(gibibytes: float, layers: int = 32, trained: int = 131072, experts: bool = False, *, heads: int = 32) -> ModelShape:
    """Equal layers; of a mixture of experts 7/8 of each layer are its experts."""
    size = int(gibibytes * GIB) // layers
    parts = [("ffn_up_exps", size // 8 * 7), ("attn_q", size - size // 8 * 7)] if experts else [("attn_q", size)]
    tensors = [Tensor(f"blk.{number}.{part}", "Q8_0", (1,), 1, length, number, "file") for number in range(layers) for part, length in parts]
    layer = Layer(FULL, heads=heads, kv_heads=8, key_length=128, value_length=128, experts=64 if experts else 0)
    return ModelShape(
        format=GGUF,
        architecture="simple",
        name="simple",
        context_length=trained,
        embedding_length=4096,
        vocabulary=32000,
        layers=(layer,) * layers,
        tensors=tuple(tensors),
        files=(),
        quantization=Quantization("gguf"),
        experts=Experts(64, 8) if experts else None,
    )


def gpu(index: int = 0, gibibytes: float = 24, **more: t.Any) -> Device:
    return Device(index, "board", int(gibibytes * GIB), compute_capability="8.9", **more)


def machine(*gpus: Device, ram: float = 64, **more: t.Any) -> Machine:
    return Machine("gpu01", gpus, int(ram * GIB), **more)


def demand(model: str, what: ModelShape, service: str = "llama-router", **options: t.Any) -> Demand:
    return Demand(model, LLAMA, service, what, options)


def vllm(model: str, what: ModelShape, **options: t.Any) -> Demand:
    return Demand(model, VLLM, f"vllm-{model}", replace(what, format=SAFETENSORS), options)


def planned(
    here: Machine, *demands: Demand, models_max: dict[str, int] | None = None, budgets: t.Sequence[Budget] = (), policy: Policy = NOTHING
) -> Plan:
    return plan(here, demands, models_max or {}, budgets, policy)


def free(found: Plan) -> dict[str, float]:
    """GiB by place."""
    return {account.place: account.free / GIB for account in found.accounts}


def replace_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the ledger asks for an estimate, it gets one of these."""
    stand_ins = {
        "llama_memory": llama_memory,
        "vllm_memory": vllm_memory,
        "vllm_cache_bytes": vllm_cache_bytes,
        "vllm_cache_tokens": vllm_cache_tokens,
        "tensor_parallel_reason": tensor_parallel_reason,
    }
    for module in (_vram_fit, _ledger_run, _ledger_auto, _ledger_answer, _ledger_place):
        for name, function in stand_ins.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)


def llama_memory(what: ModelShape, settings: LlamaSettings) -> MemoryEstimate:
    if settings.cache_v.startswith("q") and not settings.flash_attention:
        raise InputError("a quantised V cache needs flash attention")
    layers = len(what.layers)
    on_gpu = min(layers, layers if settings.gpu_layers is None else settings.gpu_layers) if settings.split else 0
    first, whole, reached = layers - on_gpu, sum(settings.split), 0.0
    devices, host = [], Usage(overhead=100 * MIB, prompts=settings.cache_ram * MIB)
    for part in settings.split:
        begin, reached = reached, reached + part
        mine = range(first + round(on_gpu * begin / whole), first + round(on_gpu * reached / whole))
        usage, kept = _layers(what, settings, mine)
        devices.append(usage + Usage(compute=100 * MIB, overhead=400 * MIB))
        host += kept
    usage, kept = _layers(what, settings, range(first))
    return MemoryEstimate(tuple(devices), host + usage + kept)


def _layers(what: ModelShape, settings: LlamaSettings, layers: range) -> tuple[Usage, Usage]:
    """What these layers take where they are, and what of them stays in main memory."""
    moved = {number for number in layers if number < settings.cpu_moe}
    mine = [tensor for tensor in what.tensors if tensor.layer in layers]
    experts = sum(tensor.bytes for tensor in mine if tensor.layer in moved and "exps" in tensor.name)
    cache = int(settings.context * TOKEN * (FACTORS[settings.cache_k] + FACTORS[settings.cache_v]) / 4) * len(layers) // len(what.layers)
    return Usage(weights=sum(tensor.bytes for tensor in mine) - experts, cache=cache), Usage(weights=experts)


def vllm_cache_bytes(what: ModelShape, settings: VllmSettings, sequences: int = 1) -> int:
    return int(settings.max_model_len * sequences * TOKEN * FACTORS[settings.kv_cache_dtype] / 2) // settings.tensor_parallel


def vllm_cache_tokens(what: ModelShape, settings: VllmSettings, size: int) -> int:
    return int(size * settings.tensor_parallel * 2 / FACTORS[settings.kv_cache_dtype]) // TOKEN


def vllm_memory(what: ModelShape, settings: VllmSettings) -> MemoryEstimate:
    cache = vllm_cache_bytes(what, settings) if settings.kv_cache_bytes is None else settings.kv_cache_bytes
    each = Usage(weights=what.bytes // settings.tensor_parallel, cache=cache, overhead=GIB)
    if settings.cpu:
        return MemoryEstimate((), each)
    return MemoryEstimate((each,) * settings.tensor_parallel, Usage(overhead=GIB))


def tensor_parallel_reason(what: ModelShape, degree: int) -> str:
    heads = what.layers[0].heads
    return f"its {heads} heads are no multiple of {degree}" if heads % degree else ""
