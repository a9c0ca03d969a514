# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, ValidationError, compare, write

GROUP = grp.getgrgid(os.getgid()).gr_name


class Run:
    """Records the commands, and answers each with the content of the staged file's directory."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.calls: list[list[str]] = []
        self.staged: dict[str, str] = {}

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.calls.append(command)
        self.staged = {path.name: path.read_text() for path in Path(command[-1]).parent.iterdir()}
        return self.status, "", f"broken: {command[-1]}"


def spec(path: Path, content: str = "new\n", **more: object) -> FileSpec:
    return FileSpec(path, content, group=GROUP, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)  # the tests need not be root


def test_a_missing_file_differs_and_is_created_with_its_mode(tmp_path: Path) -> None:
    difference, target = Difference(), spec(tmp_path / "etc" / "a", mode=0o640)
    assert compare(target, difference)
    write([target], {target.path}, Run())
    assert target.path.read_text() == "new\n"
    assert target.path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in target.path.parent.iterdir()] == ["a"]


def test_only_the_mode_differs(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("new\n")
    path.chmod(0o600)
    difference = Difference()
    assert compare(spec(path), difference)
    assert difference.as_dict()["before"].startswith(f"{path} (owner, mode): ")


def test_the_validator_sees_all_files_of_the_directory_side_by_side(tmp_path: Path) -> None:
    run = Run()
    main, unchanged = spec(tmp_path / "main", "include other", validate=("check", "-c", "%s")), spec(tmp_path / "other", "same")
    unchanged.path.write_text("same")
    write([main, unchanged], {main.path}, run)
    assert run.staged == {"main": "include other", "other": "same"}
    assert main.path.read_text() == "include other"


def test_a_refused_file_replaces_nothing(tmp_path: Path) -> None:
    first, second = spec(tmp_path / "a", "1"), spec(tmp_path / "b" / "b", "2", validate=("check", "%s"))
    first.path.write_text("0")
    with pytest.raises(ValidationError, match=f"check refuses the new content, so nothing was replaced: broken: {tmp_path}/b/b"):
        write([first, second], {first.path, second.path}, Run(status=1))
    assert first.path.read_text() == "0"
    assert not second.path.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_nothing_is_validated_where_nothing_changed(tmp_path: Path) -> None:
    run, same = Run(), spec(tmp_path / "a", validate=("check", "%s"))
    same.path.write_text("new\n")
    write([same], set(), run)
    assert run.calls == []


def test_a_directory_in_the_way_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LLMError, match="not a regular file"):
        compare(spec(tmp_path), Difference())
