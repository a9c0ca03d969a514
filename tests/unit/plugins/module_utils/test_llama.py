# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the catalogue as preset keys, against the recorded help of the real llama-server."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._llama import (
    OPTIONS,
    check_preset,
    known_keys,
    preset_options,
    render_preset,
)

HELP = (pathlib.Path(__file__).parents[2] / "fixtures/llama-server-b11434-help.txt").read_text(encoding="utf-8")
CODER = {"source": "hf:someone/coder", "files": ["coder.gguf"], "engine": "llama_router"}


def test_a_model_without_options_only_loads_at_startup() -> None:
    assert preset_options(CODER, {"model": "coder"}) == {"load-on-startup": "true"}


def test_every_option_is_a_key_of_the_real_server() -> None:
    assert {option.key for option in OPTIONS.values()} - known_keys(HELP) == set()


@pytest.mark.parametrize(
    ("name", "value", "key", "rendered"),
    [
        ("batch", 4096, "batch-size", "4096"),
        ("cache_ram", -1, "cache-ram", "-1"),
        ("cpu_moe", True, "cpu-moe", "true"),
        ("flash_attention", "on", "flash-attn", "on"),
        ("flash_attention", False, "flash-attn", "off"),
        ("gpu_layers", "all", "n-gpu-layers", "all"),
        ("gpu_layers", 0, "n-gpu-layers", "0"),
        ("gpus", [0, 1], "device", "CUDA0,CUDA1"),
        ("gpus", [], "device", "none"),
        ("idle_sleep", 900, "sleep-idle-seconds", "900"),
        ("idle_sleep", 0, "sleep-idle-seconds", "-1"),
        ("load_on_startup", False, "load-on-startup", "false"),
        ("n_cpu_moe", 20, "n-cpu-moe", "20"),
        ("override_tensor", ["a=CPU", "b=CPU"], "override-tensor", "a=CPU,b=CPU"),
        ("temperature", 0.7, "temperature", "0.7"),
        ("tensor_split", [3, 1], "tensor-split", "3,1"),
        ("tensor_split", "3,1", "tensor-split", "3,1"),
    ],
)
def test_an_option_becomes_its_key(name: str, value: t.Any, key: str, rendered: str) -> None:
    assert preset_options({name: value}, {})[key] == rendered


def test_context_is_per_request() -> None:
    assert preset_options({"context": 8192, "parallel": 3}, {}) == {
        "ctx-size": "24576",
        "parallel": "3",
        "load-on-startup": "true",
    }
    assert preset_options({"context": 8192}, {})["kv-unified-per-slot"] == "8192"
    assert preset_options({"parallel": 2}, {})["parallel"] == "2"


def test_auto_leaves_the_key_out() -> None:
    options = {
        "context": "auto",
        "parallel": "auto",
        "gpu_layers": "auto",
        "flash_attention": "auto",
        "threads": "auto",
    }
    assert preset_options(options, {}) == {"load-on-startup": "true"}


def test_the_deployment_overrides_the_model() -> None:
    model = {"context": 8192, "parallel": 2, "flash_attention": "on", "extra": {"warmup": True, "keep": 5}}
    preset = preset_options(model, {"parallel": 4, "flash_attention": "auto", "extra": {"warmup": False}})
    assert preset["ctx-size"] == "32768"
    assert "flash-attn" not in preset
    assert (preset["warmup"], preset["keep"]) == ("false", "5")


def test_kv_cache_stands_for_both_halves_within_its_layer() -> None:
    preset = preset_options({"kv_cache": "q8_0", "kv_cache_v": "f16"}, {})
    assert (preset["cache-type-k"], preset["cache-type-v"]) == ("q8_0", "f16")
    preset = preset_options({"kv_cache_k": "q4_0", "kv_cache_v": "q4_0"}, {"kv_cache": "bf16"})
    assert (preset["cache-type-k"], preset["cache-type-v"]) == ("bf16", "bf16")


def test_files_get_the_directory_of_the_model() -> None:
    options = {"mmproj": "mmproj.gguf", "chat_template_file": "/etc/llm/template.jinja"}
    preset = preset_options(options, {}, "/var/lib/llm/models/eyes")
    assert preset["mmproj"] == "/var/lib/llm/models/eyes/mmproj.gguf"
    assert preset["chat-template-file"] == "/etc/llm/template.jinja"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"contxt": 4096}, r"contxt \(value 4096\) .*did you mean context"),
        ({"kv_cache": "q8"}, "kv_cache is 'q8'; allowed: auto, f32, f16, bf16, q8_0"),
        ({"kv_cache_k": 8}, "kv_cache_k is 8; allowed: auto, f32"),
        ({"context": "4096"}, "context is '4096'; allowed: auto, a whole number of at least 256"),
        ({"context": 0}, "context is 0; allowed"),
        ({"parallel": 257}, "parallel is 257; allowed: auto, a whole number from 1 to 256"),
        ({"parallel": True}, "parallel is True; allowed"),
        ({"threads": 1.5}, "threads is 1.5; allowed"),
        ({"batch": 0}, "batch is 0; allowed: a whole number of at least 1"),
        ({"top_p": 1.1}, "top_p is 1.1; allowed: a number from 0 to 1"),
        ({"cpu_moe": "yes"}, "cpu_moe is 'yes'; allowed: true, false"),
        ({"gpus": 0}, "gpus is 0; allowed: a list of GPU indexes"),
        ({"gpus": [0, 0]}, "names each GPU once"),
        ({"gpus": ["0"]}, r"gpus is \['0'\]; allowed"),
        ({"tensor_split": "3:1"}, "tensor_split is '3:1'; allowed: a list of numbers"),
        ({"load_mode": "ram"}, "load_mode is 'ram'; allowed: auto, none, mmap"),
        ({"mmproj": ""}, "mmproj is ''; allowed: a text"),
        ({"kv_cache": "q8_0", "flash_attention": "off"}, "kv_cache_v is q8_0 with flash_attention: off"),
        ({"extra": ["warmup"]}, "extra is .*allowed: a mapping"),
        ({"extra": {"--warmup": True}}, "without the leading dashes"),
        ({"extra": {"port": 1}}, "extra has the option port, which the router sets"),
        ({"extra": {"warmup": None}}, "extra has warmup: None; allowed"),
        ({"extra": {"ctx-size": 1}, "context": 512, "parallel": 1}, "extra sets ctx-size"),
    ],
)
def test_bad_input_names_the_option_its_value_and_what_is_allowed(options: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        preset_options(options, {})


def test_a_quantised_k_cache_lives_without_flash_attention() -> None:
    assert preset_options({"kv_cache_k": "q8_0", "flash_attention": "off"}, {})["cache-type-k"] == "q8_0"


def test_the_preset_is_sorted_and_stable() -> None:
    models: dict[str, dict[str, t.Any]] = {"b": {"model": "/b.gguf"}, "a": {"parallel": 2, "load-on-startup": True}}
    expected = "version = 1\n\n[*]\noffline = true\n\n[a]\nload-on-startup = true\nparallel = 2\n\n[b]\nmodel = /b.gguf\n"
    assert render_preset(models, {"offline": True}) == expected
    assert render_preset(dict(reversed(models.items())), {"offline": True}) == expected


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ({"default": {}}, "the model name 'default' cannot stand in a preset"),
        ({"a]b": {}}, "the model name 'a]b'"),
        ({"a": {"--jinja": True}}, "the model a has the option '--jinja'"),
        ({"a": {"grammar": "x # y"}}, "cannot hold line breaks, ; or #"),
        ({"a": {"jinja": "true\nport = 1"}}, "cannot hold line breaks"),
        ({"a": {"jinja": None}}, "the model a has jinja: None"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(models: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        render_preset(models, {})


@pytest.mark.parametrize(
    "key",
    ["ctx-size", "c", "LLAMA_ARG_CTX_SIZE", "no-kv-unified", "LLAMA_ARG_NO_KV_UNIFIED", "no-webui", "stop-timeout"],
)
def test_long_short_negated_and_environment_names_are_known(key: str) -> None:
    assert key in known_keys(HELP)


@pytest.mark.parametrize("word", ["none", "mmap", "N", "LLAMA_ARG_NO_CTX_SIZE", "ctx_size"])
def test_words_of_the_descriptions_are_not_keys(word: str) -> None:
    assert word not in known_keys(HELP)


def test_an_unknown_key_is_named_with_its_model_and_the_nearest_known() -> None:
    preset: dict[str, dict[str, t.Any]] = {"*": {"mmap": 1}, "coder": {"flash-attention": "on", "ctx-size": 1}}
    assert check_preset(preset, HELP) == [
        "the section [*] for all models has the option mmap, which the installed llama-server does not know; "
        "the nearest that it knows is load-mode",
        "the model coder has the option flash-attention, which the installed llama-server does not know; "
        "the nearest that it knows is flash-attn",
    ]


def test_the_text_of_a_preset_is_checked_alike() -> None:
    assert check_preset(render_preset({"coder": {"ctx-size": 1}}, {"offline": True}), HELP) == []
    assert "the model coder has the option ctxsize" in check_preset("[coder]\n# comment\nctxsize = 1\n", HELP)[0]


def test_a_binary_that_names_no_options_is_not_llama_server() -> None:
    assert "is the binary really llama-server" in check_preset({}, "usage: something else")[0]


def test_what_was_planned_fills_in_and_extra_stays() -> None:
    planned = {"context": 4096, "parallel": 2, "gpu_layers": "all"}
    preset = preset_options({"extra": {"ctx-size": 1000, "warmup": False}}, {}, planned=planned)
    assert (preset["ctx-size"], preset["parallel"], preset["fit"], preset["warmup"]) == ("1000", "2", "off", "false")
    assert "ctx-size" not in preset_options({}, {}, planned={})


@pytest.mark.parametrize("option", ["kv_cache", "kv_cache_k", "n_cpu_moe", "cache_ram"])
def test_auto_leaves_it_to_the_ledger(option: str) -> None:
    assert preset_options({option: "auto"}, {}) == {"load-on-startup": "true"}
