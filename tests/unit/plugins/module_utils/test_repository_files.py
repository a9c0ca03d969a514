# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils._repository_files import needed


def test_weights_and_what_describes_them() -> None:
    assert needed(["README.md", "config.json", "model.safetensors", "tokenizer.model", "code/modeling.py", ".cache/x.json"]) == [
        "code/modeling.py",
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]


def test_weights_that_are_only_there_as_one_file_are_taken() -> None:
    assert needed(["consolidated.safetensors", "params.json"]) == ["consolidated.safetensors", "params.json"]


def test_other_formats_alone_are_nothing() -> None:
    assert needed(["config.json", "model.gguf", "original/model.safetensors"]) == []
