# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that ``vllm serve --config`` reads, and its check by the installed vLLM itself.

One unknown key stops the server, and one that is false and unknown is dropped without a word. So every key is compared with the options
of the installed release, and its own parser reads the values, before the file replaces the old one.
"""

from __future__ import annotations

import difflib
import json
import re
import typing as t
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._vllm import PLUGINS, removed

_SECRET_LINE = re.compile(r"^api-key: .*$", re.MULTILINE)
ANSWER = "baremetal.llm: "  # begins the line that is the answer

# Runs in the environment of vLLM with two arguments, a file and ANSWER, and prints what that vLLM knows and says of the file.
PROBE = """
import contextlib, importlib.metadata, io, json, sys
answer = {"error": ""}
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
    import vllm.envs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    try:
        from vllm.entrypoints.launchers import cli_args
    except ImportError:  # before 0.32
        from vllm.entrypoints.openai import cli_args
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    parser = cli_args.make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    answer["options"] = [name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")]
    answer["environment"] = list(vllm.envs.environment_variables)
    answer["quantization"] = list(QUANTIZATION_METHODS)
    answer["plugins"] = [point.name for point in importlib.metadata.entry_points(group="vllm.general_plugins")]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            cli_args.validate_parsed_serve_args(parser.parse_args(["--config", sys.argv[1]]))
    except SystemExit:
        answer["error"] = (errors.getvalue().strip().splitlines() or ["it is refused"])[-1]
    except Exception as exc:
        answer["error"] = str(exc) or type(exc).__name__
print("\\n" + sys.argv[2] + json.dumps(answer))
"""


class Known(t.NamedTuple):
    """What an installed vLLM knows, and what it says of a configuration; nothing if it accepts it."""

    options: frozenset[str]
    environment: frozenset[str]
    quantization: frozenset[str]
    plugins: frozenset[str]
    error: str


def render_config(options: Mapping[str, t.Any], checked_with: str, api_key: str = "") -> str:
    """The YAML text; equal input gives equal bytes. It names the environment that accepted it, so another one makes another file."""
    lines = ["# Managed by the Ansible collection baremetal.llm.", f"# Checked with {checked_with}"]
    entries = {**options, **({"api-key": [api_key]} if api_key else {})}
    # A line of JSON is a line of YAML, and needs no library.
    lines += [f"{key}: {json.dumps(entries[key], ensure_ascii=False, sort_keys=True)}" for key in sorted(entries)]
    return "\n".join(lines) + "\n"


def shown(content: str) -> str:
    """The text without its key."""
    return _SECRET_LINE.sub("api-key: (secret)", content)


def check_key(api_key: str) -> None:
    """Raises InputError for a key that no header can carry or that vLLM would read as an option."""
    if not re.fullmatch(r"[!-~]+", api_key) or api_key.startswith("-"):
        raise InputError("The API key has a blank, a letter outside ASCII or a dash in front: make one of letters and digits.")


def parse_answer(output: str) -> Known:
    """What ``PROBE`` printed, whatever else a library printed before it."""
    for line in reversed(output.splitlines()):
        if line.startswith(ANSWER):
            answer = json.loads(line[len(ANSWER) :])
            options, environment, quantization, plugins = (frozenset(answer[name]) for name in Known._fields[:-1])
            return Known(options, environment, quantization, plugins, answer["error"])
    raise LLMError("The installed vLLM did not say which options it has: is the interpreter that of its virtual environment?")


def config_errors(options: Mapping[str, t.Any], environment: Mapping[str, t.Any], known: Known) -> list[str]:
    """A sentence for everything that the installed vLLM would stop at."""
    wrong = [_unknown_key(key, known.options) for key in options if key.partition(".")[0] not in known.options]
    wrong += [
        f"the environment has {name}, which the installed vLLM does not know; the nearest that it knows is {_nearest(name, known.environment)}"
        for name in sorted(environment)
        if name.startswith("VLLM_") and name not in known.environment
    ]
    wrong += _quantization_errors(options, known)
    return wrong or ([f"the installed vLLM refuses it: {known.error}"] if known.error else [])


def _unknown_key(key: str, options: frozenset[str]) -> str:
    instead = removed(key)
    if instead:
        return f"the option {key} was removed from vLLM: {instead}"
    return f"the installed vLLM does not know the option {key}; the nearest that it knows is {_nearest(key.replace('_', '-'), options)}"


def _quantization_errors(options: Mapping[str, t.Any], known: Known) -> list[str]:
    method = options.get("quantization")
    for key in ("quantization", "load-format"):
        plugin = PLUGINS.get(str(options.get(key)))
        if plugin and options[key] not in known.plugins:
            return [
                f"{key} is {options[key]}, which needs the plugin {plugin}, and that is not installed beside this vLLM: its CUDA variant "
                "(vllm_backend: cuda) brings it; on a CPU choose a model without quantization"
            ]
    if method is None or method in known.quantization | known.plugins:
        return []
    return [f"the installed vLLM does not know quantization {method}; the nearest that it knows is {_nearest(str(method), known.quantization)}"]


def _nearest(name: str, known: t.Collection[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), 1, 0)[0]


def environment_of(python: Path) -> str:
    """The directory of an interpreter's virtual environment, links resolved; the interpreter itself is a link out of it."""
    return str(python.parent.parent.resolve())
