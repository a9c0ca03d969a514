# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the catalogue and of a deployment as vLLM reads them: the keys of the file for ``vllm serve --config``.

What the file looks like and how it is checked is in ``_vllm_config``.
"""

from __future__ import annotations

import difflib
import posixpath
import re
import typing as t
from collections.abc import Callable, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._vram import parse_size

KV_TYPES = (
    *("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4_ds_mla", "nvfp4", "nvfp4_4over6"),
    *("int8_per_token_head", "fp8_per_token_head", "int4_per_token_head"),
    *("turboquant_3bit_nc", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_k8v4", "ultraquant_4bit"),
)
# Kinds of quantization that live outside of vLLM: its parser takes their names, and loading the model fails without them.
PLUGINS = {"bitsandbytes": "vllm-bnb-plugin", "gguf": "vllm-gguf-plugin"}
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

# Entries of the catalogue and of a deployment that say where a model is and where it goes, not how the engine runs it.
PLACEMENT = frozenset({"name", "model", "source", "revision", "files", "sha256", "engine", "price", "hosts", "port"})

# Keys that the role sets itself, or that would put a secret where it does not belong.
RESERVED = frozenset(
    {"api-key", "config", "hf-token", "host", "model", "port", "served-model-name", "shutdown-timeout", "uds"}
    | {"headless", "master-addr", "master-port", "nnodes", "node-rank"}
)

# Older releases and their guides have these; the nearest name by spelling would be the wrong one.
REMOVED = {
    "calculate-kv-scales": "scales come from the model's files; leave it out",
    "cuda-graph-sizes": "write cudagraph-capture-sizes",
    "device": "the installed build decides (vllm_backend); leave it out",
    "disable-frontend-multiprocessing": "the engine always has a process of its own; leave it out",
    "disable-log-requests": "requests are logged only with enable-log-requests; leave it out",
    "enable-reasoning": "reasoning_parser alone turns it on",
    "engine-use-ray": "write distributed-executor-backend",
    "guided-decoding-backend": "write structured-outputs-config: {backend: ...}",
    "max-context-len-to-capture": "write max-cudagraph-capture-size",
    "max-seq-len-to-capture": "write max-cudagraph-capture-size",
    "num-lookahead-slots": "write speculative-config",
    "num-scheduler-steps": "vLLM prepares the next step during the running one by itself; leave it out",
    "num-speculative-tokens": "write speculative-config",
    "override-pooler-config": "write pooler-config",
    "preemption-mode": "what is preempted is always computed anew; leave it out",
    "rope-scaling": "write hf-overrides: {rope_parameters: ...}",
    "rope-theta": "write hf-overrides: {rope_parameters: ...}",
    "scheduler-delay-factor": "vLLM mixes prompts and answers in each step; leave it out",
    "speculative-model": "write speculative-config",
    "swap-space": "nothing is swapped any more; kv_offload keeps part of the cache in main memory",
    "task": "write embeddings or reranking, or extra: {runner: ..., convert: ...}",
    "use-v2-block-manager": "there is only one block manager; leave it out",
    "worker-use-ray": "write distributed-executor-backend",
}
REMOVED_ENVIRONMENT = {
    "HUGGING_FACE_HUB_TOKEN": "engines read downloaded models and need no token; the downloads take theirs from model_store_token",
    "VLLM_ATTENTION_BACKEND": "write extra: {attention-backend: ...}",
    "VLLM_USE_V1": "there is only one engine; leave it out",
}
# A unit file and /proc show an environment.
SECRETS = ("VLLM_API_KEY", "HF_TOKEN")

KEY = re.compile(r"[a-z][a-z0-9-]*(\.[A-Za-z0-9_.-]+)?$")


class Invalid(Exception):
    """Says what a value must be; whoever knows the option and the value makes the sentence."""


Render = Callable[[t.Any], t.Any]  # None: leave the key out


class Option(t.NamedTuple):
    key: str
    render: Render


def whole(minimum: int, *words: str) -> Render:
    allowed = ", ".join((*words, f"a whole number of at least {minimum}"))

    def render(value: t.Any) -> int | None:
        if isinstance(value, str) and value in words:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise Invalid(allowed)
        return value

    return render


def number(minimum: float, maximum: float | None = None, *words: str) -> Render:
    allowed = ", ".join((*words, f"a number from {minimum:g} to {maximum:g}" if maximum is not None else f"a number of at least {minimum:g}"))

    def render(value: t.Any) -> float | None:
        if isinstance(value, str) and value in words:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < minimum or (maximum is not None and value > maximum):
            raise Invalid(allowed)
        return value

    return render


def choice(*words: t.Any) -> Render:
    def render(value: t.Any) -> t.Any:
        if isinstance(value, bool) or value not in words:
            raise Invalid(", ".join(map(str, words)))
        return None if value == "auto" else value

    return render


def boolean(value: t.Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid("true, false")
    return value


def text(value: t.Any) -> str:
    # With a dash in front it would be read as another option.
    if not isinstance(value, str) or not value or value.startswith("-"):
        raise Invalid("a text without a dash in front")
    return value


def mapping(value: t.Any) -> dict[str, t.Any]:
    if not isinstance(value, Mapping) or not value:
        raise Invalid("a mapping")
    return dict(value)


def size(value: t.Any) -> int | None:
    """Bytes; a bare number is bytes already, as vLLM has it."""
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    try:
        return parse_size(value if isinstance(value, str) else "", "")
    except InputError:
        raise Invalid("auto, a number of bytes, or one with a unit, such as 4GiB") from None


def context(value: t.Any) -> t.Any:
    """Without a number vLLM takes the longest context that the model allows and the cache holds."""
    return "auto" if value == "auto" else whole(1, "auto")(value)


def gpu_list(value: t.Any) -> None:
    """It becomes no key: the role lets vLLM see these GPUs and no others."""
    if value == "auto":
        return
    if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in value):
        raise Invalid("auto, a list of GPU indexes, such as [0, 1]")
    if len(set(value)) != len(value):
        raise Invalid("a list of GPU indexes that names each GPU once")


def adapters(value: t.Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise Invalid("a mapping of names to directories")
    # name=path is how vLLM takes it
    if any("=" in str(name) or "," in f"{name}{path}" for name, path in value.items()):
        raise Invalid("a mapping of names to directories, without = and commas")
    return {text(name): text(path) for name, path in value.items()}


# Every option that is tuned by hand. Those without a key of their own are put together in _rendered; `extra` is whatever else the
# server knows.
OPTIONS: dict[str, Option] = {
    "block_size": Option("block-size", whole(1, "auto")),
    "chat_template_file": Option("chat-template", text),
    "context": Option("max-model-len", context),
    "cpu_offload": Option("cpu-offload-gb", number(0)),
    "data_parallel": Option("data-parallel-size", whole(1, "auto")),
    "dtype": Option("dtype", choice("auto", "bfloat16", "float16", "float32", "half", "float")),
    "embeddings": Option("", boolean),
    "enforce_eager": Option("enforce-eager", boolean),
    "gpu_memory_utilization": Option("gpu-memory-utilization", number(0.001, 1, "auto")),
    "gpus": Option("", gpu_list),
    "kv_cache": Option("kv-cache-dtype", choice(*KV_TYPES)),
    "kv_cache_memory": Option("kv-cache-memory-bytes", size),
    "kv_offload": Option("kv-offloading-size", number(0)),
    "load_format": Option("load-format", text),
    "lora_rank": Option("max-lora-rank", choice(*LORA_RANKS)),
    "loras": Option("", adapters),
    "max_batched_tokens": Option("max-num-batched-tokens", whole(1, "auto")),
    "max_queued": Option("max-num-queued-reqs", whole(0)),
    "min_p": Option("", number(0, 1)),
    "parallel": Option("max-num-seqs", whole(1, "auto")),
    "pipeline_parallel": Option("pipeline-parallel-size", whole(1, "auto")),
    "prefix_caching": Option("enable-prefix-caching", boolean),
    "quantization": Option("quantization", text),
    "reasoning_parser": Option("reasoning-parser", text),
    "reranking": Option("", boolean),
    "seed": Option("seed", whole(0)),
    "speculative": Option("speculative-config", mapping),
    "temperature": Option("", number(0)),
    "tensor_parallel": Option("tensor-parallel-size", whole(1, "auto")),
    "tokenizer": Option("tokenizer", text),
    "tool_parser": Option("tool-call-parser", text),
    "top_k": Option("", whole(0)),
    "top_p": Option("", number(0, 1)),
    "trust_remote_code": Option("trust-remote-code", boolean),
}
FILES = ("chat_template_file", "tokenizer")  # in the model's directory
SAMPLING = ("min_p", "temperature", "top_k", "top_p")
VLLM_OPTIONS = frozenset(OPTIONS) | {"extra"}


def vllm_options(
    model: Mapping[str, t.Any], deployment: Mapping[str, t.Any], directory: str = "", planned: Mapping[str, t.Any] | None = None
) -> dict[str, t.Any]:
    """The keys of one deployment of one catalogue entry with their values.

    The deployment overrides the model, option by option, and what the ledger ``planned`` goes before both. File names get ``directory`` in
    front. The path of the model itself is not an option; the role knows it.
    """
    options = {**_layer(model), **_layer(deployment), **_layer(planned or {})}
    extra = {**_extra(model), **_extra(deployment)}
    config = _rendered(options, directory)
    for key in extra:
        if key in config:
            raise InputError(f"extra sets {key}, which another option of the model sets already: keep one of the two")
    gpus = options.get("gpus", "auto")
    if isinstance(gpus, list) and len(gpus) > 1 and not any(f"{way}-parallel-size" in {**config, **extra} for way in ("tensor", "pipeline", "data")):
        config["tensor-parallel-size"] = len(gpus)  # vLLM would use the first GPU alone
    if not any(key.partition(".")[0] == "max-model-len" for key in extra):
        config.setdefault("max-model-len", "auto")
    return {**config, **extra}


def vllm_gpus(model: Mapping[str, t.Any], deployment: Mapping[str, t.Any], planned: Mapping[str, t.Any] | None = None) -> list[int] | None:
    """The GPUs that a deployment may see; None: all."""
    gpus = {**_layer(model), **_layer(deployment), **_layer(planned or {})}.get("gpus", "auto")
    _render("gpus", gpu_list, gpus)
    return None if gpus == "auto" else list(gpus)


def spread(options: Mapping[str, t.Any], hosts: int) -> dict[str, int]:
    """How a model is divided over several hosts if nothing is said: each layer within a host, which is fast, and the layers over the hosts.

    Hosts without GPUs have one part each, so they share every layer.
    """
    if any(options.get(f"{way}_parallel") not in (None, "auto") for way in ("tensor", "pipeline")):
        return {}
    gpus = options.get("gpus")
    return {"tensor_parallel": len(gpus), "pipeline_parallel": hosts} if isinstance(gpus, list) and gpus else {"tensor_parallel": hosts}


def removed(key: str) -> str:
    """What replaced an option that vLLM no longer has, or nothing."""
    return REMOVED.get(key.removeprefix("no-"), "")


def environment_errors(environment: Mapping[str, t.Any]) -> list[str]:
    """What must not be in an engine's environment."""
    found = [f"{name} is no longer read: {REMOVED_ENVIRONMENT[name]}" for name in sorted(environment) if name in REMOVED_ENVIRONMENT]
    found += [
        f"{name} is a secret, and anybody on the host can read the environment of a unit: "
        + ("give vllm_api_key instead" if name == "VLLM_API_KEY" else REMOVED_ENVIRONMENT["HUGGING_FACE_HUB_TOKEN"])
        for name in sorted(environment)
        if name in SECRETS
    ]
    return found


def _rendered(options: Mapping[str, t.Any], directory: str) -> dict[str, t.Any]:
    config: dict[str, t.Any] = {}
    sampling: dict[str, t.Any] = {}
    for name, value in options.items():
        rendered = _render(name, OPTIONS[name].render, value)
        if rendered is None:
            continue
        if name in SAMPLING:
            sampling[name] = rendered
        elif name == "loras":
            config["enable-lora"] = True
            config["lora-modules"] = [f"{adapter}={posixpath.join(directory, path)}" for adapter, path in sorted(rendered.items())]
        elif name in ("embeddings", "reranking"):
            if rendered:
                config["runner"] = "pooling"
        else:
            config[OPTIONS[name].key] = posixpath.join(directory, rendered) if name in FILES else rendered
    if sampling:
        config["override-generation-config"] = sampling
    if "tool-call-parser" in config:
        config["enable-auto-tool-choice"] = True
    return config


def _layer(options: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The engine options of a model, of a deployment or of a plan."""
    for name in options:
        if name not in VLLM_OPTIONS and name not in PLACEMENT:
            raise InputError(_unknown(str(name), options[name]))
    return {name: value for name, value in options.items() if name in VLLM_OPTIONS and name != "extra"}


def _unknown(name: str, value: t.Any) -> str:
    sentence = f"{name} (value {value!r}) is no option of the engine vllm"
    instead = removed(name.replace("_", "-")) or REMOVED_ENVIRONMENT.get(name, "")
    if instead:
        return f"{sentence}: {instead}"
    near = difflib.get_close_matches(name, sorted(VLLM_OPTIONS | PLACEMENT), 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{sentence}: {hint}Known options: {', '.join(sorted(VLLM_OPTIONS))}; put any other option of vllm serve under extra"


def _extra(options: Mapping[str, t.Any]) -> dict[str, t.Any]:
    extra = options.get("extra", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"extra is {extra!r}; allowed: a mapping of the long options of vllm serve, without dashes")
    return dict(_extra_option(str(name), value) for name, value in extra.items())


def _extra_option(name: str, value: t.Any) -> tuple[str, t.Any]:
    if name in REMOVED_ENVIRONMENT or name in SECRETS:
        raise InputError(f"extra has {'; '.join(environment_errors({name: value}))}")
    first, dot, rest = name.partition(".")
    key = first.replace("_", "-") + dot + rest
    if not KEY.match(key):
        raise InputError(f"extra has the option {name!r}; write the long options of vllm serve without the leading dashes")
    if removed(first.replace("_", "-")):
        raise InputError(f"extra has the option {name}, which vLLM no longer has: {removed(first.replace('_', '-'))}")
    if key in RESERVED:
        raise InputError(f"extra has the option {name}, which the role vllm sets itself: remove it")
    if not _plain(value):
        raise InputError(f"extra has {name}: {value!r}; allowed: a text without a dash in front, a number, true, false, a list or a mapping of these")
    return key, value


def _plain(value: t.Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) for name in value)
    if isinstance(value, list):
        return all(isinstance(item, (str, int, float)) and not str(item).startswith("--") for item in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and not value.startswith("--"))


def _render(name: str, render: Render, value: t.Any) -> t.Any:
    try:
        return render(value)
    except Invalid as exc:
        raise InputError(f"{name} is {value!r}; allowed: {exc}") from None
