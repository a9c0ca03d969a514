# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# mypy: ignore-errors
"""Asks vLLM itself. Runs in an environment of vLLM for CPUs, not in this project's own; see vllm.py.

Reads questions from standard input as JSON, a list of {"name", "config", "cases": [settings of VllmSettings, "bytes"]}, builds each model
without memory (PyTorch's meta device) as one GPU of a tensor-parallel group would, and lets vLLM's own code divide the cache. Where the CPU
build decides otherwise than vLLM does on a GPU, it is told to decide as there: see _as_on_a_gpu. The names and shapes of a model's tensors
are those that transformers gives them.
"""

import json
import os
import pathlib
import re
import sys
import tempfile
import traceback

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}

import torch
import transformers
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.fused_moe.oracle.mxfp4 import Mxfp4MoeBackend
from vllm.model_executor.layers.quantization import mxfp4
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.attention.backend import MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.core import kv_cache_utils
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

LAYOUT = "LBNHC"  # what attention on NVIDIA GPUs prefers


def _as_on_a_gpu():
    """Blocks of 16 tokens as FlashAttention has them, the state of recurrent layers in the model's own type, kernels for FP8 and MXFP4."""
    torch.cpu._is_avx512_bf16_supported = lambda: False  # with it the CPU keeps states in float32
    CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(lambda kv_cache_spec=None: [MultipleOf(16)])
    mxfp4.select_mxfp4_moe_backend = lambda moe: (Mxfp4MoeBackend.MARLIN, None)
    torch.cpu._is_amx_tile_supported = lambda: True  # FP8


def _engine(config, case):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="vllm-oracle-"))
    (directory / "config.json").write_text(json.dumps(config))
    arguments = EngineArgs(
        model=str(directory),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=case["max_model_len"],
        max_num_seqs=case.get("max_num_seqs", 256),
        max_num_batched_tokens=case.get("max_num_batched_tokens", 2048),
        kv_cache_dtype=case.get("kv_cache_dtype", "auto"),
        block_size=case.get("block_size", 16),
        enable_prefix_caching=case.get("prefix_caching"),
        disable_hybrid_kv_cache_manager=not case.get("hybrid_cache", True),
        kv_cache_memory_bytes=2**30,
    )
    engine = arguments.create_engine_config()
    engine.parallel_config.tensor_parallel_size = case.get("tensor_parallel", 1)
    engine.scheduler_config.async_scheduling = case.get("async_scheduling", True)
    return engine


def _build(engine):
    if parallel_state._TP is None:
        parallel_state.init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/store", 0, "gloo")
        parallel_state.initialize_model_parallel(1)
        parallel_state._EP = parallel_state._EP or parallel_state._TP
    parallel_state._TP.world_size = engine.parallel_config.tensor_parallel_size  # this process is the first of so many
    rotary_embedding._ROPE_DICT.clear()
    with torch.device("meta"), set_default_torch_dtype(engine.model_config.dtype):
        return initialize_model(engine)


def _tensors(config):
    """[name with {} for the number of the layer, shape, numbers of the layers] of an unquantized model."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(plain))
    saved = model.state_dict()
    found = {}
    for name, tensor in [*model.named_parameters(), *((name, buffer) for name, buffer in model.named_buffers() if name in saved)]:
        number = re.search(r"\.(\d+)\.", name)
        pattern = name[: number.start(1)] + "{}" + name[number.end(1) :] if number else name
        # Layers of one model may differ in the shape of what has one name.
        entry = found.setdefault((pattern, tuple(tensor.shape)), [])
        if number:
            entry.append(int(number[1]))
    return [[pattern, list(shape), layers] for (pattern, shape), layers in found.items()]


def _size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _answer(config, case):
    engine = _engine(config, case)
    with set_current_vllm_config(engine):
        model = _build(engine)
        answer = {"parameters": _size(model.parameters()), "buffers": _size(model.buffers())}
        current_platform.update_block_size_for_backend(engine)
        specs = get_kv_cache_spec(engine)
        engine.cache_config.kv_cache_layout = LAYOUT
        groups = kv_cache_utils.get_kv_cache_groups(engine, dict(specs))
        needed = kv_cache_utils._max_memory_usage_bytes_from_groups(engine, groups)
        block = kv_cache_utils._pool_bytes_per_block(engine, groups) if groups else 0
        answer |= {"layers": len(specs), "groups": len(groups), "block_bytes": block, "sequence_blocks": needed // block if block else 0}
        answer["tokens"] = []
        for size in case["bytes"] if block else ():
            cache = kv_cache_utils.get_kv_cache_config_from_groups(engine, groups, size)
            answer["tokens"].append(kv_cache_utils.get_kv_cache_capacity(engine, cache)[0])
        return answer


def main():
    _as_on_a_gpu()
    asked = []
    questions = json.load(sys.stdin)
    tensors = [_tensors(question["config"]) for question in questions]  # first: vLLM changes transformers' models while it makes its own
    for question, found in zip(questions, tensors):
        answers = []
        for case in question["cases"]:
            try:
                answers.append({"case": case, **_answer(question["config"], case)})
            except Exception as exc:  # one model that this build cannot make must not cost the others
                traceback.print_exc()
                answers.append({"case": case, "error": f"{type(exc).__name__}: {str(exc)[:300]}"})
        asked.append({"name": question["name"], "tensors": found, "answers": answers})
        print(question["name"], answers, file=sys.stderr, flush=True)
    json.dump(asked, sys.stdout)


if __name__ == "__main__":
    main()
