# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import platform
import socket
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import Facts
from ansible_collections.baremetal.llm.plugins.module_utils._host_findings import DiskWant, EngineWant, PortWant, Wants
from ansible_collections.baremetal.llm.plugins.module_utils._host_requirements import BACKENDS, REQUIREMENTS
from ansible_collections.baremetal.llm.plugins.modules import host_check

ROOT = Path(__file__).resolve().parents[4]
Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            host_check.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_this_machine_is_looked_at_and_never_failed(call: Call) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        wanted = {"host": "box", "gpus": [99], "ports": [{"port": port}], "disk": [{"path": "/var/lib/llm/models", "bytes": 2**62}], "ram": 2**50}
        answer = call(**wanted)
        assert call(check=True, **wanted)["failures"] == answer["failures"]
    assert not answer["changed"]
    assert not answer.get("failed")
    failed = {failure["check"]: failure["message"] for failure in answer["failures"]}
    assert {"gpus", "ports", "disk", "ram"} <= set(failed)
    assert failed["ports"].startswith(f"box: port {port} for a service is taken by ")
    assert len(answer["table"]) >= len(answer["failures"]) + len(answer["warnings_found"])
    assert answer["facts"]["system"]["architecture"] == platform.machine()
    assert any(line.startswith("FAIL ports ") for line in answer["table"])


def test_without_a_name_the_host_names_itself(call: Call) -> None:
    assert call(ram=2**50)["failures"][-1]["message"].startswith(f"{platform.node()}: ")


def test_every_wish_arrives(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Wants] = []

    def findings(_facts: Facts, wants: Wants) -> list[t.Any]:
        seen.append(wants)
        return []

    monkeypatch.setattr(host_check, "findings", findings)
    call(
        engines=[{"name": "vllm"}, {"name": "llama_router", "method": "source", "backend": "cpu"}],
        gpus=["1"],
        disk=[{"path": "/a", "bytes": 5}, {"path": "/b"}],
        ports=[{"port": 80, "unit": "u"}, {"port": "81"}],
        ram=7,
        containers=True,
        driver_managed=True,
    )
    assert seen == [
        Wants(
            engines=(EngineWant("vllm", "", "auto"), EngineWant("llama_router", "source", "cpu")),
            gpus=(1,),
            disk=(DiskWant("/a", 5), DiskWant("/b", 0)),
            ports=(PortWant(80, "u"), PortWant(81, "")),
            ram=7,
            containers=True,
            driver_managed=True,
        )
    ]


def test_a_method_that_the_engine_does_not_have_is_refused(call: Call) -> None:
    answer = call(engines=[{"name": "vllm", "method": "archive"}])
    assert answer["failed"]
    assert "vllm cannot be installed by the method 'archive'" in answer["msg"]


def test_module_role_and_table_know_the_same_engines() -> None:
    of_module = yaml.safe_load(host_check.DOCUMENTATION)["options"]["engines"]["suboptions"]
    of_role = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]["preflight_engines"]
    methods = {method for ways in REQUIREMENTS.values() for method in ways} | {""}
    for options in (of_module, of_role["options"]):
        assert set(options["name"]["choices"]) == set(REQUIREMENTS)
        assert set(options["method"]["choices"]) == methods
        assert set(options["backend"]["choices"]) == set(BACKENDS)
