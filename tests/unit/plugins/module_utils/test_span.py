# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One server over several hosts, from the inventory to what each host has to have."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._host_wants import host_wants, vram_wants
from ansible_collections.baremetal.llm.plugins.module_utils._inventory import inventory_errors
from ansible_collections.baremetal.llm.plugins.module_utils._topology import PLAN, endpoints, host_plan

CATALOGUE: dict[str, dict[str, t.Any]] = {
    "giant": {"source": "hf:a/b", "engine": "vllm", "context": 8192},
    "small": {"source": "file:/srv/small.gguf", "sha256": "0" * 64, "engine": "llama_router"},
}
GROUPS = {"inference_servers": ["gpu01", "gpu02", "gpu03"], "gateways": ["gw"]}
Hosts = dict[str, dict[str, t.Any]]


def fleet(*serve: dict[str, t.Any], **gpu02: t.Any) -> Hosts:
    placed = list(serve) or [{"model": "giant", "gpus": [0, 1], "hosts": ["gpu02"]}]
    return {
        "gw": {"ansible_host": "10.0.0.9", "llm_keys": [{"name": "laptop"}]},
        "gpu01": {"ansible_host": "10.0.0.1", "llm_serve": placed},
        "gpu02": {"ansible_host": "10.0.0.2", **gpu02},
        "gpu03": {"ansible_host": "10.0.0.3"},
    }


def engines(hosts: Hosts, host: str) -> list[dict[str, t.Any]]:
    return list(host_plan(CATALOGUE, hosts, GROUPS, host)["engines"])


def parts(hosts: Hosts, host: str) -> list[dict[str, t.Any]]:
    return list(host_plan(CATALOGUE, hosts, GROUPS, host)["parts"])


def errors(*serve: dict[str, t.Any], **gpu02: t.Any) -> list[str]:
    return inventory_errors(CATALOGUE, fleet(*serve, **gpu02), GROUPS)


def test_every_host_runs_its_part_with_the_same_options() -> None:
    hosts = fleet()
    assert errors() == []
    (head,), (worker,) = engines(hosts, "gpu01"), parts(hosts, "gpu02")
    assert (head["service"], head["node_rank"], worker["service"], worker["node_rank"]) == ("vllm", 0, "vllm-part", 1)
    assert head["nodes"] == worker["nodes"] == ["10.0.0.1", "10.0.0.2"]
    assert head["master_port"] == worker["master_port"] == 29500
    assert head["gpus"] == worker["gpus"] == [0, 1]
    assert head["config"] == worker["config"] == {"max-model-len": 8192, "tensor-parallel-size": 2, "pipeline-parallel-size": 2}
    assert [host_plan(CATALOGUE, hosts, GROUPS, host)["models"][0]["name"] for host in ("gpu01", "gpu02")] == ["giant", "giant"]
    assert host_plan(CATALOGUE, hosts, GROUPS, "gpu03") == {"models": [], "parts": [], "engines": [], "firewall": []}


def test_only_the_head_is_an_endpoint() -> None:
    assert [endpoint["url"] for endpoint in endpoints(CATALOGUE, fleet(), GROUPS, "gw")] == ["http://10.0.0.1:8100"]


def test_a_host_can_be_a_head_and_a_part() -> None:
    own = [{"model": "small"}, {"model": "giant", "port": 8101, "hosts": ["gpu01"]}]
    hosts = fleet({"model": "giant", "hosts": ["gpu02"]}, llm_serve=own)
    assert inventory_errors(CATALOGUE, hosts, GROUPS) == []
    assert [[one["service"] for one in parts(hosts, host)] for host in ("gpu01", "gpu02")] == [["vllm-8101-part"], ["vllm-part"]]
    assert [[one["service"] for one in engines(hosts, host)] for host in ("gpu01", "gpu02")] == [["vllm"], ["llama-router", "vllm-8101"]]


def test_the_hosts_of_a_server_are_let_in_by_each_other_alone() -> None:
    head, worker = (host_plan(CATALOGUE, fleet(), GROUPS, host)["firewall"] for host in ("gpu01", "gpu02"))
    assert head == [{"ports": [8100], "sources": ["10.0.0.9"]}, {"ports": [29500, 29501, "32768-60999"], "sources": ["10.0.0.2"]}]
    assert worker == [{"ports": ["32768-60999"], "sources": ["10.0.0.1"]}]
    other = host_plan(CATALOGUE, fleet(llm_node_ports="20000-30000"), GROUPS, "gpu02")["firewall"]
    assert other == [{"ports": ["20000-30000"], "sources": ["10.0.0.1"]}]


def test_preflight_looks_at_all_of_them() -> None:
    head, worker, other = (host_wants(CATALOGUE, fleet(), GROUPS, host) for host in ("gpu01", "gpu02", "gpu03"))
    assert [one["port"] for one in head["ports"]] == [8100, 29500, 29501]
    assert (worker["ports"], worker["gpus"], worker["engines"][0]["name"]) == ([], [0, 1], "vllm")
    assert (other["engines"], other["gpus"]) == ([], [])
    (planned,) = vram_wants(CATALOGUE, fleet(), GROUPS, "gpu02")["deployments"]
    assert (planned["service"], planned["options"]["hosts"]) == ("vllm-part", ["gpu02"])
    assert (planned["options"]["tensor_parallel"], planned["options"]["pipeline_parallel"]) == (2, 2)


def test_without_gpus_every_host_has_a_part_of_every_layer() -> None:
    hosts = fleet({"model": "giant", "hosts": ["gpu02", "gpu03"]})
    assert parts(hosts, "gpu03")[0]["config"]["tensor-parallel-size"] == 3


def decided(service: str, **options: t.Any) -> dict[str, t.Any]:
    return {"plan": {"source": "nvml", "fits": True, "deployments": [{"service": service, "model": "giant", "options": options}]}}


def test_of_what_the_ledgers_decided_the_least_counts() -> None:
    hosts = fleet()
    hosts["gpu01"][PLAN] = decided("vllm", context=8192, parallel=256, kv_cache_memory=5000, gpus=[0, 1])
    hosts["gpu02"][PLAN] = decided("vllm-part", context=4096, parallel=256, kv_cache_memory=7000, gpus=[2, 3])
    (head,), (worker,) = engines(hosts, "gpu01"), parts(hosts, "gpu02")
    assert head["config"] == worker["config"]
    assert (head["config"]["max-model-len"], head["config"]["kv-cache-memory-bytes"]) == (4096, 5000)
    assert (head["gpus"], worker["gpus"]) == ([0, 1], [2, 3])
    assert endpoints(CATALOGUE, hosts, GROUPS, "gw")[0]["max_input_tokens"] == 4096


def test_a_run_for_some_of_the_hosts_is_refused() -> None:
    hosts = fleet()
    hosts["gpu02"][PLAN] = decided("vllm-part", context=4096)
    with pytest.raises(InputError, match="giant runs on gpu02 and gpu01 together: run the playbook for all of them"):
        host_plan(CATALOGUE, hosts, GROUPS, "gpu02")


@pytest.mark.parametrize(
    ("placed", "said"),
    [
        ({"hosts": ["gpu2"]}, "has the host 'gpu2', which must be in the group inference_servers: did you mean gpu02?"),
        ({"hosts": ["gw"]}, "has the host 'gw', which must be in the group inference_servers: it is in the inventory, but not there"),
        ({"hosts": ["gpu01"]}, "name each further host once, and not gpu01 itself"),
        ({"hosts": []}, "it must be a list of further inference servers"),
        ({"hosts": "gpu02"}, "it must be a list of further inference servers"),
        ({"hosts": ["gpu02"], "tensor_parallel": 2}, "tensor_parallel 2 x pipeline_parallel 1 = 2 parts, but 2 hosts (gpu01, gpu02) with GPUs 0, 1 make 4"),
        ({"hosts": ["gpu02"], "gpus": [], "tensor_parallel": 4}, "with one part each, because gpus is not given make 2"),
        ({"hosts": ["gpu02"], "data_parallel": 2}, "place the model on each host by itself"),
        ({"hosts": ["gpu02"], "extra": {"tensor-parallel-size": 4}}, "write tensor_parallel and pipeline_parallel"),
        ({"hosts": ["gpu02"], "extra": {"nnodes": 2}}, "which the role vllm sets itself"),
        ({"model": "small", "hosts": ["gpu02"]}, "the engine llama_router runs on one host"),
    ],
)
def test_what_cannot_be_one_server(placed: dict[str, t.Any], said: str) -> None:
    (found,) = errors({"model": "giant", "gpus": [0, 1], **placed})
    assert found.startswith(f"llm_serve of gpu01: {placed.get('model', 'giant')}")
    assert said in found


def test_a_host_must_be_known_by_its_address() -> None:
    (found,) = errors(ansible_host="gpu02.lan")
    assert "of gpu02 only gpu02.lan is known: give it an IP address, at which the others reach it, in llm_address" in found


def test_all_need_the_same_gpus() -> None:
    hosts = fleet(llm_gpus=[{"name": "RTX 3090", "count": 2}])
    hosts["gpu01"]["llm_gpus"] = [{"name": "RTX 4090", "count": 2}]
    (found,) = inventory_errors(CATALOGUE, hosts, GROUPS)
    assert "runs on RTX 4090, RTX 4090 of gpu01 and on RTX 3090, RTX 3090 of gpu02: all its hosts need the same GPUs" in found


def test_parts_with_one_name_on_one_host() -> None:
    hosts = fleet({"model": "giant", "hosts": ["gpu03"]}, llm_serve=[{"model": "giant", "hosts": ["gpu03"]}])
    (found,) = inventory_errors(CATALOGUE, hosts, GROUPS)
    assert found.startswith("gpu03 has parts of two servers with the port 8100, giant of gpu01 and giant of gpu02")
