# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files of a hub's repository an engine needs that takes a model as its directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

WEIGHTS = ".safetensors"
# Configuration, tokenizers, chat templates, and code of models that bring their own (which runs only with trust_remote_code).
_BESIDES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
# The same weights once more, as their makers' own programs read them.
_TWICE = ("original", "metal", "onnx", "openvino")
_CONSOLIDATED = "consolidated"


def needed(names: Iterable[str]) -> list[str]:
    """Weights and what describes them; none if there are no safetensors. Hidden files and other formats of the same weights stay away."""
    files = [name for name in sorted(names) if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    weights = [name for name in files if name.endswith(WEIGHTS) and "/" not in name]
    sharded = [name for name in weights if not name.startswith(_CONSOLIDATED)]
    besides = [name for name in files if name.endswith(_BESIDES) and PurePosixPath(name).parts[0] not in _TWICE]
    return sorted([*(sharded or weights), *besides]) if weights else []
