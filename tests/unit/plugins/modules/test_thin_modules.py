# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules that only hand their options over: that each option arrives, and what comes back."""

from __future__ import annotations

import hashlib
import json
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import App, Outcome, SystemdError
from ansible_collections.baremetal.llm.plugins.modules import artifact, python_app, systemd_app


def test_artifact_unpacks_from_a_mirror(call: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    (tmp_path / "tool-1").mkdir()
    (tmp_path / "tool-1/name").write_text("tool")
    packed = tmp_path / "mirror/example.org/tool-1.tar.gz"
    packed.parent.mkdir(parents=True)
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "tool-1", "tool-1")
    options = {"name": "tool", "version": "1", "root": str(tmp_path / "opt"), "url": "https://example.org/tool-1.tar.gz"}
    options |= {"mirror": str(tmp_path / "mirror"), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}
    assert call(artifact, check=True, **options)["changed"]
    assert not (tmp_path / "opt").exists()
    done = call(artifact, **options)
    assert (done["changed"], done["path"]) == (True, str(tmp_path / "opt/1"))
    assert (tmp_path / "opt/current/name").read_text() == "tool"
    assert not call(artifact, **options)["changed"]


def test_artifact_needs_one_address(call: t.Callable[..., dict[str, t.Any]]) -> None:
    assert "one of the following is required: url, pypi" in call(artifact, name="x", version="1", root="/nowhere")["msg"]
    assert "mutually exclusive" in call(artifact, name="x", version="1", root="/nowhere", url="u", pypi="p")["msg"]


def test_python_app_names_what_failed(call: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    options = {"name": "proxy", "path": str(tmp_path / "opt/1"), "requirements": "proxy==1", "uv": "/bin/false"}
    assert call(python_app, check=True, **options)["changed"]
    failed = call(python_app, **options)
    assert failed["failed"]
    assert failed["msg"].startswith("proxy: /bin/false venv --no-config failed")
    assert not (tmp_path / "opt/1/.complete").exists()


def test_systemd_app_hands_everything_over(call: t.Callable[..., dict[str, t.Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[App, bool]] = []

    def present(app: App, _run: t.Any, check: bool) -> Outcome:
        seen.append((app, check))
        return Outcome(True, "restart", {"before": "", "after": ""})

    monkeypatch.setattr(systemd_app, "present", present)
    secret = {"path": "/etc/x/key"}
    public = {"path": "/etc/x/conf", "content": "a", "mode": "0640", "validate": ["check", "%s"]}
    answer = call(
        systemd_app,
        check=True,
        **{"name": "llm-x", "unit": "[Service]", "user": "llm-x", "home": "/var/lib/x", "group": "llm-x", "ports": [80]},
        **{"files": [public], "secret_files": [secret], "secret_contents": ["hush-hush"], "inputs": ["/opt/x/current"], "reloadable": ["/etc/x/conf"]},
    )
    assert (answer["changed"], answer["action"]) == (True, "restart")
    assert "hush-hush" not in json.dumps(answer)
    ((app, check),) = seen
    assert check
    assert app.files == (
        FileSpec(Path("/etc/x/conf"), "a", 0o640, "llm-x", False, ("check", "%s")),
        FileSpec(Path("/etc/x/key"), "hush-hush", 0o640, "llm-x", True),
    )
    assert (app.name, app.user, app.home, app.ports) == ("llm-x", "llm-x", "/var/lib/x", (80,))
    assert (app.inputs, app.reloadable) == ((Path("/opt/x/current"),), frozenset({Path("/etc/x/conf")}))


def test_systemd_app_fails_with_the_name_of_the_unit(call: t.Callable[..., dict[str, t.Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_arguments: t.Any) -> Outcome:
        raise SystemdError("no systemd here")

    monkeypatch.setattr(systemd_app, "absent", absent)
    assert call(systemd_app, name="llm-x", state="absent")["msg"] == "llm-x: no systemd here"
    assert "unit" in call(systemd_app, name="llm-x")["msg"]
