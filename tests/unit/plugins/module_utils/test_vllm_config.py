# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration file of vLLM and what is said of it, against what the real vLLM answered."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
import yaml
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_config import (
    ANSWER,
    check_key,
    config_errors,
    environment_of,
    parse_answer,
    render_config,
    shown,
)

RECORDED = json.loads((pathlib.Path(__file__).parents[2] / "fixtures/vllm-0.32.0-known.json").read_text(encoding="utf-8"))


def answer(**changes: t.Any) -> str:
    return f"some library speaks\n{ANSWER}{json.dumps({**RECORDED, 'error': '', **changes})}\n"


def errors(options: dict[str, t.Any], environment: dict[str, t.Any] | None = None, **changes: t.Any) -> list[str]:
    return config_errors(options, environment or {}, parse_answer(answer(**changes)))


def test_the_file_is_yaml_of_equal_bytes() -> None:
    options = {"model": "/models/gr\u00fcn", "max-num-seqs": 8, "enforce-eager": True, "lora-modules": ["a=/b"], "compilation-config": {"mode": 0}}
    content = render_config(options, "/opt/llm/vllm-environments/x", "secret-key")
    assert content == render_config(dict(reversed(options.items())), "/opt/llm/vllm-environments/x", "secret-key")
    assert yaml.safe_load(content) == {**options, "api-key": ["secret-key"]}
    assert "# Checked with /opt/llm/vllm-environments/x\n" in content


def test_the_key_is_not_shown() -> None:
    content = render_config({"port": 1}, "", "secret-key")
    assert "secret-key" not in shown(content)
    assert "api-key: (secret)\nport: 1\n" in shown(content)


@pytest.mark.parametrize("key", ["two words", "-dash", "gr\u00fcn", "line\nbreak"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="make one of letters and digits"):
        check_key(key)


def test_a_key_of_letters_and_digits_is_taken() -> None:
    check_key("sk-0123abcd")


def test_what_the_installed_vllm_knows_passes() -> None:
    assert errors({"max-num-seqs": 8, "compilation-config.mode": 0, "no-enable-prefix-caching": True}, {"VLLM_LOGGING_LEVEL": "DEBUG", "A": "b"}) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max-model-lenn": 1}, "does not know the option max-model-lenn; the nearest that it knows is max-model-len"),
        ({"max_num_seqs": 1}, "the nearest that it knows is max-num-seqs"),
        ({"swap-space": 4}, "the option swap-space was removed from vLLM: nothing is swapped any more"),
        ({"no-enable-reasoning": True}, "was removed from vLLM: reasoning_parser alone"),
        ({"quantization": "bitsandbytes"}, "needs the plugin vllm-bnb-plugin"),
        ({"load-format": "gguf"}, "load-format is gguf, which needs the plugin vllm-gguf-plugin"),
        ({"quantization": "awk"}, "does not know quantization awk; the nearest that it knows is awq"),
    ],
)
def test_what_it_does_not_know_is_named(options: dict[str, t.Any], words: str) -> None:
    (error,) = errors(options)
    assert words in error


def test_an_environment_variable_is_compared_too() -> None:
    assert (
        "VLLM_LOGING_LEVEL, which the installed vLLM does not know; the nearest that it knows is VLLM_LOGGING_LEVEL"
        in errors({}, {"VLLM_LOGING_LEVEL": "x"})[0]
    )


def test_a_plugin_that_is_there_is_enough() -> None:
    assert errors({"quantization": "gguf", "load-format": "gguf"}, plugins=["gguf"]) == []


def test_its_parser_has_the_last_word() -> None:
    assert errors({"dtype": "x"}, error="argument --dtype: invalid choice: 'x'") == ["the installed vLLM refuses it: argument --dtype: invalid choice: 'x'"]
    # what we can explain ourselves we say alone
    assert "refuses it" not in "".join(errors({"dtypes": "x"}, error="unrecognized arguments: --dtypes"))


def test_a_program_that_is_not_vllm_is_noticed() -> None:
    with pytest.raises(LLMError, match="is the interpreter that of its virtual environment"):
        parse_answer("hello\n")


def test_the_environment_of_an_interpreter_is_found_through_links(tmp_path: pathlib.Path) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").symlink_to("/usr/bin/env")
    (tmp_path / "current").symlink_to("env")
    assert environment_of(tmp_path / "current/bin/python") == str(tmp_path / "env")
