# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Configuration files as a set: compared, staged together, validated together, then renamed into place."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import tempfile
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

#: Runs an argv and returns its exit status, standard output and standard error.
Runner = t.Callable[[list[str]], "tuple[int, str, str]"]


class ValidationError(LLMError):
    """A program refused a staged file; no file has been replaced."""


@dataclass(frozen=True)
class FileSpec:
    """A file as it shall be. ``validate`` is an argv in which ``%s`` stands for the staged file."""

    path: Path
    content: str
    mode: int = 0o644
    group: str = "root"
    secret: bool = False
    validate: tuple[str, ...] = ()


def compare(spec: FileSpec, difference: Difference) -> bool:
    """Record how the file on disk differs from its specification; return whether it does."""
    name = str(spec.path)
    try:
        found = spec.path.lstat()
    except FileNotFoundError:
        difference.add(name, None, spec.content, secret=spec.secret)
        return True
    if not stat.S_ISREG(found.st_mode):
        raise LLMError(f"{name} is not a regular file: move it away, this path belongs to baremetal.llm.")
    content = spec.path.read_bytes().decode(errors="replace")
    content_differs = difference.add(name, content, spec.content, secret=spec.secret)
    before = f"{_owner(found)} {stat.S_IMODE(found.st_mode):04o}"
    after = f"root:{spec.group} {spec.mode:04o}"
    access_differs = difference.add(f"{name} (owner, mode)", before, after)
    return content_differs or access_differs


def write(specs: t.Sequence[FileSpec], changed: t.Container[Path], run: Runner) -> None:
    """Replace the changed files atomically, after every validator of a directory with a change has agreed.

    All files of one directory are staged side by side in it, the unchanged ones too, so that includes which are
    relative to the validated file resolve to the new content.
    """
    directories: dict[Path, list[FileSpec]] = {}
    for spec in specs:
        directories.setdefault(spec.path.parent, []).append(spec)
    touched = {place: group for place, group in directories.items() if any(spec.path in changed for spec in group)}
    stages: dict[Path, Path] = {}
    try:
        for place, group in touched.items():
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            stages[place] = Path(tempfile.mkdtemp(prefix=".staged-", dir=place))
            for spec in group:
                _create(stages[place] / spec.path.name, spec)
        for place, group in touched.items():
            for spec in group:
                _validate(spec, stages[place] / spec.path.name, run)
        for place, group in touched.items():
            for spec in group:
                if spec.path in changed:
                    os.replace(stages[place] / spec.path.name, spec.path)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def _create(path: Path, spec: FileSpec) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(spec.content.encode())
        os.fchown(descriptor, 0, _group_id(spec.group))
        os.fchmod(descriptor, spec.mode)
        handle.flush()
        os.fsync(descriptor)


def _validate(spec: FileSpec, staged: Path, run: Runner) -> None:
    if not spec.validate:
        return
    status, out, err = run([part.replace("%s", str(staged)) for part in spec.validate])
    if status != 0:
        said = (err.strip() or out.strip())[-2000:].replace(str(staged.parent), str(spec.path.parent))
        raise ValidationError(f"{spec.path}: {spec.validate[0]} refuses the new content, so nothing was replaced: {said}")


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise LLMError(f"The group {group} does not exist on this host: create the service's user first.") from None


def _owner(found: os.stat_result) -> str:
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"{user}:{group}"
