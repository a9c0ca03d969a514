# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules of the role container_toolkit: that each option arrives, and what comes back."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._cdi import Outcome as Spec
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker, DockerError
from ansible_collections.baremetal.llm.plugins.module_utils._docker_daemon import Host
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_containers import Containers
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import Outcome
from ansible_collections.baremetal.llm.plugins.modules import cdi_spec, docker_daemon, gpu_containers_info

Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(gpu_containers_info.AnsibleModule, "warn", lambda _module, text: said.append(text))
    return said


def raises(exc: Exception) -> t.Callable[..., t.NoReturn]:
    def refuse(*_arguments: t.Any) -> t.NoReturn:
        raise exc

    return refuse


def test_docker_daemon(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def apply(wanted: dict[str, t.Any], present: bool, host: Host, check: bool) -> Outcome:
        seen.append((wanted, present, host.seconds, check))
        return Outcome(True, "reload", {"before": "a", "after": "b"})

    monkeypatch.setattr(docker_daemon, "apply", apply)
    answer = call(docker_daemon, check=True, settings={"features": {"cdi": True}}, timeout=5)
    assert (answer["changed"], answer["action"], answer["diff"]) == (True, "reload", {"before": "a", "after": "b"})
    call(docker_daemon, state="absent")
    assert seen == [({"features": {"cdi": True}}, True, 5, True), ({}, False, 60, False)]
    monkeypatch.setattr(docker_daemon, "apply", raises(InputError("/etc/docker/daemon.json, line 3: no")))
    assert call(docker_daemon)["msg"] == "/etc/docker/daemon.json, line 3: no"


def test_gpu_containers_info(call: Call, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    containers = [{"name": "a", "ok": False, "reason": "gone"}, {"name": "b", "ok": True, "reason": ""}]
    labels: list[str] = []

    def look(_docker: Docker, label: str) -> Containers:
        labels.append(label)
        return Containers(True, containers)

    monkeypatch.setattr(gpu_containers_info, "look", look)
    answer = call(gpu_containers_info, label="ours")
    assert (answer["changed"], answer["running"], answer["containers"], answer["lost"]) == (False, True, containers, ["a"])
    assert "- a: gone" in answer["message"]
    assert warnings == []
    call(gpu_containers_info, warn=True)
    assert warnings == [answer["message"]]
    assert labels == ["ours", ""]
    monkeypatch.setattr(gpu_containers_info, "look", raises(DockerError("it is ill")))
    assert call(gpu_containers_info)["msg"] == "it is ill"


def test_cdi_spec(call: Call, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdi_spec, "present", lambda _run, check: Spec(check, {}, "580.95.05", ["0"], "" if check else "no driver"))
    monkeypatch.setattr(cdi_spec, "absent", lambda check: Spec(not check, {}, "", []))
    answer = call(cdi_spec, check=True)
    assert (answer["changed"], answer["driver"], answer["devices"]) == (True, "580.95.05", ["0"])
    call(cdi_spec)
    assert warnings == ["no driver"]
    assert call(cdi_spec, state="absent")["changed"]
    monkeypatch.setattr(cdi_spec, "present", raises(InputError("no toolkit")))
    assert call(cdi_spec)["msg"] == "no toolkit"
