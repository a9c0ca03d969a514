# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What llama.cpp's router reads: options of the catalogue as preset keys, the preset file, and its check.

One unknown key in a preset stops the whole router, so every key is compared with what the installed
``llama-server --help`` names before a file is written.
"""

from __future__ import annotations

import difflib
import posixpath
import re
import typing as t
from collections.abc import Callable, Iterator, Mapping

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
PLAIN_KV_TYPES = ("f32", "f16", "bf16")
MAX_PARALLEL = 256  # LLAMA_MAX_SEQ

# Keys of a preset that are no command line options, so --help does not name them.
PRESET_ONLY_KEYS = frozenset({"load-on-startup", "stop-timeout", "version"})
# The router sets these for its children itself, whatever the preset says.
ROUTER_KEYS = re.compile(r"(host|port|reuse-port|alias|models-.*|api-key.*|ssl-.*|version)$")
# Older builds knew these; the nearest name by spelling would be the wrong one.
RENAMED_KEYS = {"mmap": "load-mode", "no-mmap": "load-mode", "mlock": "load-mode"}

# Entries of the catalogue and of a deployment that say where a model is and where it goes, not how the engine runs it.
PLACEMENT = frozenset({"name", "model", "source", "revision", "files", "sha256", "engine", "price", "port"})

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*$")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*$")


class Invalid(Exception):
    """Says what a value must be; whoever knows the option and the value makes the sentence."""


Render = Callable[[t.Any], t.Optional[str]]  # None: leave the key out


class Option(t.NamedTuple):
    key: str
    render: Render


def _number(kind: type, minimum: float | None, maximum: float | None, words: tuple[str, ...]) -> Render:
    noun = "a whole number" if kind is int else "a number"
    if minimum is not None and maximum is not None:
        noun += f" from {minimum} to {maximum}"
    elif minimum is not None:
        noun += f" of at least {minimum}"
    allowed = ", ".join((*words, noun))

    def render(value: t.Any) -> str | None:
        if isinstance(value, str) and value in words:
            return None if value == "auto" else str(value)
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            raise Invalid(allowed)
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise Invalid(allowed)
        return str(value)

    return render


def whole(minimum: int | None = None, maximum: int | None = None, *words: str) -> Render:
    return _number(int, minimum, maximum, words)


def number(minimum: float | None = None, maximum: float | None = None) -> Render:
    return _number(float, minimum, maximum, ())


def choice(*words: str) -> Render:
    def render(value: t.Any) -> str | None:
        # YAML reads a bare on or off as a boolean; the author meant the word.
        if isinstance(value, bool) and {"on", "off"} <= set(words):
            value = "on" if value else "off"
        if not isinstance(value, str) or value not in words:
            raise Invalid(", ".join(words))
        return None if value == "auto" else str(value)

    return render


def boolean(value: t.Any) -> str:
    if not isinstance(value, bool):
        raise Invalid("true, false")
    return "true" if value else "false"


def text(value: t.Any) -> str:
    if not isinstance(value, str) or not value:
        raise Invalid("a text")
    return str(value)


def text_list(value: t.Any) -> str:
    """A comma separated text, or the list of its parts."""
    if isinstance(value, list) and value:
        return ",".join(text(item) for item in value)
    return text(value)


def proportions(value: t.Any) -> str:
    if isinstance(value, list) and value:
        return ",".join(t.cast(str, number(0)(item)) for item in value)
    if isinstance(value, str) and re.match(r"\d+(\.\d+)?(,\d+(\.\d+)?)*$", value):
        return str(value)
    raise Invalid("a list of numbers, such as [3, 1]")


def gpu_list(value: t.Any) -> str:
    if not isinstance(value, list):
        raise Invalid("a list of GPU indexes, such as [0, 1]; [] for none")
    indexes = [t.cast(str, whole(0)(item)) for item in value]
    if len(set(indexes)) != len(indexes):
        raise Invalid("a list of GPU indexes that names each GPU once")
    return ",".join(f"CUDA{index}" for index in indexes) or "none"


def seconds_or_never(value: t.Any) -> str:
    return "-1" if value == 0 and not isinstance(value, bool) else t.cast(str, whole(0)(value))


# Every option that is tuned by hand, in the order of the documentation. `context` and `parallel` belong together
# (see _context) and `extra` is whatever else the server knows; both are rendered apart.
OPTIONS: dict[str, Option] = {
    "batch": Option("batch-size", whole(1)),
    "cache_ram": Option("cache-ram", whole(-1, None, "auto")),
    "chat_template_file": Option("chat-template-file", text),
    "cpu_moe": Option("cpu-moe", boolean),
    "embeddings": Option("embeddings", boolean),
    "fit": Option("fit", choice("on", "off")),
    "flash_attention": Option("flash-attn", choice("auto", "on", "off")),
    "gpu_layers": Option("n-gpu-layers", whole(0, None, "auto", "all")),
    "gpus": Option("device", gpu_list),
    "idle_sleep": Option("sleep-idle-seconds", seconds_or_never),
    "jinja": Option("jinja", boolean),
    "kv_cache_k": Option("cache-type-k", choice("auto", *KV_TYPES)),
    "kv_cache_v": Option("cache-type-v", choice("auto", *KV_TYPES)),
    "load_mode": Option("load-mode", choice("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")),
    "load_on_startup": Option("load-on-startup", boolean),
    "main_gpu": Option("main-gpu", whole(0)),
    "min_p": Option("min-p", number(0, 1)),
    "mmproj": Option("mmproj", text),
    "n_cpu_moe": Option("n-cpu-moe", whole(0, None, "auto")),
    "override_tensor": Option("override-tensor", text_list),
    "reasoning_budget": Option("reasoning-budget", whole(-1)),
    "reasoning_format": Option("reasoning-format", choice("auto", "none", "deepseek", "deepseek-legacy")),
    "reranking": Option("reranking", boolean),
    "seed": Option("seed", whole(-1)),
    "split_mode": Option("split-mode", choice("none", "layer", "row", "tensor")),
    "stop_timeout": Option("stop-timeout", whole(0)),
    "temperature": Option("temperature", number(0)),
    "tensor_split": Option("tensor-split", proportions),
    "threads": Option("threads", whole(1, None, "auto")),
    "threads_batch": Option("threads-batch", whole(1, None, "auto")),
    "top_k": Option("top-k", whole(0)),
    "top_p": Option("top-p", number(0, 1)),
    "ubatch": Option("ubatch-size", whole(1)),
}
FILES = ("mmproj", "chat_template_file")
CONTEXT = whole(256, None, "auto")
KV_CACHE = choice("auto", *KV_TYPES)
PARALLEL = whole(1, MAX_PARALLEL, "auto")
ENGINE_OPTIONS = frozenset(OPTIONS) | {"context", "parallel", "kv_cache", "extra"}


def preset_options(
    model: Mapping[str, t.Any], deployment: Mapping[str, t.Any], directory: str = "", planned: Mapping[str, t.Any] | None = None
) -> dict[str, str]:
    """The preset section of one deployment of one catalogue entry: keys of llama-server with their values as text.

    The deployment overrides the model, option by option. What the ledger ``planned`` fills in what both leave open; then the server fits
    nothing by itself. File names get ``directory`` in front. The path of the model itself is not an option; whoever knows the file adds the
    key ``model``.
    """
    extra = {**_extra(model), **_extra(deployment)}
    preset = _rendered({"load_on_startup": True, **_layer(model), **_layer(deployment)}, directory)
    for key in extra:
        if key in preset:
            raise InputError(f"extra sets {key}, which another option of the model sets already: keep one of the two")
    if planned:
        preset = _rendered({"fit": "off", "load_on_startup": True, **_layer(model), **_layer(deployment), **_layer(planned)}, directory)
    kv_cache_v = preset.get("cache-type-v", "f16")
    if kv_cache_v not in PLAIN_KV_TYPES and preset.get("flash-attn") == "off":
        raise InputError(
            f"kv_cache_v is {kv_cache_v} with flash_attention: off, but a quantised V cache needs flash attention: "
            f"set flash_attention to auto or on, or kv_cache_v to one of: {', '.join(PLAIN_KV_TYPES)}"
        )
    return {**preset, **extra}


def _rendered(options: dict[str, t.Any], directory: str) -> dict[str, str]:
    preset = _context(options.pop("context", "auto"), options.pop("parallel", "auto"))
    for name, value in options.items():
        rendered = _render(name, OPTIONS[name].render, value)
        if rendered is not None:
            preset[OPTIONS[name].key] = posixpath.join(directory, rendered) if name in FILES else rendered
    return preset


def _layer(options: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The engine options of a model or of a deployment; ``kv_cache`` stands for both of its halves."""
    unknown = [name for name in options if name not in ENGINE_OPTIONS and name not in PLACEMENT]
    if unknown:
        name = unknown[0]
        near = difflib.get_close_matches(str(name), sorted(ENGINE_OPTIONS | PLACEMENT), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"{name} (value {options[name]!r}) is no option of the engine llama_router: {hint}Known options: "
            f"{', '.join(sorted(ENGINE_OPTIONS))}; put any other option of llama-server under extra"
        )
    layer = {name: value for name, value in options.items() if name in ENGINE_OPTIONS and name != "extra"}
    if "kv_cache" in layer:
        both = layer.pop("kv_cache")
        _render("kv_cache", KV_CACHE, both)
        layer = {"kv_cache_k": both, "kv_cache_v": both, **layer}
    return layer


def _extra(options: Mapping[str, t.Any]) -> dict[str, str]:
    extra = options.get("extra", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"extra is {extra!r}; allowed: a mapping of llama-server's long options, without dashes")
    return {str(key): _extra_value(str(key), value) for key, value in extra.items()}


def _extra_value(key: str, value: t.Any) -> str:
    if not KEY.match(key):
        raise InputError(f"extra has the option {key!r}; write llama-server's long options without the leading dashes")
    if ROUTER_KEYS.match(key):
        raise InputError(f"extra has the option {key}, which the router sets for each model itself: remove it")
    if isinstance(value, bool):
        return boolean(value)
    if isinstance(value, (int, float, str)):
        return str(value)
    raise InputError(f"extra has {key}: {value!r}; allowed: a text, a number, true or false")


def _render(name: str, render: Render, value: t.Any) -> str | None:
    try:
        return render(value)
    except Invalid as exc:
        raise InputError(f"{name} is {value!r}; allowed: {exc}") from None


def _context(context: t.Any, parallel: t.Any) -> dict[str, str]:
    """``context`` tokens for each of ``parallel`` requests at once.

    With a number of requests the server divides ``ctx-size`` evenly among them. Without one it opens as many
    slots as it likes (4 in b11434) over one shared cache, and ``kv-unified-per-slot`` both limits each slot
    and sizes the cache for all of them.
    """
    tokens = _render("context", CONTEXT, context)
    slots = _render("parallel", PARALLEL, parallel)
    preset: dict[str, str] = {}
    if slots:
        preset["parallel"] = slots
    if tokens and slots:
        preset["ctx-size"] = str(int(tokens) * int(slots))
    elif tokens:
        preset["kv-unified-per-slot"] = tokens
    return preset


def render_preset(models: Mapping[str, Mapping[str, t.Any]], common: Mapping[str, t.Any]) -> str:
    """The INI text that ``--models-preset`` reads; equal input gives equal bytes."""
    lines = ["version = 1"]
    for section, options in [("*", common)] + [(name, models[name]) for name in sorted(models)]:
        if section != "*" and (section == "default" or not MODEL_NAME.match(section)):
            raise InputError(
                f"the model name {section!r} cannot stand in a preset: use letters, digits and . _ / -, and not "
                "the word default, which llama-server reads as the settings of all models"
            )
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_ini_value(section, key, options[key])}" for key in sorted(options)]
    return "\n".join(lines) + "\n"


def _ini_value(section: str, key: str, value: t.Any) -> str:
    if not KEY.match(key):
        raise InputError(f"{_owner(section)} has the option {key!r}; write it without the leading dashes")
    if not isinstance(value, (str, int, float)):
        raise InputError(f"{_owner(section)} has {key}: {value!r}; allowed: a text, a number, true or false")
    rendered = boolean(value) if isinstance(value, bool) else str(value)
    if re.search(r"[;#\x00-\x1f]", rendered):
        raise InputError(f"{_owner(section)} has {key}: {rendered!r}, but a preset cannot hold line breaks, ; or # in a value")
    return rendered.strip()


def known_keys(help_text: str) -> set[str]:
    """Every key that a preset may hold: long, short and environment names in ``--help``, and the preset's own."""
    keys = set(PRESET_ONLY_KEYS)
    negatable = False
    for line in help_text.splitlines():
        if line.startswith("-"):
            names = list(_names(line))
            negatable = any(name.startswith("no-") for name in names)
            keys.update(names)
        for env in re.findall(r"\(env: (\w+)\)", line):
            keys.add(env)
            if negatable:
                keys.add(env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_"))
    return keys


def _names(line: str) -> Iterator[str]:
    """The names at the start of an option's line: ``-c,    --ctx-size N   size of the prompt context``."""
    name = re.compile(r"--?([A-Za-z0-9][\w.-]*)(,\s+(?=-))?")
    position: int | None = 0
    while position is not None:
        match = name.match(line, position)
        if not match:
            return
        yield match.group(1)
        position = match.end() if match.group(2) else None


def check_preset(preset: str | Mapping[str, Mapping[str, t.Any]], help_text: str) -> list[str]:
    """A sentence for every key of the preset that the binary behind ``help_text`` would stop at."""
    known = known_keys(help_text)
    if not known - PRESET_ONLY_KEYS:
        return ["llama-server --help names no option at all: is the binary really llama-server?"]
    sections = _parse(preset) if isinstance(preset, str) else preset
    return [
        f"{_owner(section)} has the option {key}, which the installed llama-server does not know; "
        f"the nearest that it knows is {_nearest(key, known)}"
        for section, options in sections.items()
        for key in options
        if key not in known
    ]


def _owner(section: str) -> str:
    return "the section [*] for all models" if section == "*" else f"the model {section}"


def _nearest(key: str, known: set[str]) -> str:
    if key in RENAMED_KEYS:
        return RENAMED_KEYS[key]
    return difflib.get_close_matches(key.replace("_", "-"), sorted(known), 1, 0)[0]


def _parse(preset: str) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    section = "*"
    for raw in preset.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif line and line[0] not in ";#":
            key, _equals, value = line.partition("=")
            sections.setdefault(section, {})[key.strip()] = value.strip()
    return sections


def startup_models(models: Mapping[str, Mapping[str, t.Any]], models_max: int | None = None) -> list[str]:
    """The models that are loaded when the router starts, which refuses to start if it may not hold that many."""
    names = sorted(name for name, options in models.items() if _is_true(options.get("load-on-startup", False)))
    if models_max is not None and len(names) > models_max:
        raise InputError(
            f"the router may hold {models_max} models, but {len(names)} of them load at start-up ({', '.join(names)}): "
            "raise the limit, or set load_on_startup: false for some"
        )
    return names


def _is_true(value: t.Any) -> bool:
    return value is True or str(value) in ("true", "on", "enabled", "1")
