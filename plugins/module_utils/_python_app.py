# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Python application in a virtual environment of its own, every requirement verified against its hash."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._versions import scratch

COMPLETE = ".complete"


@dataclass(frozen=True)
class PythonApp:
    """``target`` is ``<root>/<version>``; environments cannot be moved, so it is built in place and marked when complete."""

    name: str
    target: Path
    requirements: str
    python: str = "/usr/bin/python3"
    uv: str = ""
    cache: str = ""
    index: str = ""


def is_complete(app: PythonApp) -> bool:
    return (app.target / COMPLETE).exists()


def install(app: PythonApp, run: Runner) -> None:
    """Build the environment with uv where there is one, else with the pip of the environment itself."""
    with scratch(app.target.parent) as place:
        if is_complete(app):  # another run finished it while we waited
            return
        shutil.rmtree(app.target, ignore_errors=True)  # what an interrupted run left
        requirements = place / "requirements.txt"
        requirements.write_text(app.requirements)
        for command in _with_uv(app, requirements) if app.uv else _with_pip(app, requirements):
            status, out, err = run(command)
            if status != 0:
                said = (err.strip() or out.strip())[-2000:]
                raise LLMError(f"{app.name}: {' '.join(command[:3])} failed, {app.target} is incomplete and not used: {said}")
        (app.target / COMPLETE).touch()
        os.sync()


def _with_uv(app: PythonApp, requirements: Path) -> list[list[str]]:
    cache = ["--cache-dir", app.cache] if app.cache else ["--no-cache"]
    index = ["--default-index", app.index] if app.index else []
    common = ["--no-config", "--system-certs", "--no-python-downloads", *cache]
    return [
        [app.uv, "venv", *common, "--python", app.python, str(app.target)],
        [
            *[app.uv, "pip", "install", *common, *index, "--python", str(app.target / "bin" / "python")],
            # Only wheels: nothing is compiled, no code runs during the installation. The list is complete and has the last word.
            *["--require-hashes", "--no-deps", "--only-binary", ":all:", "--compile-bytecode", "--link-mode", "copy"],
            *["--requirements", str(requirements)],
        ],
    ]


def _with_pip(app: PythonApp, requirements: Path) -> list[list[str]]:
    index = ["--index-url", app.index] if app.index else []
    return [
        [app.python, "-m", "venv", str(app.target)],
        [
            *[str(app.target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir", *index],
            *["--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements)],
        ],
    ]
