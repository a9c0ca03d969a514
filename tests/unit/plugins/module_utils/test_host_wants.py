# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._host_requirements import BACKENDS, REQUIREMENTS
from ansible_collections.baremetal.llm.plugins.module_utils._host_wants import host_wants, vram_wants
from ansible_collections.baremetal.llm.plugins.module_utils._topology import ENGINES, PLAN, SERVERS

ROOT = Path(__file__).resolve().parents[4]
CATALOGUE: dict[str, dict[str, t.Any]] = {
    "chat": {"source": "hf:a/b", "files": [{"path": "x.gguf", "size": 5_000}, {"path": "y.gguf", "size": 700}], "engine": "llama_router"},
    "small": {"source": "hf:a/c", "files": ["s.gguf"], "engine": "llama_router"},
}
NOTHING = {"engines": [], "gpus": [], "disk": [], "ports": [], "ram": 0}
STANDBY = {"port": 4001, "unit": "llm-litellm-standby"}


def wants(variables: dict[str, t.Any], *groups: str) -> dict[str, t.Any]:
    return host_wants(CATALOGUE, {"box": variables}, {group: ["box"] for group in groups}, "box")


def test_an_inference_server() -> None:
    serve = [{"model": "chat", "gpus": [2, 0]}, {"model": "small", "gpus": [0]}, {"model": "chat", "gpus": [1], "port": 9001}]
    assert wants({"llm_serve": serve}, SERVERS) == {
        "engines": [{"name": "llama_router", "method": "", "backend": "auto"}],
        "gpus": [0, 1, 2],
        "disk": [{"path": "/var/lib/llm/models/chat", "bytes": 5_700}, {"path": "/var/lib/llm/models/small", "bytes": 0}],
        "ports": [{"port": 8081, "unit": "llm-llama-router"}, {"port": 9001, "unit": "llm-llama-router-9001"}],
        "ram": 0,
    }


@pytest.mark.parametrize(
    ("variables", "method"),
    [
        ({"llm_deployment": "container"}, "container"),
        ({"llm_deployment": "container", "llama_router_deployment": "native", "llama_router_method": "source"}, "source"),
        ({"llama_router_deployment": "container", "llama_router_method": "source"}, "container"),
    ],
)
def test_an_image_brings_what_the_other_ways_need(variables: dict[str, str], method: str) -> None:
    assert wants({"llm_serve": [{"model": "chat"}], **variables}, SERVERS)["engines"][0]["method"] == method


def test_the_hosts_own_variables_count() -> None:
    variables = {"llm_serve": [{"model": "chat"}], "llama_router_method": "source", "llama_router_backend": "cpu", "model_store_dir": "/srv/models"}
    found = wants(variables, SERVERS)
    assert found["engines"] == [{"name": "llama_router", "method": "source", "backend": "cpu"}]
    assert found["disk"] == [{"path": "/srv/models/chat", "bytes": 5_700}]
    assert found["gpus"] == []


def test_a_gateway() -> None:
    found = wants({"nginx_port": "8443", "llm_serve": [{"model": "chat"}]}, "gateways")
    assert found == {**NOTHING, "ports": [{"port": 8443, "unit": "llm-nginx"}, {"port": 4000, "unit": "llm-litellm"}, STANDBY], "ram": 3 * 2**29}


def test_both_at_once() -> None:
    found = wants({"llm_serve": [{"model": "small", "gpus": []}]}, SERVERS, "gateways")
    assert [port["port"] for port in found["ports"]] == [8081, 443, 4000, 4001]
    assert (found["gpus"], found["ram"]) == ([], 3 * 2**29)


def test_another_machine_is_wanted_nothing_of() -> None:
    assert wants({}, "clients") == NOTHING


def test_a_port_that_is_none() -> None:
    with pytest.raises(InputError, match="nginx_port is 'https': it must be a port number"):
        wants({"nginx_port": "https"}, "gateways")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_and_its_methods_are_in_the_table(engine: str) -> None:
    """What a catalogue may name, and how its role may install it, must be known to the preflight."""
    options = yaml.safe_load((ROOT / f"roles/{engine}/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((ROOT / f"roles/{engine}/defaults/main.yml").read_text())
    assert "container" in REQUIREMENTS[engine], "the other way to run it"
    methods = [method for method in REQUIREMENTS[engine] if method != "container"]
    if methods == [""]:
        assert f"{engine}_method" not in options, "there is only one way"
    else:
        assert set(options[f"{engine}_method"]["choices"]) == set(methods)
        assert defaults[f"{engine}_method"] == methods[0], "the engine's usual way is its first one"
    assert set(options[f"{engine}_backend"]["choices"]) == set(BACKENDS)


def memory(variables: dict[str, t.Any], *groups: str) -> dict[str, t.Any]:
    catalogue = {**CATALOGUE, "eyes": {"source": "hf:a/d", "files": ["m.gguf", "notes.md"], "mmproj": "mm.gguf", "engine": "llama_router", "revision": "v1"}}
    return vram_wants(catalogue, {"box": variables}, {group: ["box"] for group in groups}, "box")


def test_what_is_planned_are_the_options_as_the_user_wrote_them() -> None:
    decided = {"plan": {"deployments": [{"service": "llama-router", "model": "eyes", "options": {"context": 99}}]}}
    found = memory({"llm_serve": [{"model": "eyes", "gpus": [1], "kv_cache": "q8_0"}], PLAN: decided}, SERVERS)
    assert found["deployments"] == [
        {
            "model": "eyes",
            "engine": "llama_router",
            "service": "llama-router",
            "source": "hf:a/d",
            "revision": "v1",
            "files": ["m.gguf", "mm.gguf"],
            "options": {"mmproj": "mm.gguf", "gpus": [1], "kv_cache": "q8_0"},
        }
    ]


def test_how_many_models_a_router_holds() -> None:
    serve = [{"model": "chat"}, {"model": "small"}, {"model": "small", "port": 9001}]
    assert memory({"llm_serve": serve}, SERVERS)["models_max"] == {"llama-router": 2, "llama-router-9001": 1}
    assert memory({"llm_serve": serve, "llm_models_max": 1}, SERVERS)["models_max"] == {"llama-router": 1, "llama-router-9001": 1}


def test_what_else_takes_memory() -> None:
    budgets = [{"name": "ollama", "gpu": 0, "memory": "2GiB"}]
    assert memory({"llm_vram_budgets": budgets}, SERVERS, "gateways")["budgets"] == [*budgets, {"name": "gateway", "memory": 1536}]
    assert memory({}, SERVERS)["budgets"] == []
