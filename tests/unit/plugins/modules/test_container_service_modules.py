# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules behind a service in a container: that each option arrives, and what comes back."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._container_app import ContainerApp, Host, Outcome
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, NoDocker
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import Outcome as UnitOutcome
from ansible_collections.baremetal.llm.plugins.modules import container_app, container_image_info, llama_preset, systemd_app

Call = t.Callable[..., dict[str, t.Any]]
DIGEST = f"sha256:{'0' * 64}"
NOTHING = {"before": "", "after": ""}


class Engine:
    def __init__(self, there: bool = True, has: bool = True) -> None:
        self.there, self.has = there, has

    def __call__(self) -> Engine:
        return self

    def engine_version(self) -> str:
        if not self.there:
            raise NoDocker("No Docker engine listens.")
        return "26.1.5"

    def image(self, _image: str) -> dict[str, t.Any] | None:
        self.engine_version()
        return {} if self.has else None

    def inspect(self, name: str) -> dict[str, t.Any] | None:
        self.engine_version()
        return {"Config": {"Image": f"x@{DIGEST}"}} if name == "llm-x" else None


def test_container_app(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ContainerApp] = []

    def prepare(app: ContainerApp, _host: Host, check: bool) -> Outcome:
        seen.append(app)
        return Outcome(True, {"before": "a", "after": "b"}, True, "20.10.24", (7, 8))

    monkeypatch.setattr(container_app, "prepare", prepare)
    options = {
        "name": "llm-x",
        "image": f"x@{DIGEST}",
        "home": "/var/lib/llm/x",
        "files": [{"path": "/etc/llm/x/a", "content": "a", "validate": ["check", "%s"]}],
        "secret_files": [{"path": "/etc/llm/x/key"}],
        "secret_contents": ["k3y"],
        "inputs": ["/model"],
        "ports": [8081],
        "units": ["llm-x-standby"],
        "leftovers": ["/opt/llm/x"],
    }
    answer = call(container_app, **options)
    assert (answer["restart"], answer["cdi"], answer["uid"], answer["gid"], answer["changed"]) == (True, False, 7, 8, True)
    (app,) = seen
    assert [(spec.path, spec.content, spec.mode, spec.group, spec.secret, spec.validate) for spec in app.files] == [
        (Path("/etc/llm/x/a"), "a", 0o644, "llm-x", False, ("check", "%s")),
        (Path("/etc/llm/x/key"), "k3y", 0o640, "llm-x", True, ()),
    ]
    assert (app.inputs, app.ports, app.leftovers) == ((Path("/model"),), (8081,), (Path("/opt/llm/x"),))
    assert app.units == ("llm-x", "llm-x-standby")
    assert "k3y" not in str(answer)
    assert "equal length" in call(container_app, **{**options, "secret_contents": []})["msg"]


def test_container_app_absent(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def absent(name: str, _docker: Docker, check: bool, image: bool) -> Outcome:
        seen.append((name, check, image))
        return Outcome(True, NOTHING)

    monkeypatch.setattr(container_app, "absent", absent)
    assert call(container_app, check=True, name="llm-x", state="absent")["changed"]
    call(container_app, name="llm-x", state="absent", purge=True)
    assert seen == [("llm-x", True, False), ("llm-x", False, True)]


def test_container_image_info(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = {name: {"name": "x", "tag": name, "digest": DIGEST} for name in ("cpu", "cuda12")}
    monkeypatch.setattr(container_image_info, "DEVICE", tmp_path / "nvidia0")
    monkeypatch.setattr(container_image_info, "driver_version", lambda: "575.1")
    monkeypatch.setattr(container_image_info, "Docker", Engine(has=False))
    answer = call(container_image_info, images=images, registry="lan:5000")
    assert (answer["image"], answer["gpu"], answer["present"], answer["engine"]) == (f"lan:5000/x@{DIGEST}", False, False, "26.1.5")
    assert [call(container_image_info, images=images, container=name)["used"] for name in ("", "llm-x", "llm-y")] == ["", f"x@{DIGEST}", ""]
    (tmp_path / "nvidia0").touch()
    assert call(container_image_info, images=images)["gpu"]
    assert not call(container_image_info, images=images, backend="cpu")["gpu"]
    assert "set some_image to" in call(container_image_info, images={}, variable="some_image")["msg"]
    monkeypatch.setattr(container_image_info, "Docker", Engine(there=False))
    assert "Run the role container_toolkit" in call(container_image_info, images=images)["msg"]
    assert call(container_image_info, check=True, images=images)["engine"] == ""


def test_a_preset_is_checked_in_the_image_when_it_changes(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[t.Any] = []

    def run_program(_docker: t.Any, image: str, command: list[str]) -> tuple[int, str, str]:
        runs.append((image, command))
        return 0, "-c, --ctx-size N  size\n-m, --model FNAME  model\n", ""

    monkeypatch.setattr(llama_preset, "run_program", run_program)
    monkeypatch.setattr(llama_preset, "Docker", Engine())
    written: dict[Path, str] = {}
    monkeypatch.setattr(llama_preset, "compare", lambda spec, difference: difference.add(str(spec.path), written.get(spec.path), spec.content))
    monkeypatch.setattr(llama_preset, "write", lambda specs, *_rest: written.update({spec.path: spec.content for spec in specs}))
    options = {"path": str(tmp_path / "p.ini"), "binary": "/app/llama-server", "image": f"x@{DIGEST}", "models": {"a": {"model": "/m.gguf"}}}
    assert call(llama_preset, **options)["changed"]
    assert not call(llama_preset, **options)["changed"]
    assert runs == [(f"x@{DIGEST}", ["/app/llama-server", "--help"])]
    assert call(llama_preset, **{**options, "image": "sha256:1"})["changed"]  # another image reads it
    assert "nearest that it knows is ctx-size" in call(llama_preset, **{**options, "models": {"a": {"ctx-sise": 1}}})["msg"]
    assert len(runs) == 3
    for engine in (Engine(has=False), Engine(there=False)):
        monkeypatch.setattr(llama_preset, "Docker", engine)
        assert call(llama_preset, check=True, **{**options, "image": "sha256:2"})["changed"]
        assert "Pull it first" in call(llama_preset, **{**options, "image": "sha256:2"})["msg"]


def test_a_unit_takes_the_place_of_a_container(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []

    def container_absent(name: str, _docker: Docker, check: bool) -> Outcome:
        done.append(f"end {name}{' perhaps' if check else ''}")
        return Outcome(True, {"before": "container\n", "after": ""})

    def present(*_arguments: t.Any) -> UnitOutcome:
        done.append("start")
        return UnitOutcome(False, "", NOTHING)

    monkeypatch.setattr(systemd_app, "UNIT_DIRECTORY", tmp_path)
    monkeypatch.setattr(systemd_app, "container_absent", container_absent)
    monkeypatch.setattr(systemd_app, "present", present)
    options = {"name": "llm-x", "unit": "[Service]", "container": "llm-x"}
    answer = call(systemd_app, **options)
    assert (answer["changed"], answer["diff"]["before"]) == (True, "container\n")
    call(systemd_app, check=True, **options)
    (tmp_path / "llm-x.service").touch()  # it is the way already: the engine is left alone
    assert not call(systemd_app, **options)["changed"]
    assert done == ["end llm-x", "start", "end llm-x perhaps", "start", "start"]
