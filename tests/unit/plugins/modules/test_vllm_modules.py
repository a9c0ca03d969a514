# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""vllm_config and vllm_ready as Ansible calls them, with an interpreter that answers what the real vLLM answered."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_config import ANSWER
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_ready import NotReady, Server, Warmth
from ansible_collections.baremetal.llm.plugins.modules import vllm_config, vllm_ready

KNOWN = json.loads((Path(__file__).parents[2] / "fixtures/vllm-0.32.0-known.json").read_text(encoding="utf-8"))
OPTIONS: dict[str, t.Any] = {"model": "/m/tiny", "max-num-seqs": 8}
KEY = "0123456789abcdef"
Call = t.Callable[..., dict[str, t.Any]]


class Config:
    def __init__(self, place: Path, call: Call) -> None:
        self.path = place / "etc/config.yaml"
        self.python = place / "env/bin/python"
        self.asked = place / "asked"
        self._call = call
        self.answer()

    def answer(self, program: str = "") -> None:
        """An interpreter that writes down the file it is shown and answers."""
        said = self.python.parent.parent / "answer"
        said.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(f"{ANSWER}{json.dumps({**KNOWN, 'error': ''})}\n", encoding="utf-8")
        self.python.parent.mkdir(exist_ok=True)
        self.python.write_text(f"#!/bin/sh\n{program or f'cat $3 >>{self.asked}; cat {said}'}\n", encoding="utf-8")
        self.python.chmod(0o755)

    def __call__(self, options: dict[str, t.Any] | None = None, **others: t.Any) -> dict[str, t.Any]:
        arguments = {"path": str(self.path), "python": str(self.python), "options": OPTIONS if options is None else options, "api_key": KEY, **others}
        return self._call(vllm_config, **arguments)


@pytest.fixture
def config(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Config:
    # the file belongs to root, whom the tests need not be
    monkeypatch.setattr(_files, "_owner", lambda found: "root:root")
    monkeypatch.setattr(os, "fchown", lambda *args: None)
    return Config(tmp_path, call)


def test_create_again_change(config: Config) -> None:
    result = config()
    assert (result["changed"], result["checked"]) == (True, True)
    assert f'api-key: ["{KEY}"]\nmax-num-seqs: 8\nmodel: "/m/tiny"\n' in config.path.read_text(encoding="utf-8")
    assert config.path.stat().st_mode & 0o777 == 0o640
    again = config()
    assert (again["changed"], again["checked"]) == (False, False)
    changed = config({**OPTIONS, "max-num-seqs": 16})
    assert "max-num-seqs: 8" in changed["diff"]["before"]
    assert "max-num-seqs: 16" in changed["diff"]["after"]


def test_the_key_is_neither_shown_nor_given_to_the_parser(config: Config) -> None:
    config()
    result = config(api_key="another-key-0123")
    assert result["changed"]
    assert KEY not in json.dumps(result)
    assert "another-key-0123" not in json.dumps({**result, "invocation": {}})
    assert "(secret)" in result["diff"]["after"]
    assert "key-0123" not in config.asked.read_text(encoding="utf-8")


def test_another_environment_checks_again(config: Config, tmp_path: Path) -> None:
    config()
    (tmp_path / "env").rename(tmp_path / "env2")
    (tmp_path / "env").symlink_to("env2")
    config.answer()
    assert config()["checked"]


def test_check_mode_checks_and_writes_nothing(config: Config) -> None:
    result = config(check=True)
    assert (result["changed"], result["checked"]) == (True, True)
    assert "max-num-seqs: 8" in result["diff"]["after"]
    assert not config.path.exists()
    assert config({"swap-space": 4}, check=True)["failed"]


def test_before_the_first_installation_only_check_mode_goes_on(config: Config) -> None:
    config.python.unlink()
    assert config(check=True)["changed"]
    assert "is not installed" in config()["msg"]
    assert not config.path.exists()


def test_an_unknown_option_changes_nothing(config: Config) -> None:
    config()
    before = config.path.read_bytes()
    assert "the nearest that it knows is max-model-len" in config({**OPTIONS, "max-model-lenn": 1})["msg"]
    assert config.path.read_bytes() == before


def test_an_environment_of_old_guides_is_refused(config: Config) -> None:
    assert "VLLM_USE_V1 is no longer read" in config(environment={"VLLM_USE_V1": "1"})["msg"]


def test_a_vllm_that_does_not_load_is_reported(config: Config) -> None:
    config.answer("echo libnuma.so.1 is missing >&2; exit 1")
    assert "cannot load vLLM, so the options cannot be checked: libnuma.so.1 is missing" in config()["msg"]


READY = {"url": "http://127.0.0.1:1", "api_key": KEY, "model": "tiny", "lengths": [8], "unit": "llm-vllm"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, t.Any]:
    state: dict[str, t.Any] = {"warm": False, "dies": False}

    def wait(_server: Server, _timeout: float, _restarts: t.Callable[[], int]) -> None:
        if state["dies"]:
            raise NotReady("it died while it started")

    monkeypatch.setattr(vllm_ready, "wait_until_healthy", wait)
    monkeypatch.setattr(vllm_ready, "is_warm", lambda _server: state["warm"])
    monkeypatch.setattr(vllm_ready, "warm_up", lambda _server, lengths, _timeout, _kind: [Warmth(length, 0.1) for length in lengths])
    monkeypatch.setattr(vllm_ready.AnsibleModule, "run_command", lambda _module, _command: (0, "ValueError: no memory\n", ""))
    return state


def test_a_cold_server_is_warmed_and_a_warm_one_left_alone(engine: dict[str, t.Any], call: Call) -> None:
    result = call(vllm_ready, **READY)
    assert (result["changed"], result["warmed"]) == (False, [{"tokens": 8, "seconds": 0.1}])
    engine["warm"] = True
    assert call(vllm_ready, **READY)["warmed"] == []


def test_what_the_log_says_is_told(engine: dict[str, t.Any], call: Call) -> None:
    engine["dies"] = True
    assert call(vllm_ready, **READY)["msg"] == "llm-vllm is not ready: it died while it started. Its log says: ValueError: no memory"


def test_check_mode_asks_nothing(engine: dict[str, t.Any], call: Call) -> None:
    engine["dies"] = True
    assert call(vllm_ready, check=True, **READY) == {"changed": False, "warmed": []} | {"invocation": call(vllm_ready, check=True, **READY)["invocation"]}


class Engine:
    """A Docker engine with a container that was started again four times, and with the images that it is told to have."""

    def __init__(self, *images: str) -> None:
        self.images = images

    def __call__(self) -> Engine:
        return self

    def image(self, image: str) -> dict[str, t.Any] | None:
        return {} if image in self.images else None

    def inspect(self, _name: str) -> dict[str, t.Any]:
        return {"RestartCount": 4}


def test_the_vllm_of_an_image_is_asked_there(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def run_program(_docker: t.Any, image: str, command: list[str], **others: t.Any) -> tuple[int, str, str]:
        seen.append((image, command[0], others["read"] == [str(Path(command[3]).parent)], others["gpus"], Path(command[3]).read_text()))
        return 0, f"{ANSWER}{json.dumps({**KNOWN, 'error': ''})}\n", ""

    monkeypatch.setattr(vllm_config, "run_program", run_program)
    monkeypatch.setattr(vllm_config, "Docker", Engine("sha256:1"))
    image: dict[str, t.Any] = {"image": "sha256:1", "python": "python3", "gpu": True}
    assert config(**image)["checked"]
    assert seen[0][:4] == ("sha256:1", "python3", True, True)
    assert KEY not in seen[0][4]
    assert "# Checked with sha256:1" in config.path.read_text(encoding="utf-8")
    assert not config(**image)["checked"]
    assert "does not know the option max-num-seq;" in config({"max-num-seq": 1}, **image)["msg"]
    other: dict[str, t.Any] = {**image, "image": "sha256:2"}
    assert "sha256:2 is not installed" in config(**other)["msg"]
    assert not config(check=True, **other)["checked"]


def test_a_container_that_does_not_stay_up_is_noticed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_until_healthy(_server: Server, _timeout: float, restarts: t.Callable[[], int]) -> None:
        raise NotReady(f"restarted {restarts()} times")

    monkeypatch.setattr(vllm_ready, "wait_until_healthy", wait_until_healthy)
    monkeypatch.setattr(vllm_ready, "unit_state", lambda *_arguments: {"LoadState": "not-found", "NRestarts": ""})
    monkeypatch.setattr(vllm_ready, "_log", lambda _module: "")
    monkeypatch.setattr(vllm_ready, "Docker", Engine())
    assert "restarted 4 times" in call(vllm_ready, url="http://127.0.0.1:1", model="m", api_key="k", unit="llm-x")["msg"]
