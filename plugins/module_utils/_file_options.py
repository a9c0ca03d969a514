# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a service as options of a module; the doc fragment ``service_files`` describes them."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec

Options = dict[str, dict[str, t.Any]]


def file_options() -> Options:
    """For the argument spec of a module."""
    return {
        "files": {"type": "list", "elements": "dict", "default": [], "options": _of_one("0644", content={"type": "str", "required": True})},
        "secret_files": {"type": "list", "elements": "dict", "default": [], "no_log": False, "options": _of_one("0640")},
        "secret_contents": {"type": "list", "elements": "str", "default": [], "no_log": True},
    }


def file_specs(params: Mapping[str, t.Any], group: str) -> tuple[FileSpec, ...]:
    """All of them belong to root and to ``group``."""
    if len(params["secret_files"]) != len(params["secret_contents"]):
        raise InputError("secret_files and secret_contents must be of equal length.")
    public = [_spec(entry, entry["content"], group, False) for entry in params["files"]]
    secret = [_spec(entry, content, group, True) for entry, content in zip(params["secret_files"], params["secret_contents"])]
    return (*public, *secret)


def _of_one(mode: str, **more: dict[str, t.Any]) -> Options:
    return {
        "path": {"type": "path", "required": True},
        "mode": {"type": "str", "default": mode},
        "validate": {"type": "list", "elements": "str", "default": []},
        **more,
    }


def _spec(entry: Mapping[str, t.Any], content: str, group: str, secret: bool) -> FileSpec:
    return FileSpec(Path(entry["path"]), content, int(entry["mode"], 8), group, secret, tuple(entry["validate"]))
