# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._python_app import PythonApp, install, is_complete


class Run:
    def __init__(self, fail_at: str = "") -> None:
        self.fail_at = fail_at
        self.calls: list[list[str]] = []
        self.requirements = ""

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.calls.append(command)
        if command[-1].endswith("requirements.txt"):
            self.requirements = Path(command[-1]).read_text()
        else:
            Path(command[-1]).mkdir()
        return (1, "", "no network") if self.fail_at in command and self.fail_at else (0, "", "")


def app(tmp_path: Path, uv: str = "/opt/uv") -> PythonApp:
    return PythonApp("proxy", tmp_path / "proxy/1-abc", "proxy==1 --hash=sha256:0", uv=uv)


@pytest.mark.parametrize("uv", ["/opt/uv", ""])
def test_built_from_hashed_wheels_only_and_marked(tmp_path: Path, uv: str) -> None:
    run, wanted = Run(), app(tmp_path, uv)
    install(wanted, run)
    assert is_complete(wanted)
    assert run.requirements == "proxy==1 --hash=sha256:0"
    assert "--require-hashes" in run.calls[-1]
    assert ("--no-deps" in run.calls[-1]) == bool(uv)
    assert run.calls[-1][run.calls[-1].index("--only-binary") + 1] == ":all:"
    assert run.calls[0][0] == (uv or "/usr/bin/python3")
    assert [path.name for path in (tmp_path / "proxy").iterdir()] == ["1-abc"]


def test_a_failure_leaves_it_unused_and_the_next_run_starts_afresh(tmp_path: Path) -> None:
    wanted = app(tmp_path)
    with pytest.raises(LLMError, match="proxy: /opt/uv pip install failed.*no network"):
        install(wanted, Run(fail_at="pip"))
    assert not is_complete(wanted)
    (wanted.target / "left-over").touch()
    install(wanted, Run())
    assert is_complete(wanted)
    assert not (wanted.target / "left-over").exists()


def test_complete_is_complete(tmp_path: Path) -> None:
    wanted = app(tmp_path)
    install(wanted, Run())
    again = Run()
    install(wanted, again)
    assert again.calls == []
