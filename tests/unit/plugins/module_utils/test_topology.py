# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._topology import PLAN, endpoints, host_plan, litellm_models

CATALOGUE: dict[str, dict[str, t.Any]] = {
    "chat": {"source": "hf:a/b", "files": ["x-00002-of-2.gguf", "x-00001-of-2.gguf"], "engine": "llama_router", "context": 4096},
    "small": {"source": "file:/srv/small.gguf", "sha256": "0" * 64, "engine": "llama_router", "context": "auto"},
    "fast": {"source": "hf:a/d", "engine": "vllm", "context": 8192},
    "seeing": {"source": "hf:a/c", "files": ["m.gguf"], "mmproj": "mmproj.gguf", "engine": "llama_router"},
}


def one(serve: list[dict[str, t.Any]], **more: t.Any) -> tuple[dict[str, t.Any], dict[str, list[str]]]:
    return {"box": {"llm_serve": serve, **more}}, {"inference_servers": ["box"], "gateways": ["box"]}


def fleet() -> tuple[dict[str, t.Any], dict[str, list[str]]]:
    hostvars = {
        "gw": {},
        "gpu1": {"ansible_host": "10.0.0.1", "llm_serve": [{"model": "chat"}]},
        "gpu2": {"ansible_host": "gpu2.lan", "llm_address": "fd00::2", "llm_serve": [{"model": "chat"}, {"model": "small", "port": 9001}]},
        "gpu3": {"ansible_host": "gpu3.lan", "llm_serve": [{"model": "small"}]},
    }
    return hostvars, {"inference_servers": ["gpu1", "gpu2", "gpu3"], "gateways": ["gw"]}


def test_models_without_a_port_share_a_router_on_loopback() -> None:
    plan = host_plan(CATALOGUE, *one([{"model": "chat", "gpus": [1]}, {"model": "small"}]), "box")
    (router,) = plan["engines"]
    assert (router["service"], router["bind"], router["port"], router["models_max"]) == ("llama-router", "127.0.0.1", 8081, 2)
    assert router["models"]["chat"]["model"] == "/var/lib/llm/models/chat/x-00001-of-2.gguf"
    assert router["models"]["chat"]["device"] == "CUDA1"
    assert router["models"]["small"]["model"] == "/var/lib/llm/models/small/small.gguf"


def test_what_is_downloaded() -> None:
    plan = host_plan(CATALOGUE, *one([{"model": "small"}, {"model": "seeing"}]), "box")
    assert plan["models"] == [
        {"name": "small", "source": "file:/srv/small.gguf", "revision": "", "files": [{"path": "small.gguf", "sha256": "0" * 64}]},
        {
            "name": "seeing",
            "source": "hf:a/c",
            "revision": "",
            "files": [{"path": "m.gguf", "sha256": ""}, {"path": "mmproj.gguf", "sha256": ""}],
        },
    ]


def test_a_port_of_its_own_is_a_router_of_its_own() -> None:
    hostvars, groups = one([{"model": "chat"}, {"model": "small", "port": 9001}], llm_models_max=5)
    shared, own = host_plan(CATALOGUE, hostvars, groups, "box")["engines"]
    assert (shared["service"], shared["port"], shared["models_max"], list(shared["models"])) == ("llama-router", 8081, 5, ["chat"])
    assert (own["service"], own["port"], own["models_max"], list(own["models"])) == ("llama-router-9001", 9001, 1, ["small"])


def test_a_model_of_vllm_is_a_server_of_its_own_with_all_of_its_repository() -> None:
    serve: list[dict[str, t.Any]] = [{"model": "fast", "gpus": [0, 1]}, {"model": "fast", "port": 8101, "gpus": [2]}]
    plan = host_plan(CATALOGUE, *one(serve), "box")
    first, second = plan["engines"]
    assert (first["engine"], first["service"], first["port"], first["bind"]) == ("vllm", "vllm", 8100, "127.0.0.1")
    assert (first["model"], first["path"], first["gpus"]) == ("fast", "/var/lib/llm/models/fast", [0, 1])
    assert first["config"] == {"max-model-len": 8192, "tensor-parallel-size": 2}
    assert first["inputs"] == ["/var/lib/llm/models/fast/.verified.json"]
    assert (second["service"], second["port"], second["gpus"], second["config"]) == ("vllm-8101", 8101, [2], {"max-model-len": 8192})
    assert [engine["alone"] for engine in plan["engines"]] == [False, False]
    assert plan["models"] == [{"name": "fast", "source": "hf:a/d", "revision": "", "files": []}]


def test_a_gguf_is_given_to_vllm_as_the_file() -> None:
    catalogue = {"small": {**CATALOGUE["small"], "engine": "vllm"}}
    assert host_plan(catalogue, *one([{"model": "small"}]), "box")["engines"][0]["path"] == "/var/lib/llm/models/small/small.gguf"


def test_only_gateways_and_monitoring_reach_engines_that_listen_for_others() -> None:
    hostvars, groups = fleet()
    hostvars["gw"]["llm_address"] = "10.0.0.9"
    hostvars["watch"] = {}
    hostvars["gpu2"]["llm_firewall_sources"] = ["10.0.7.0/24"]
    groups["monitoring"] = ["watch", "gpu1"]
    firewalls = [host_plan(CATALOGUE, hostvars, groups, host)["firewall"] for host in groups["inference_servers"]]
    assert firewalls[0] == [{"ports": [8081], "sources": ["10.0.0.9", "watch"]}]
    assert firewalls[1] == [{"ports": [8081, 9001], "sources": ["10.0.0.1", "10.0.0.9", "10.0.7.0/24", "watch"]}]
    assert host_plan(CATALOGUE, *one([{"model": "chat"}]), "box")["firewall"] == []


def test_a_deployment_overrides_its_model() -> None:
    plan = host_plan(CATALOGUE, *one([{"model": "chat", "context": 512, "parallel": 2}]), "box")
    assert plan["engines"][0]["models"]["chat"]["ctx-size"] == "1024"


def test_nothing_placed_is_nothing_to_do() -> None:
    assert host_plan(CATALOGUE, *one([]), "box") == {"models": [], "parts": [], "engines": [], "firewall": []}


def test_engines_listen_where_the_gateway_reaches_them() -> None:
    hostvars, groups = fleet()
    binds = [host_plan(CATALOGUE, hostvars, groups, host)["engines"][0]["bind"] for host in groups["inference_servers"]]
    assert binds == ["10.0.0.1", "fd00::2", "0.0.0.0"]
    assert [endpoint["url"] for endpoint in endpoints(CATALOGUE, hostvars, groups, "gw")] == [
        "http://10.0.0.1:8081",
        "http://[fd00::2]:8081",
        "http://[fd00::2]:9001",
        "http://gpu3.lan:8081",
    ]


def test_equal_models_share_a_name_and_have_ids_of_their_own() -> None:
    hostvars, groups = fleet()
    found = litellm_models(endpoints(CATALOGUE, hostvars, groups, "gw"), "engine")
    assert [entry["model_name"] for entry in found] == ["chat", "chat", "small", "small"]
    assert [entry["model_info"]["id"] for entry in found] == ["chat@gpu1:8081", "chat@gpu2:8081", "small@gpu2:9001", "small@gpu3:8081"]
    assert found[0] == {
        "model_name": "chat",
        "litellm_params": {"model": "openai/chat", "api_base": "http://10.0.0.1:8081/v1", "litellm_credential_name": "engine"},
        "model_info": {"id": "chat@gpu1:8081", "mode": "chat", "max_input_tokens": 4096},
    }
    assert "max_input_tokens" not in found[2]["model_info"]


def test_adding_a_server_leaves_the_other_servers_alone() -> None:
    hostvars, groups = fleet()
    before = [host_plan(CATALOGUE, hostvars, groups, host) for host in groups["inference_servers"]]
    hostvars["gpu4"] = {"ansible_host": "10.0.0.4", "llm_serve": [{"model": "small"}]}
    groups = {**groups, "inference_servers": [*groups["inference_servers"], "gpu4"]}
    assert [host_plan(CATALOGUE, hostvars, groups, host) for host in groups["inference_servers"][:3]] == before
    assert endpoints(CATALOGUE, hostvars, groups, "gw")[-1]["url"] == "http://10.0.0.4:8081"


def test_a_model_that_is_not_there_is_an_error_even_without_preflight() -> None:
    with pytest.raises(InputError, match="box cannot serve nothing"):
        host_plan(CATALOGUE, *one([{"model": "nothing"}]), "box")


def decided(model: str, service: str = "llama-router", source: str = "nvml", fits: bool = True, **options: t.Any) -> dict[str, t.Any]:
    return {"known": True, "plan": {"source": source, "fits": fits, "deployments": [{"model": model, "service": service, "options": options}]}}


def test_what_the_ledger_decided_is_told_to_the_engine() -> None:
    hostvars, groups = one([{"model": "small"}])
    before = host_plan(CATALOGUE, hostvars, groups, "box")["engines"][0]["models"]["small"]
    assert "ctx-size" not in before
    hostvars["box"][PLAN] = decided("small", context=8192, parallel=2, kv_cache_k="q8_0", kv_cache_v="q8_0", gpus=[1], gpu_layers="all", cache_ram=2048)
    after = host_plan(CATALOGUE, hostvars, groups, "box")["engines"][0]["models"]["small"]
    assert after == {
        **before,
        "ctx-size": "16384",
        "parallel": "2",
        "cache-type-k": "q8_0",
        "cache-type-v": "q8_0",
        "device": "CUDA1",
        "n-gpu-layers": "all",
        "cache-ram": "2048",
        "fit": "off",
    }


def test_the_gateway_knows_the_context_that_the_ledger_decided() -> None:
    hostvars, groups = fleet()
    hostvars["gpu3"][PLAN] = decided("small", context=8192)
    found = {(endpoint["host"], endpoint["model"]): endpoint["max_input_tokens"] for endpoint in endpoints(CATALOGUE, hostvars, groups, "gw")}
    assert found == {("gpu1", "chat"): 4096, ("gpu2", "chat"): 4096, ("gpu2", "small"): None, ("gpu3", "small"): 8192}


def test_a_plan_of_another_router_is_not_this_ones() -> None:
    hostvars, groups = one([{"model": "small", "port": 9001}])
    hostvars["box"][PLAN] = decided("small", context=8192)
    assert "ctx-size" not in host_plan(CATALOGUE, hostvars, groups, "box")["engines"][0]["models"]["small"]


@pytest.mark.parametrize("plan", [{"source": "llm_gpus"}, {"source": "boards"}, {"fits": False}])
def test_an_engine_is_told_no_plan_that_may_not_hold(plan: dict[str, t.Any]) -> None:
    hostvars, groups = one([{"model": "small"}])
    hostvars["box"][PLAN] = decided("small", **plan, context=8192)
    assert "ctx-size" not in host_plan(CATALOGUE, hostvars, groups, "box")["engines"][0]["models"]["small"]


def test_a_host_whose_memory_is_not_known_yet_has_no_plan() -> None:
    hostvars, groups = one([{"model": "small"}])
    hostvars["box"][PLAN] = {"known": False, "plan": {}}
    assert "fit" not in host_plan(CATALOGUE, hostvars, groups, "box")["engines"][0]["models"]["small"]


def test_a_price_is_what_litellm_counts_of_each_token() -> None:
    priced = {"chat": {"source": "file:/a.gguf", "engine": "llama_router", "price": {"input": 0.5, "output": 2}}}
    found = endpoints(priced, {"box": {"llm_serve": [{"model": "chat"}]}}, {"inference_servers": ["box"], "gateways": ["box"]}, "box")
    (model,) = litellm_models(found)
    assert (model["litellm_params"]["input_cost_per_token"], model["litellm_params"]["output_cost_per_token"]) == (5e-07, 2e-06)
