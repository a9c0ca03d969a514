# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the weights of safetensors are quantized: what the many tools write, in a few words, and what a packed tensor holds."""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import Missing, Quantization
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import Files
from ansible_collections.baremetal.llm.plugins.module_utils._safetensors import Entry, is_whole, json_object

MODELOPT = "hf_quant_config.json"  # where NVIDIA's ModelOpt describes its work, in older models only there
_SCALES = re.compile(
    r"(?:^|[._])(?:scales|qzeros|g_idx|(?:weight|input|output|k|v|q|prob)_scale\w*|weight_global_scale|input_global_scale|SCB|"
    r"weight_zero_point|weight_shape|weight_g_idx|weight_format|absmax|nested_absmax|quant_map|nested_quant_map|quant_state\b.*)$"
)


def parameters(entry: Entry, bits: int) -> int:
    """How many weights of so many bits a tensor stands for: several are packed into one number, and scales are none."""
    elements = math.prod(entry.shape)
    if _SCALES.search(entry.name):
        return 0
    if entry.type == "I32" and 0 < bits < 32 and entry.name.endswith(("qweight", "weight_packed")):  # AWQ, GPTQ, compressed-tensors
        return elements * 32 // bits
    if entry.type == "U8" and bits == 4:  # MXFP4, NVFP4, bitsandbytes
        return 2 * elements
    return elements


def quantization_of(config: dict[str, t.Any], entries: t.Sequence[Entry], files: Files) -> Quantization:
    """What a configuration says, or the file beside it if the tensors look like ModelOpt's."""
    told = _told(config)
    if not told and any(entry.type in ("U8", "F8_E4M3") for entry in entries):
        told = _modelopt_file(files)
    method = str(told.get("quant_method") or "unknown").lower().replace("compressed_tensors", "compressed-tensors")
    if not told:
        return Quantization("none")
    return _SCHEMES.get(method, _packed)(method, told)


def _told(config: dict[str, t.Any]) -> dict[str, t.Any]:
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(place.get(key), dict):
                return t.cast("dict[str, t.Any]", place[key])
    return {}


def _modelopt_file(files: Files) -> dict[str, t.Any]:
    try:
        told = json_object(files.document(MODELOPT), MODELOPT)
    except Missing:
        return {}
    return {"quant_method": "modelopt", **told}


def _packed(method: str, told: dict[str, t.Any]) -> Quantization:
    """AWQ, GPTQ, and others that tell as much."""
    bits = _number(told, "bits", "w_bit")
    return Quantization(method, f"w{bits}" if bits else "", bits, _number(told, "group_size", "q_group_size"))


def _fp8(method: str, told: dict[str, t.Any]) -> Quantization:
    block = told.get("weight_block_size")
    group = block[-1] if isinstance(block, list) and block and is_whole(block[-1]) else 0
    return Quantization(method, "fp8-block" if group else "fp8", 8, group)


def _mxfp4(method: str, _told: dict[str, t.Any]) -> Quantization:
    return Quantization(method, method, 4, 32)


def _bitsandbytes(method: str, told: dict[str, t.Any]) -> Quantization:
    if told.get("load_in_4bit") is True:
        return Quantization(method, str(told.get("bnb_4bit_quant_type") or "fp4"), 4)
    return Quantization(method, "int8", 8)


def _compressed_tensors(method: str, told: dict[str, t.Any]) -> Quantization:
    groups = told.get("config_groups")
    found = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    weights = [group["weights"] for group in found if isinstance(group.get("weights"), dict)]
    inputs = [group["input_activations"] for group in found if isinstance(group.get("input_activations"), dict)]
    widths = {_number(scheme, "num_bits") for scheme in weights}
    bits = widths.pop() if len(widths) == 1 else 0
    kind = "fp" if weights and weights[0].get("type") == "float" else "w"
    name = f"{kind}{bits}a{_number(inputs[0], 'num_bits') if inputs else 16}" if bits else ""
    cache = told.get("kv_cache_scheme")
    is_fp8 = isinstance(cache, dict) and cache.get("type") == "float" and cache.get("num_bits") == 8
    return Quantization(method, name, bits, _number(weights[0], "group_size") if weights else 0, "fp8" if is_fp8 else "")


def _modelopt(_method: str, told: dict[str, t.Any]) -> Quantization:
    inner = told.get("quantization")
    scheme = inner if isinstance(inner, dict) else told
    algorithm = str(scheme.get("quant_algo") or "").lower()
    bits = 8 if algorithm.startswith("fp8") else 4 if "fp4" in algorithm or "w4" in algorithm else 0
    group = _number(scheme, "group_size") or (16 if algorithm == "nvfp4" else 0)
    cache = "fp8" if "fp8" in str(scheme.get("kv_cache_quant_algo") or "").lower() else ""
    return Quantization("modelopt", algorithm, bits, group, cache)


def _number(table: dict[str, t.Any], *keys: str) -> int:
    return next((table[key] for key in keys if is_whole(table.get(key)) and 0 < table[key] < 2**31), 0)


_SCHEMES: dict[str, t.Callable[[str, dict[str, t.Any]], Quantization]] = {
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "mxfp4": _mxfp4,
}
