# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""llama_preset as Ansible calls it, with a program that prints the real server's recorded help."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.module_utils import _files
from ansible_collections.baremetal.llm.plugins.modules import llama_preset

HELP = Path(__file__).parents[2] / "fixtures/llama-server-b11434-help.txt"
MODELS: dict[str, t.Any] = {"coder": {"model": "/m/coder.gguf", "ctx-size": 4096, "load-on-startup": True}}


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(f'#!/bin/sh\n[ "$*" = --help ] && exec cat {HELP}\nexit 64\n', encoding="utf-8")
    path.chmod(0o755)
    return path


class Preset:
    def __init__(self, path: Path, binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.binary, self._capsys = path, binary, capsys

    def __call__(self, models: dict[str, t.Any] | None = None, check: bool = False, **others: t.Any) -> dict[str, t.Any]:
        arguments = {"path": str(self.path), "binary": str(self.binary), "models": MODELS if models is None else models, **others}
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            llama_preset.main()
        return json.loads(self._capsys.readouterr().out)


@pytest.fixture
def preset(tmp_path: Path, binary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Preset:
    # the file belongs to root, whom the tests need not be
    monkeypatch.setattr(_files, "_owner", lambda found: "root:root")
    monkeypatch.setattr(os, "fchown", lambda *args: None)
    return Preset(tmp_path / "etc" / "preset.ini", binary, capsys)


def test_create_again_change(preset: Preset) -> None:
    result = preset(common={"flash-attn": "auto"})
    assert result["changed"]
    assert result["startup"] == ["coder"]
    assert preset.path.read_text(encoding="utf-8") == (
        "version = 1\n\n[*]\nflash-attn = auto\n\n[coder]\nctx-size = 4096\nload-on-startup = true\nmodel = /m/coder.gguf\n"
    )
    assert not preset(common={"flash-attn": "auto"})["changed"]
    changed = preset({"coder": {**MODELS["coder"], "ctx-size": 8192}}, common={"flash-attn": "auto"})
    assert changed["changed"]
    assert "ctx-size = 4096" in changed["diff"]["before"]
    assert "ctx-size = 8192" in changed["diff"]["after"]


def test_check_mode_shows_the_change_and_writes_nothing(preset: Preset) -> None:
    result = preset(check=True)
    assert result["changed"]
    assert "[coder]" in result["diff"]["after"]
    assert not preset.path.exists()


def test_an_unknown_key_changes_nothing(preset: Preset) -> None:
    preset()
    before = preset.path.read_bytes()
    result = preset({**MODELS, "chat": {"model": "/m/chat.gguf", "ctxsize": 1}})
    assert result["failed"]
    assert "the model chat has the option ctxsize" in result["msg"]
    assert "nearest that it knows is ctx-size" in result["msg"]
    assert preset.path.read_bytes() == before


def test_an_unchanged_file_is_checked_against_the_binary_of_today(preset: Preset) -> None:
    preset()
    preset.binary.write_text("#!/bin/sh\necho '-m,    --model FNAME    model path'\n", encoding="utf-8")
    assert "ctx-size" in preset()["msg"]


def test_before_the_first_installation_only_check_mode_goes_on(preset: Preset) -> None:
    preset.binary.unlink()
    assert preset(check=True)["changed"]
    assert "is not installed" in preset()["msg"]
    assert not preset.path.exists()


def test_a_binary_that_does_not_start_is_reported(preset: Preset) -> None:
    preset.binary.write_text("#!/bin/sh\necho no libcuda >&2\nexit 127\n", encoding="utf-8")
    assert "--help failed" in preset()["msg"]
    assert "no libcuda" in preset()["msg"]


def test_models_that_load_at_startup_must_fit_the_limit(preset: Preset) -> None:
    models = {name: MODELS["coder"] for name in ("a", "b")}
    assert "may hold 1 models, but 2 of them load at start-up (a, b)" in preset(models, models_max=1)["msg"]
    assert preset(models, models_max=2)["startup"] == ["a", "b"]
