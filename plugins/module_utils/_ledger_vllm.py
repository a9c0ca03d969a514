# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue's words for a model of vLLM, and the settings that its memory is estimated from."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Options, Wish, beyond_training, ladder
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import Demand, Device, Machine
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import PLUGINS
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm_stage import largest_stage

MOST_REQUESTS = 256  # vLLM's default on most boards (--max-num-seqs)
MOST_REQUESTS_CPU = 128  # and without one, with 2048 tokens in a step; both times the workers (engine/arg_utils.py, get_batch_defaults)
BATCHED_TOKENS_CPU = 2048

_EXTRA = {
    "context": "max-model-len",
    "parallel": "max-num-seqs",
    "kv_cache": "kv-cache-dtype",
    "tensor_parallel": "tensor-parallel-size",
    "gpu_memory_utilization": "gpu-memory-utilization",
    "kv_cache_memory": "kv-cache-memory-bytes",
    "max_batched_tokens": "max-num-batched-tokens",
    "enforce_eager": "enforce-eager",
    "block_size": "block-size",
    "dtype": "dtype",
    "quantization": "quantization",
    "prefix_caching": "enable-prefix-caching",
    "cpu_offload": "cpu-offload-gb",
}
_WORDS = {name: word for word, name in _EXTRA.items()}
# What has no word in the catalogue keeps vLLM's own name.
_FLAGS = ("no-enable-prefix-caching", "async-scheduling", "no-async-scheduling", "disable-hybrid-kv-cache-manager")
_WORDS |= {name: name for name in (*_FLAGS, "mamba-cache-dtype", "mamba-ssm-cache-dtype")}
# Those change memory in ways that the estimate does not follow; options of vLLM by the beginning of their name.
_WORDS_NOT_COUNTED = ("kv_offload", "lora_rank", "loras", "speculative")
_NOT_COUNTED = (
    "pipeline-parallel", "data-parallel", "decode-context-parallel", "prefill-context-parallel", "enable-expert-parallel", "speculative",
    "enable-lora", "max-lora", "kv-offloading", "kv-transfer", "hf-overrides", "limit-mm-per-prompt", "num-gpu-blocks-override", "compilation-config",
    "optimization-level", "cudagraph", "max-cudagraph", "enable-sleep-mode",
)  # fmt: skip


def vllm_wish(demand: Demand, machine: Machine) -> Wish:
    """What the demand asks of vLLM. Its settings have one GPU, or none, and room for one request of full length."""
    known = [device.index for device in machine.gpus]
    cpu = not known
    words, unknown = _merged(demand.options)
    options = Options(machine.host, demand.model, words)
    gpus = options.gpus(known, f"{'GPU' if len(known) == 1 else 'GPUs'} {', '.join(map(str, known))}" if known else "no GPU")
    stages, copies, hosts, tensor_parallel = _spread(options)
    # Everything but the split itself is planned for the largest stage.
    demand = replace(demand, shape=largest_stage(demand.shape, stages))
    if cpu:
        _refuse_without_gpu(options, tensor_parallel)
        gpus = ()
    elif gpus == ():
        raise options.error("gpus", "auto, or at least one GPU: the vLLM that is installed on a host with GPUs needs one")
    watched = ("context", "parallel", "max_batched_tokens", *(() if cpu else ("gpus", "tensor_parallel")))
    free = {word for word in watched if not options.given(word)}
    cache_memory = options.size("kv_cache_memory")
    utilization = _utilization(options)
    if cache_memory is None and utilization is None:
        free |= {"kv_cache_memory"} if cpu else {"kv_cache_memory", "gpu_memory_utilization"}
    context = options.whole("context", 256)
    requests = options.whole("parallel", 1) or (MOST_REQUESTS_CPU if cpu else MOST_REQUESTS)
    # Requests of full length that the cache is to hold at once. Where the user fixed its size there is nothing to give.
    held = None if cache_memory is None and utilization is None else 1
    rungs = tuple(rung for rung in ladder(demand.shape.context_length, context, held) if rung[1] <= requests)
    settings = VllmSettings(
        max_model_len=rungs[0][0],
        max_num_seqs=requests,
        max_num_batched_tokens=options.whole("max_batched_tokens", 1) or batched_tokens(machine.gpus),
        kv_cache_dtype=str(options.get("kv_cache", "auto")),
        block_size=options.whole("block_size", 1) or _block_size(demand, cpu),
        dtype=str(options.get("dtype", "auto")),
        enforce_eager=options.flag("enforce_eager", False),
        quantization=str(options.get("quantization", "")),
        kv_cache_bytes=cache_memory,
        prefix_caching=options.flag("prefix_caching", True) and not options.flag("no-enable-prefix-caching", False),
        async_scheduling=not cpu and options.flag("async-scheduling", True) and not options.flag("no-async-scheduling", False),
        hybrid_cache=not options.flag("disable-hybrid-kv-cache-manager", False),
        mamba_cache_dtype=str(options.get("mamba-cache-dtype", "auto")),
        mamba_ssm_cache_dtype=str(options.get("mamba-ssm-cache-dtype", "auto")),
        cpu_offload_bytes=int(options.number("cpu_offload") * GIB),
        tensor_parallel=tensor_parallel if tensor_parallel and stages * copies > 1 else 1,
        stages=stages,
        copies=copies,
        hosts=hosts,
        cpu=cpu,
    )
    warnings = (
        *beyond_training(demand, context, "hf-overrides" in _extra(demand.options), _stretch),
        *(f"{demand.model}: {name} changes the memory that it needs and is not counted" for name in _WORDS_NOT_COUNTED if options.given(name)),
        *(f"{demand.model}: extra: {name} changes the memory that it needs and is not counted" for name in unknown),
    )
    return Wish(
        demand,
        settings,
        frozenset(free),
        rungs,
        gpus,
        tensor_parallel=tensor_parallel,
        utilization=utilization if cache_memory is None else None,
        most_parallel=requests,
        warnings=warnings,
    )


def vllm_options(settings: VllmSettings, gpus: tuple[int, ...], wish: Wish, share: int, total: int) -> dict[str, t.Any]:
    """The settings in the catalogue's words. ``share`` bytes of the ``total`` of each GPU are its own.

    vLLM refuses to start if less than its utilization is free, so that is told too, rounded down: it does not size the cache by it
    where the cache's bytes are told. Without a GPU nothing is said of GPUs.
    """
    if settings.cpu:
        return _unless_given(
            wish,
            {
                "context": settings.max_model_len,
                "parallel": settings.max_num_seqs,
                "kv_cache": settings.kv_cache_dtype,
                "gpus": [],
                "max_batched_tokens": settings.max_num_batched_tokens,
                "kv_cache_memory": settings.kv_cache_bytes,
            },
        )
    options: dict[str, t.Any] = {
        "context": settings.max_model_len,
        "parallel": settings.max_num_seqs,
        "kv_cache": settings.kv_cache_dtype,
        "gpus": list(gpus),
        "tensor_parallel": settings.degree,
        "max_batched_tokens": settings.max_num_batched_tokens,
    }
    if wish.utilization is None:
        options["gpu_memory_utilization"] = min(max(share * 1000 // total, 1), 1000) / 1000
        options["kv_cache_memory"] = settings.kv_cache_bytes
    else:
        options["gpu_memory_utilization"] = wish.utilization
    return _unless_given(wish, options)


def _unless_given(wish: Wish, options: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Without what the user wrote under ``extra``."""
    given = {_WORDS.get(name, name) for name in _extra(wish.demand.options)}
    return {word: value for word, value in options.items() if word not in given}


def batched_tokens(gpus: Sequence[Device]) -> int:
    """Tokens of one step: vLLM's default by board (engine/arg_utils.py, get_batch_defaults), told explicitly; the smallest board decides."""
    if not gpus:
        return BATCHED_TOKENS_CPU
    smallest = min(gpus, key=lambda device: device.total)
    if smallest.total >= 160 * GIB:
        return 16384
    return 8192 if smallest.total >= 70 * GIB and "A100" not in smallest.name else 2048


def _spread(options: Options) -> tuple[int, int, int, int | None]:
    """Stages, copies, hosts, and of all their parts those on this host; None: we choose.

    Of a model that is divided into stages or over hosts, ``tensor_parallel`` is told (``_topology.parts``).
    """
    stages, copies = (options.whole(f"{way}_parallel", 1) or 1 for way in ("pipeline", "data"))
    hosts, tensor_parallel = 1 + len(options.get("hosts", ())), options.whole("tensor_parallel", 1)
    if stages == copies == hosts == 1:
        return 1, 1, 1, tensor_parallel
    parts = (tensor_parallel or 1) * stages * copies
    if parts % hosts:
        raise options.error("pipeline_parallel", f"a number that makes as many parts on each of {hosts} hosts")
    return stages, copies, hosts, parts // hosts


def _refuse_without_gpu(options: Options, parts: int | None) -> None:
    """What only means something with GPUs."""
    if (parts or 1) > 1:
        word = next(word for word in ("tensor_parallel", "pipeline_parallel", "data_parallel") if (options.whole(word, 1) or 1) > 1)
        raise options.error(word, "1 or nothing, because the host has no GPU")
    if (options.whole("pipeline_parallel", 1) or 1) > 1 and options.flag("enforce_eager", False):
        raise options.error("enforce_eager", "false, because the host has no GPU, where vLLM compiles or has no pipeline_parallel")
    plugin = PLUGINS.get(str(options.get("quantization")))
    if plugin:
        raise options.error("quantization", f"nothing that needs the plugin {plugin}, which only vLLM for GPUs has, because the host has no GPU")
    if options.given("gpu_memory_utilization"):
        raise options.error("gpu_memory_utilization", "nothing, because the host has no GPU; write kv_cache_memory, such as 4GiB")


def _block_size(demand: Demand, cpu: bool) -> int:
    """vLLM's defaults; without a GPU those of platforms/cpu.py."""
    return 128 if cpu and not demand.shape.mla else 16


def _extra(options: Mapping[str, t.Any]) -> dict[str, t.Any]:
    extra = options.get("extra") or {}
    return {str(name).replace("_", "-"): value for name, value in extra.items()} if isinstance(extra, Mapping) else {}


def _merged(options: Mapping[str, t.Any]) -> tuple[dict[str, t.Any], list[str]]:
    words = {name: value for name, value in options.items() if name != "extra"}
    unknown = []
    for name, value in _extra(options).items():
        if name in _WORDS:
            words[_WORDS[name]] = value
        elif name.startswith(_NOT_COUNTED):
            unknown.append(name)
    return words, unknown


def _utilization(options: Options) -> float | None:
    if not options.given("gpu_memory_utilization"):
        return None
    value = options.number("gpu_memory_utilization")
    if not 0 < value <= 1:
        raise options.error("gpu_memory_utilization", "auto, or a number above 0 and up to 1")
    return value


def _stretch(factor: float, trained: int) -> str:
    rope = f'{{"rope_type": "yarn", "factor": {factor:g}, "original_max_position_embeddings": {trained}}}'
    return f"extra: {{hf-overrides: '{{\"rope_parameters\": {rope}}}'}}"
