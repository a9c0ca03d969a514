# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime as dt
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.filter import inventory_errors, key_fields, key_warnings

KEYS: list[dict[str, t.Any]] = [
    {"name": "a", "key": "sk-" + "a" * 64, "burst": 3, "expires": dt.date(2099, 1, 1), "grace": "1h", "rotate": dt.date(2026, 1, 1), "team": "lab"},
    {"name": "b", "expires": "2020-01-01"},
]


def filtered(module: t.Any, name: str, *arguments: t.Any) -> t.Any:
    return module.FilterModule().filters()[name](*arguments)


def test_each_gets_what_it_takes_and_only_nginx_the_values() -> None:
    first = [filtered(key_fields, "key_fields", KEYS, taker)[0] for taker in ("litellm", "files", "front_door")]
    assert first == [
        {"name": "a", "expires": "2099-01-02T00:00:00+00:00", "grace": "1h", "team": "lab"},
        {"name": "a", "grace": "1h", "rotate": "2026-01-01", "given": True},
        {"name": "a", "key": KEYS[0]["key"], "burst": 3},
    ]
    with pytest.raises(AnsibleFilterError, match="it must be a day or a time"):
        filtered(key_fields, "key_fields", [{"name": "x", "expires": "soon"}], "litellm")


def test_warnings() -> None:
    assert len(filtered(key_warnings, "key_warnings", KEYS, True)) == 1
    with pytest.raises(AnsibleFilterError, match="it must be a day or a time"):
        filtered(key_warnings, "key_warnings", [{"name": "x", "expires": "soon"}], True)


def test_the_files_are_looked_at_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/laptop").write_text("a" * 64)
    box = {"llm_serve": [{"model": "chat"}], "llm_keys": [{"name": "laptop"}], "llm_database": True}
    given = ({"chat": {"source": "file:/a.gguf", "engine": "llama_router"}}, {"box": box}, {"inference_servers": ["box"], "gateways": ["box"]})
    assert filtered(inventory_errors, "inventory_errors", *given) == []
    (found,) = filtered(inventory_errors, "inventory_errors", *given, str(tmp_path))
    assert "-e llm_rotate=laptop" in found
    assert filtered(inventory_errors, "inventory_errors", *given, str(tmp_path), ["laptop"]) == []
