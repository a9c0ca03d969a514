# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sums: who takes what, and what is left. The stand-in's model of 4 GiB with 16,384 tokens takes 4 + 1 + 0.49 GiB."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Budget, Device, Entry, Plan, Policy, Process
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import (
    NOTHING,
    demand,
    free,
    gpu,
    machine,
    planned,
    shape,
    vllm,
)

pytestmark = pytest.mark.usefixtures("simple_estimates")

PROCESS = 500 * MIB  # of llama.cpp on a GPU
FIXED: dict[str, t.Any] = {"context": 16384, "parallel": 1, "kv_cache": "f16", "cache_ram": 0}


def entries(found: Plan, place: str = "gpu0") -> dict[str, Entry]:
    account = next(account for account in found.accounts if account.place == place)
    return {entry.name: entry for entry in account.entries}


def test_one_model_on_one_gpu() -> None:
    found = planned(machine(gpu()), demand("chat", shape(4), **FIXED))
    assert found.fits
    assert entries(found)["chat"].size == 5 * GIB + PROCESS
    assert entries(found, "ram")["chat"].size == 100 * MIB
    assert [account.free for account in found.accounts] == [19 * GIB - PROCESS, 64 * GIB - 100 * MIB]


def test_everything_else_is_counted_before_models() -> None:
    policy = Policy(margin=512 * MIB, reserved={0: GIB, 1: 7 * GIB}, display=256 * MIB, ram_reserved=2 * GIB, ram_margin=GIB)
    here = machine(gpu(driver=300 * MIB, display=True), gpu(1), ram=32)
    found = planned(here, budgets=[Budget("ollama", 0, 6 * GIB), Budget("qdrant", None, 4 * GIB)], policy=policy)
    sizes = {name: entry.size for name, entry in entries(found).items()}
    assert sizes == {"ollama": 6 * GIB, "display": 256 * MIB, "driver": 300 * MIB, "reserved": GIB, "margin": 512 * MIB}
    assert {name: entry.kind for name, entry in entries(found).items()}["ollama"] == "budget"
    assert {name: entry.size for name, entry in entries(found, "gpu1").items()} == {"reserved": 7 * GIB, "margin": 512 * MIB}
    assert {name: entry.size for name, entry in entries(found, "ram").items()} == {"qdrant": 4 * GIB, "reserved": 2 * GIB, "margin": GIB}
    assert free(found)["ram"] == 25


def test_other_processes_count_as_far_as_nothing_is_set_aside_for_them() -> None:
    others = (Process(7, "Xorg", 400 * MIB), Process(9, "blender", 2 * GIB))
    found = planned(machine(gpu(display=True, others=others)), policy=Policy(reserved={0: GIB}))
    assert entries(found)["others"].size == GIB - 112 * MIB
    enough = planned(machine(gpu(display=True, others=others)), policy=Policy(reserved={0: 3 * GIB}))
    assert "others" not in entries(enough)


def test_a_gpu_that_others_fill_is_full_and_not_short() -> None:
    full = gpu(1, others=(Process(7, "training", 24 * GIB),))
    found = planned(machine(gpu(), full), demand("a", shape(4), **FIXED), policy=Policy(reserved={1: GIB}, ram_reserved=0, ram_margin=0))
    assert found.fits
    assert free(found)["gpu1"] == 0
    assert planned(machine(gpu(), full), demand("a", shape(4), gpus=[1], **FIXED)).refusals[0].shortfall == 5 * GIB + PROCESS


def test_a_gpu_that_does_not_answer_has_no_room() -> None:
    found = planned(machine(gpu(0, 0), gpu(1)), demand("a", shape(4), **FIXED), policy=Policy())
    assert found.fits
    assert found.deployments[0].gpus == (1,)


def test_a_budget_on_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InputError, match="budget of ollama is on GPU 2; the host's GPUs: 0"):
        planned(machine(gpu()), budgets=[Budget("ollama", 2, GIB)])


def test_a_router_without_a_limit_may_have_all_its_models_loaded() -> None:
    found = planned(machine(gpu()), *(demand(name, shape(size), **FIXED) for name, size in (("a", 4), ("b", 6), ("c", 2))))
    assert free(found)["gpu0"] == 24 - 12 - 3 - 3 * PROCESS / GIB
    assert all(entry.resident for entry in entries(found).values())


def test_with_a_limit_only_the_costliest_count() -> None:
    demands = [demand(name, shape(size), **FIXED) for name, size in (("a", 4), ("b", 6), ("c", 2))]
    found = planned(machine(gpu()), *demands, models_max={"llama-router": 2})
    assert {name: entry.resident for name, entry in entries(found).items()} == {"a": True, "b": True, "c": False}
    assert free(found)["gpu0"] == 24 - 10 - 2 - 2 * PROCESS / GIB


def test_a_limit_is_each_routers_own() -> None:
    demands = [demand("a", shape(4), **FIXED), demand("b", shape(6), **FIXED), demand("own", shape(2), service="llama-router-9000", **FIXED)]
    found = planned(machine(gpu()), *demands, models_max={"llama-router": 1, "llama-router-9000": 1})
    assert {name: entry.resident for name, entry in entries(found).items()} == {"a": False, "b": True, "own": True}


def test_the_worst_case_is_found_for_each_gpu_alone() -> None:
    demands = [demand("a", shape(4), gpus=[0], **FIXED), demand("b", shape(6), gpus=[1], **FIXED)]
    found = planned(machine(gpu(), gpu(1)), *demands, models_max={"llama-router": 1})
    assert entries(found)["a"].resident
    assert entries(found, "gpu1")["b"].resident


def test_zero_is_no_limit_as_llama_server_reads_it() -> None:
    demands = [demand("a", shape(4), **FIXED), demand("b", shape(6), **FIXED)]
    assert planned(machine(gpu()), *demands, models_max={"llama-router": 0}) == planned(machine(gpu()), *demands)


def test_a_sleeping_child_keeps_its_context_on_every_gpu_it_uses() -> None:
    found = planned(machine(gpu(), gpu(1)), demand("chat", shape(4), gpus=[0], idle_sleep=900, **FIXED), demand("b", shape(2), gpus=[0, 1], **FIXED))
    assert entries(found)["chat"].asleep == 600 * MIB
    assert entries(found)["b"].asleep == 0
    assert "chat" not in entries(found, "gpu1")


def test_a_tiny_model_that_sleeps_counts_as_what_it_keeps() -> None:
    tiny: dict[str, t.Any] = {"context": 256, "parallel": 1, "kv_cache": "f16", "cache_ram": 0, "idle_sleep": 60}
    assert entries(planned(machine(gpu()), demand("tiny", shape(0.01), **tiny)))["tiny"].size == 600 * MIB


def test_without_gpus_everything_is_in_main_memory() -> None:
    found = planned(machine(ram=16), demand("chat", shape(4), **FIXED))
    assert [account.place for account in found.accounts] == ["ram"]
    assert found.accounts[0].free == 11 * GIB - 100 * MIB
    assert found.deployments[0].options["gpus"] == []


@pytest.mark.parametrize("options", [{"gpus": []}, {"gpu_layers": 0}])
def test_a_model_that_wants_no_gpu(options: dict[str, t.Any]) -> None:
    found = planned(machine(gpu(), ram=16), demand("chat", shape(4), **FIXED, **options))
    assert free(found)["gpu0"] == 24
    assert found.deployments[0].gpus == ()
    assert found.deployments[0].options["gpus"] == []


@pytest.mark.parametrize(("gpus", "there"), [((), "no GPU"), ((gpu(),), "GPU 0"), ((gpu(), gpu(1)), "GPUs 0, 1")])
def test_a_gpu_that_is_not_there_is_named_with_those_that_are(gpus: tuple[Device, ...], there: str) -> None:
    with pytest.raises(InputError, match=f"gpu01: the model chat is placed on GPU 3, but the host has {there}: correct gpus"):
        planned(machine(*gpus), demand("chat", shape(4), gpus=[3]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gpus": [0]}, "chat is placed on GPU 0, but the host has no GPU"),
        ({"quantization": "bitsandbytes"}, "chat has quantization: 'bitsandbytes'; allowed: nothing that needs the plugin vllm-bnb-plugin"),
        ({"tensor_parallel": 2}, "chat has tensor_parallel: 2; allowed: 1 or nothing, because the host has no GPU"),
        ({"gpu_memory_utilization": 0.5}, "chat has gpu_memory_utilization: 0.5; allowed: nothing, because the host has no GPU; write kv_cache_memory"),
    ],
)
def test_without_a_gpu_nothing_of_gpus_can_be_asked_of_vllm(options: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        planned(machine(), vllm("chat", shape(4), **options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context": "many"}, r"gpu01: the model chat has context: 'many'; allowed: auto, or a whole number of at least 256"),
        ({"parallel": 0}, r"parallel: 0; allowed: auto, or a whole number"),
        ({"gpus": 0}, r"gpus: 0; allowed: auto, or a list of GPU indexes"),
        ({"tensor_split": "a,b"}, r"tensor_split: 'a,b'; allowed: a list of numbers"),
        ({"override_tensor": ["exps"]}, r"override_tensor: \['exps'\]; allowed: texts such as"),
        ({"swa_full": 3, "extra": {"swa-full": "maybe"}}, r"swa_full: 'maybe'; allowed: true or false"),
    ],
)
def test_values_that_cannot_be(options: dict[str, t.Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        planned(machine(gpu()), demand("chat", shape(4), **options))


def test_the_plan_as_plain_data() -> None:
    found = planned(machine(gpu()), demand("chat", shape(4), **FIXED), budgets=[Budget("ollama", 0, GIB)])
    data = json.loads(json.dumps(found.as_dict()))
    assert (data["host"], data["source"], data["fits"], data["refusals"]) == ("gpu01", "nvml", True, [])
    account = data["accounts"][0]
    assert {key: account[key] for key in ("place", "title", "name", "total", "unit")} == {
        "place": "gpu0",
        "title": "GPU 0",
        "name": "board",
        "total": 24 * GIB,
        "unit": "VRAM",
    }
    assert account["entries"][0]["terms"]["weights"] == 4 * GIB
    assert account["entries"][0]["service"] == "llama-router"
    assert account["entries"][1] == {"name": "ollama", "kind": "budget", "bytes": GIB}
    assert account["free"] == account["total"] - sum(entry["bytes"] for entry in account["entries"])
    assert data["accounts"][1]["unit"] == "RAM"
    assert data["deployments"][0]["estimate"]["devices"][0]["cache"] == GIB
    assert data["deployments"][0]["options"]["context"] == 16384


def test_equal_questions_have_equal_answers() -> None:
    demands = [demand("chat", shape(4)), demand("coder", shape(16, experts=True)), vllm("fast", shape(6))]
    here = machine(gpu(), gpu(1), tensor_parallel=((0, 1),))
    assert planned(here, *demands, policy=NOTHING).as_dict() == planned(here, *demands, policy=NOTHING).as_dict()
