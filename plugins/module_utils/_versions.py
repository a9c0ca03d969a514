# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Versions side by side: ``<root>/<version>`` directories and the link ``current`` that says which one runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._download import locked

CURRENT = "current"


@contextlib.contextmanager
def scratch(root: Path) -> t.Iterator[Path]:
    """A directory beside the versions to prepare one in, on the same file system, for one process at a time.

    What an interrupted run left of its own scratch is removed first; downloads (``*.part``) survive in ``.downloads``.
    """
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(root):
        for rest in root.glob(".scratch-*"):
            shutil.rmtree(rest)
        place = Path(tempfile.mkdtemp(prefix=".scratch-", dir=root))
        place.chmod(0o755)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def linked(root: Path) -> str | None:
    """The version that ``current`` names."""
    try:
        return os.readlink(root / CURRENT)
    except FileNotFoundError:
        return None


def link(root: Path, version: str, difference: Difference, check: bool) -> None:
    """Turn ``current`` to the version, atomically."""
    if difference.add(str(root / CURRENT), linked(root), version) and not check:
        staged = root / f".{CURRENT}-{os.getpid()}"
        staged.symlink_to(version)
        os.replace(staged, root / CURRENT)
