# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue's words for a model of llama.cpp's router, and the settings that its memory is estimated from."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Options, Wish, beyond_training, ladder
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import Demand, Machine
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import GGUF, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings

ASLEEP = 600 * MIB  # driver context and libraries that a sleeping child keeps on each GPU: measured, llama.cpp issues 19379 and 25570
SERVER_SLOTS = 4  # what llama-server b11434 opens when nobody says a number (tools/server/server.cpp), over one cache for all
CACHE_RAM = 8192  # MiB, its default (common/common.h)

# What llama-server calls what the catalogue has a word for, or what changes memory. Its long, short and environment names mean the same.
_EXTRA = {
    "batch": ("batch-size", "b", "batch"),
    "cache_ram": ("cache-ram", "cram"),
    "cpu_moe": ("cpu-moe", "cmoe"),
    "draft_gpu_layers": ("spec-draft-ngl", "ngld", "gpu-layers-draft", "n-gpu-layers-draft"),
    "draft_kv_cache_k": ("spec-draft-type-k", "ctkd", "cache-type-k-draft"),
    "draft_kv_cache_v": ("spec-draft-type-v", "ctvd", "cache-type-v-draft"),
    "embeddings": ("embeddings", "embedding"),
    "flash_attention": ("flash-attn", "fa"),
    "gpu_layers": ("n-gpu-layers", "gpu-layers", "ngl"),
    "kv_cache_k": ("cache-type-k", "ctk"),
    "kv_cache_v": ("cache-type-v", "ctv"),
    "kv_unified": ("kv-unified", "kvu"),
    "load_mode": ("load-mode", "lm"),
    "main_gpu": ("main-gpu", "mg"),
    "mmproj_offload": ("mmproj-offload",),
    "n_cpu_ffn": ("n-cpu-ffn", "ncffn"),
    "n_cpu_moe": ("n-cpu-moe", "ncmoe"),
    "no_kv_unified": ("no-kv-unified", "no-kvu"),
    "no_mmproj": ("no-mmproj", "no-mmproj-auto"),
    "no_mmproj_offload": ("no-mmproj-offload",),
    "override_tensor": ("override-tensor", "ot"),
    "parallel": ("parallel", "np", "n-parallel"),
    "per_slot": ("kv-unified-per-slot",),
    "reranking": ("reranking", "rerank"),
    "split_mode": ("split-mode", "sm"),
    "swa_full": ("swa-full",),
    "tensor_split": ("tensor-split", "ts"),
    "total_context": ("ctx-size", "c"),
    "ubatch": ("ubatch-size", "ub", "ubatch"),
}
_WORDS = {name: word for word, names in _EXTRA.items() for name in names}
# Options that change memory in ways that the estimate does not follow; by the beginning of their name.
_NOT_COUNTED = (
    "kv-offload", "no-kv-offload", "kvo", "nkvo", "lora", "control-vector", "rpc", "device", "dev", "mmproj-device", "mmdev", "image-max-tokens",
    "mtmd-batch-max-tokens", "override-kv", "spec-draft-device", "devd", "device-draft", "spec-draft-override-tensor", "otd", "override-tensor-draft",
    "spec-draft-cpu-moe", "cmoed", "cpu-moe-draft", "spec-draft-n-cpu-moe", "spec-draft-ncmoe", "ncmoed", "n-cpu-moe-draft", "spec-type", "dflash",
    "no-host", "no-op-offload", "fit", "hf-repo", "hf-file", "model-vocoder", "hf-repo-v",
)  # fmt: skip
_DRAFT = ("spec-draft-model", "md", "model-draft", "spec-draft-hf", "hfd", "hfrd", "hf-repo-draft")
_LAYERS = {"-1": "auto", "-2": "all"}
_ROPE = ("rope-scaling", "rope-scale", "rope-freq-scale", "rope-freq-base", "yarn-orig-ctx")
_DENSE = r"blk\.{}\.ffn_(up|down|gate)\."  # what --n-cpu-ffn keeps back (common/arg.cpp, LLM_FFN_DENSE_REGEX)


def llama_wish(demand: Demand, machine: Machine) -> Wish:
    """What the demand asks of llama-server. Its settings have one device if it may use GPUs, otherwise none."""
    if demand.shape.format != GGUF:
        raise InputError(f"{machine.host}: the model {demand.model} is not a GGUF file, and llama_router reads no other: choose a GGUF, or vllm.")
    words, unknown = _merged(demand)
    options = Options(machine.host, demand.model, words)
    known = [device.index for device in machine.gpus]
    gpus = options.gpus(known, _present(known))
    if gpus is None and (not known or options.get("gpu_layers") in (0, "0")):
        gpus = ()
    embeddings = options.flag("embeddings", False) or options.flag("reranking", False)
    free = {word for word in ("context", "parallel") if not options.given(word)}
    if not (options.given("cache_ram") or embeddings):  # only conversations are remembered
        free.add("cache_ram")
    context, parallel, total, unified = _slots(options, words, free)
    settings = LlamaSettings(
        context=0,  # the ladder's lowest rung, below
        unified=unified,
        batch=options.whole("batch", 1) or 2048,
        ubatch=options.whole("ubatch", 1) or 512,
        cache_k=str(options.get("kv_cache_k", options.get("kv_cache", "f16"))),
        cache_v=str(options.get("kv_cache_v", options.get("kv_cache", "f16"))),
        flash_attention=options.flag("flash_attention", True),
        split=() if gpus == () else (1.0,),
        split_mode=str(options.get("split_mode", "layer")),
        main_gpu=options.whole("main_gpu") or 0,
        gpu_layers=_gpu_layers(options),
        cpu_moe=_cpu_moe(options, demand.shape),
        override_tensor=_overrides(options),
        load_mode=str(options.get("load_mode", "auto")),
        swa_full=options.flag("swa_full", False),
        embeddings=embeddings,
        cache_ram=_cache_ram(options),
        mmproj_offload=options.flag("mmproj_offload", True) and not options.flag("no_mmproj_offload", False),
        draft=_draft(demand, options, gpus),
    )
    if not (demand.shape.cached or options.given("ubatch")):
        free.add("ubatch")  # an encoder has to have a request in one step (tools/server/server-context.cpp, can_split)
    if not any(options.given(word) for word in ("kv_cache", "kv_cache_k", "kv_cache_v")):
        free.add("kv_cache")
    placing = ("n_cpu_moe", "cpu_moe", "override_tensor", "gpu_layers")
    if demand.shape.experts and gpus != () and not any(options.given(word) for word in placing):
        free.add("n_cpu_moe")
    if gpus != () and words.get("gpu_layers") == "auto":
        free.add("gpu_layers")
    split = _split(options)
    if split is None and gpus != ():
        free.add("tensor_split")
    elif split:
        settings = replace(settings, split=split)
    if not options.given("gpus"):
        free.add("gpus")
    if options.flag("no_mmproj", False):
        demand = replace(demand, shape=replace(demand.shape, projector=None))
    rungs = _rungs(demand.shape, settings, context, parallel, total)
    warnings: tuple[str, ...] = (
        *beyond_training(demand, context or (total or 0) // (parallel or 1), any(name in _extra(demand.options) for name in _ROPE), _stretch),
        *(f"{demand.model}: extra: {name} changes the memory that it needs and is not counted" for name in unknown),
    )
    if options.get("cache_ram") in (-1, "-1"):
        warnings += (f"{demand.model}: cache_ram: -1 lets the prompts that it remembers grow without limit; {CACHE_RAM} MiB are counted",)
    asleep = ASLEEP if (options.whole("idle_sleep", -1) or 0) > 0 else 0
    return Wish(demand, settings, frozenset(free), rungs, gpus, asleep=asleep, warnings=warnings)


def llama_options(settings: LlamaSettings, gpus: tuple[int, ...], wish: Wish) -> dict[str, t.Any]:
    """The settings in the catalogue's words: whatever llama-server would otherwise choose for itself. What ``extra`` has is left there."""
    slots = settings.parallel
    options: dict[str, t.Any] = {
        "context": settings.context // slots,
        "parallel": slots,
        "kv_cache_k": settings.cache_k,
        "kv_cache_v": settings.cache_v,
        "gpus": list(gpus),
        "cache_ram": settings.cache_ram,
    }
    if "ubatch" in wish.free:
        options |= {"ubatch": settings.ubatch, "batch": settings.batch}
    if gpus:
        options["gpu_layers"] = "all" if settings.gpu_layers is None else settings.gpu_layers
        if wish.shape.experts and not settings.override_tensor and not wish.demand.options.get("cpu_moe"):
            options["n_cpu_moe"] = settings.cpu_moe
        if len(gpus) > 1 and settings.split_mode != "none":
            options["tensor_split"] = list(settings.split)
    said = {_word(name) for name in _extra(wish.demand.options)}
    if wish.demand.options.get("cache_ram") == -1:
        said.add("cache_ram")  # no limit stays no limit
    if "total_context" in said or "per_slot" in said:
        said |= {"context"} | ({"parallel"} if "parallel" not in wish.demand.options else set())
    return {word: value for word, value in options.items() if word not in said}


def _present(known: t.Sequence[int]) -> str:
    return "no GPU" if not known else f"{'GPU' if len(known) == 1 else 'GPUs'} {', '.join(map(str, known))}"


def _extra(options: Mapping[str, t.Any]) -> Mapping[str, t.Any]:
    extra = options.get("extra") or {}
    return extra if isinstance(extra, Mapping) else {}


def _word(name: str) -> str:
    """The catalogue's word for a preset's key: --ctx-size, c and LLAMA_ARG_CTX_SIZE are one."""
    plain = name[len("LLAMA_ARG_") :].lower().replace("_", "-") if name.startswith("LLAMA_ARG_") else name
    return _WORDS.get(plain, plain)


def _merged(demand: Demand) -> tuple[dict[str, t.Any], list[str]]:
    """The options with those of ``extra`` under the catalogue's words, and the names in it that change memory unseen."""
    words = {name: value for name, value in demand.options.items() if name != "extra"}
    unknown = []
    for name, value in _extra(demand.options).items():
        word = _word(name)
        if word in _EXTRA:
            words[word] = _LAYERS.get(str(value), value) if word == "gpu_layers" else value
        elif word.startswith(_NOT_COUNTED) or (word in _DRAFT and demand.draft is None):
            unknown.append(name)
    return words, unknown


def _slots(options: Options, words: Mapping[str, t.Any], free: set[str]) -> tuple[int | None, int | None, int | None, bool]:
    """Tokens of each request, requests, tokens of all of them (if ``extra`` fixes that), and whether one cache serves all.

    Options in ``extra`` leave to the server what the catalogue would decide: without a number of slots it opens four over one cache.
    """
    context, total = options.whole("context", 256), options.whole("total_context") or None
    per_slot = options.whole("per_slot") or None
    left = words.get("parallel") in (-1, "-1")
    parallel = None if left else options.whole("parallel", 1)
    unified = options.flag("kv_unified", False) and not options.flag("no_kv_unified", False)
    if total or per_slot or left:
        unified = unified or parallel is None
        parallel = parallel or SERVER_SLOTS
        free.discard("parallel")
        if total or per_slot:
            free.discard("context")
            context, total = (None, total) if total else (per_slot, None)
    return context, parallel, total, unified


def _rungs(shape: ModelShape, settings: LlamaSettings, context: int | None, parallel: int | None, total: int | None) -> tuple[tuple[int, int], ...]:
    if total and parallel:
        return ((total // parallel, parallel),)
    return ladder(shape.context_length, context, parallel, whole_context=settings.embeddings or not shape.cached)


def _gpu_layers(options: Options) -> int | None:
    return None if options.get("gpu_layers", "all") == "all" else options.whole("gpu_layers")


def _cpu_moe(options: Options, shape: ModelShape) -> int:
    return len(shape.layers) if options.flag("cpu_moe", False) else options.whole("n_cpu_moe") or 0


def _cache_ram(options: Options) -> int:
    """MiB. Without a limit (-1) the server's default is counted, and a warning says so."""
    wanted = options.whole("cache_ram", -1) or 0
    return CACHE_RAM if wanted < 0 else wanted


def _overrides(options: Options) -> tuple[tuple[str, str], ...]:
    value = options.get("override_tensor", [])
    parts = value.split(",") if isinstance(value, str) else list(value)
    if any("=" not in str(part) for part in parts):
        raise options.error("override_tensor", "texts such as blk\\.1\\.ffn_up=CPU")
    pairs = [str(part).rsplit("=", 1) for part in parts]
    kept = [(_DENSE.format(number), "CPU") for number in range(options.whole("n_cpu_ffn") or 0)]
    return (*((pattern.strip(), place.strip()) for pattern, place in pairs), *kept)


def _split(options: Options) -> tuple[float, ...] | None:
    value = options.get("tensor_split")
    if value is None:
        return None
    try:
        return tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise options.error("tensor_split", "a list of numbers, such as [3, 1]") from None


def _draft(demand: Demand, options: Options, gpus: tuple[int, ...] | None) -> tuple[ModelShape, LlamaSettings] | None:
    """A draft model runs beside the model with its context, on its devices (common/speculative.cpp, common_base_params_to_speculative)."""
    if demand.draft is None:
        return None
    layers = options.get("draft_gpu_layers", "all")
    return demand.draft, LlamaSettings(
        context=0,
        cache_k=str(options.get("draft_kv_cache_k", "f16")),
        cache_v=str(options.get("draft_kv_cache_v", "f16")),
        batch=options.whole("batch", 1) or 2048,
        ubatch=options.whole("ubatch", 1) or 512,
        flash_attention=options.flag("flash_attention", True),
        split=() if gpus == () else (1.0,),
        gpu_layers=None if layers == "all" else options.whole("draft_gpu_layers"),
        cache_ram=0,
    )


def _stretch(factor: float, trained: int) -> str:
    return f"extra: {{rope-scaling: yarn, rope-scale: {factor:g}, yarn-orig-ctx: {trained}}}"
