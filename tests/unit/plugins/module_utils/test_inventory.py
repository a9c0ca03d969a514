# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._inventory import inventory_errors

MODEL: dict[str, t.Any] = {"source": "file:/srv/chat.gguf", "engine": "llama_router"}
CLIENTS = [{"name": "laptop"}]


def errors(models: dict[str, t.Any] | None = None, serve: t.Any = None, clients: t.Any = None, **host: t.Any) -> list[str]:
    catalogue = {"chat": MODEL} if models is None else models
    placed = [{"model": "chat"}] if serve is None else serve
    hostvars = {"box": {"llm_serve": placed, "llm_keys": CLIENTS if clients is None else clients, **host}}
    return inventory_errors(catalogue, hostvars, {"inference_servers": ["box"], "gateways": ["box"]})


def test_a_good_inventory_has_none() -> None:
    assert errors() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "s3://x"}, "llm_models.chat.source is 's3://x': it must be hf:"),
        ({"source": None}, "llm_models.chat.source is None"),
        ({"source": "hf:a/b"}, "llm_models.chat.files is empty"),
        ({"engine": "lama_router"}, "llm_models.chat.engine is 'lama_router': did you mean llama_router"),
        ({"contxt": 5}, "llm_models.chat.contxt is not an option: did you mean context"),
        ({"sha256": "abc"}, "llm_models.chat: sha256 of chat.gguf is 'abc'"),
        ({"files": ["../../etc/passwd.gguf"]}, "leaves the model's directory"),
        ({"files": ["README.md"]}, "llm_models.chat has no .gguf file"),
        ({"files": "chat.gguf"}, "llm_models.chat.files is 'chat.gguf': it must be a list"),
        ({"kv_cache": "q9_0"}, "q9_0"),
        ({"context": -1}, "-1"),
    ],
)
def test_a_wrong_model(change: dict[str, t.Any], said: str) -> None:
    found = errors({"chat": {**MODEL, **change}})
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize("name", ["Chat", "a b", "-x", "x" * 64, "models/chat"])
def test_a_name_that_is_no_model_id(name: str) -> None:
    assert any("is no model id" in error for error in errors({name: MODEL, "chat": MODEL}))


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ([{"model": "caht"}], "llm_serve of box places the model 'caht', which is not in llm_models: did you mean chat"),
        ([{"model": "chat", "gpu": [0]}], "llm_serve of box: chat has the unknown option 'gpu': did you mean gpus"),
        ([{"model": "chat", "gpus": 0}], "llm_serve of box: chat has gpus 0"),
        ([{"model": "chat", "gpus": [0, 0]}], "has gpus [0, 0]"),
        ([{"model": "chat", "port": 0}], "has port 0: it must be a number from 1 to 65535"),
        ([{"model": "chat"}, {"model": "chat"}], "places chat twice on port 8081"),
        ([{"model": "chat", "port": 9000}, {"model": "small", "port": 9000}], "port 9000 of small is already taken by chat"),
        ([{"model": "chat"}, {"model": "small", "port": 8081}], "port 8081 of small is already taken by llama-router"),
        ([{"model": "small", "port": 8081}, {"model": "chat"}], "port 8081 of chat is already taken by small"),
        ([{"model": "chat", "port": 4000}], "port 4000 of chat is already taken by LiteLLM (litellm_port)"),
        ([{"model": "chat", "port": 4001}], "port 4001 of chat is already taken by LiteLLM (litellm_standby_port)"),
        ([{"model": "chat", "port": 443}], "port 443 of chat is already taken by nginx (nginx_port)"),
        ([{"model": "chat", "kv_cache_v": "q4_0", "flash_attention": "off"}], "flash"),
        ("chat", "llm_serve of box is 'chat': it must be a list of mappings"),
        ([], "No host of inference_servers has an llm_serve"),
    ],
)
def test_a_wrong_placement(serve: t.Any, said: str) -> None:
    found = errors({"chat": MODEL, "small": MODEL}, serve)
    assert len(found) == 1, found
    assert said in found[0]


def test_keys_are_looked_at_too() -> None:
    (found,) = errors(clients=[{"name": "a b"}])
    assert "'a b' is no name here" in found
    (found,) = errors(llm_clients=[])
    assert found == "llm_clients of box has a new name: rename it to llm_keys."


@pytest.mark.parametrize("price", [3, {"input": 1}, {"input": -1, "output": 1}, {"input": "a", "output": 1}, {"input": 1, "output": 1, "x": 1}])
def test_a_wrong_price(price: t.Any) -> None:
    (found,) = errors({"chat": {**MODEL, "price": price}})
    assert found.startswith("llm_models.chat.price is")
    assert errors({"chat": {**MODEL, "price": {"input": 0.5, "output": 2}}}) == []


def test_gateways_that_share_a_database() -> None:
    hostvars: dict[str, dict[str, t.Any]] = {
        "gpu1": {"llm_serve": [{"model": "chat"}], "ansible_host": "10.0.0.1"},
        "gw1": {"llm_keys": CLIENTS, "llm_database": True, "ansible_host": "10.0.0.2"},
        "gw2": {"llm_keys": CLIENTS, "llm_database": True, "ansible_host": "10.0.0.3"},
    }
    found = inventory_errors({"chat": MODEL}, hostvars, {"inference_servers": ["gpu1"], "gateways": ["gw1", "gw2"]})
    assert [("postgresql_external" in error, "litellm_redis" in error) for error in found] == [(True, False), (False, True)] * 2


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"llm_master_key": ""}, "llm_master_key of box has 0 characters"),
        ({"llm_master_key": "sk-1234"}, "llm_master_key of box has 7 characters"),
        ({"nginx_tls_certificate": "PEM"}, "nginx_tls_certificate of box is set but nginx_tls_private_key is not"),
        ({"nginx_tls_private_key": "PEM"}, "nginx_tls_private_key of box is set but nginx_tls_certificate is not"),
    ],
)
def test_a_wrong_gateway(variables: dict[str, t.Any], said: str) -> None:
    (found,) = errors(**variables)
    assert said in found
    assert "sk-1234" not in found


def test_everything_is_said_at_once() -> None:
    found = errors({"chat": {"source": "x", "engine": "y"}}, [{"model": "no"}], [{"name": "a b"}])
    assert len(found) == 4


def test_a_wrong_policy() -> None:
    (error,) = errors(llm_vram_policy="enforced")
    assert error.startswith("llm_vram_policy of box is 'enforced': did you mean enforce")
    assert errors(llm_vram_policy="warn") == []


def test_vllm_takes_a_repository_as_it_is() -> None:
    assert errors({"chat": {"source": "hf:a/b", "engine": "vllm"}}) == []


def test_two_models_of_vllm_need_two_ports_and_one_is_proposed() -> None:
    models = {"chat": {"source": "hf:a/b", "engine": "vllm"}, "code": {"source": "hf:a/c", "engine": "vllm"}}
    (found,) = errors(models, [{"model": "chat"}, {"model": "code"}])
    assert found == "llm_serve of box: port 8100 of code is already taken by chat: give code another port, such as 8101."


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"swap-space": 4}, "llm_models.chat: extra has the option swap-space, which vLLM no longer has"),
        ({"port": 1}, "extra has the option port, which the role vllm sets itself"),
    ],
)
def test_what_vllm_no_longer_has_is_refused_before_anything_runs(extra: dict[str, t.Any], said: str) -> None:
    found = errors({"chat": {"source": "hf:a/b", "engine": "vllm", "extra": extra}})
    assert said.removeprefix("llm_models.chat: ") in found[0]


@pytest.mark.parametrize(
    ("one", "other", "wrong"),
    [
        ({"llm_address": "10.0.0.1"}, {"ansible_host": "10.0.0.1"}, True),
        ({"ansible_host": "10.0.0.1"}, {"ansible_host": "10.0.0.1", "llm_address": "10.0.0.2"}, False),
        ({"ansible_host": "localhost"}, {"ansible_host": "127.0.0.1"}, False),
    ],
)
def test_two_hosts_with_one_address(one: dict[str, t.Any], other: dict[str, t.Any], wrong: bool) -> None:
    hostvars = {"gpu1": {"llm_serve": [{"model": "chat"}], **one}, "gpu2": {"llm_serve": [{"model": "chat"}], **other}, "gw": {"llm_keys": CLIENTS}}
    found = inventory_errors({"chat": MODEL}, hostvars, {"inference_servers": ["gpu1", "gpu2"], "gateways": ["gw"]})
    assert found == (["gpu2 and gpu1 have the same address, 10.0.0.1: correct llm_address or ansible_host of one of them."] if wrong else [])
