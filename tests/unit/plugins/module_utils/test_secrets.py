# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._secrets import ensure_secret


def test_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    made = ensure_secret(str(directory), "keys/laptop", prefix="sk-")
    assert re.fullmatch(r"sk-[0-9a-f]{64}", made)
    assert ensure_secret(str(directory), "keys/laptop", prefix="other-") == made
    assert stat.S_IMODE((directory / "keys" / "laptop").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.joinpath("keys").stat().st_mode) == 0o700
    assert [path.name for path in directory.joinpath("keys").iterdir()] == ["laptop"]


def test_processes_that_race_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        values = set(pool.map(lambda _number: ensure_secret(str(tmp_path), "one"), range(64)))
    assert len(values) == 1


@pytest.mark.parametrize("name", ["", "../out", "a/../../b", "/etc/x", "a b"])
def test_a_name_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a secret"):
        ensure_secret(str(tmp_path), name)


def test_an_empty_file_is_an_error_and_not_an_empty_secret(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        ensure_secret(str(tmp_path), "one")
