# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Refusals: who takes what, how much is missing, and changes that really help."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Budget, Change, Demand, Machine, Plan, Policy, Process
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import (
    demand,
    gpu,
    machine,
    planned,
    shape,
    vllm,
)

pytestmark = pytest.mark.usefixtures("simple_estimates")

FIXED: dict[str, t.Any] = {"context": 16384, "parallel": 1, "kv_cache": "f16", "cache_ram": 0, "gpus": [0]}


def only(found: Plan) -> t.Any:
    assert len(found.refusals) == 1
    return found.refusals[0]


def messages(found: Plan) -> list[str]:
    return [change.message for change in only(found).changes]


def again(change: Change, here: Machine, *demands: Demand) -> Plan:
    """What the user would get who follows the advice."""
    changes = {setting.model: setting.values for setting in change.settings}
    limit = {"llama-router": changes[""]["llm_models_max"]} if "" in changes else {}
    return planned(here, *(replace(one, options={**one.options, **changes.get(one.model, {})}) for one in demands), models_max=limit)


def test_the_sentence_names_host_gpu_takers_and_shortfall() -> None:
    policy = Policy(margin=512 * MIB, ram_reserved=0, ram_margin=0)
    here = machine(gpu(driver=300 * MIB))
    found = planned(here, demand("small", shape(4), **FIXED), demand("large", shape(20), **FIXED), budgets=[Budget("ollama", 0, GIB)], policy=policy)
    assert only(found).shortfall == 3 * GIB + 1000 * MIB + 812 * MIB
    assert only(found).message.startswith(
        "gpu01: GPU 0 (board) with 24.0 GiB is 4,884 MiB short: large 21.5 GiB, small 5.5 GiB, ollama 1.0 GiB, margin 512 MiB, driver 300 MiB."
    )
    assert found.as_dict()["fits"] is False


def test_strangers_are_named() -> None:
    here = machine(gpu(others=(Process(4711, "blender", 6 * GIB), Process(12, "Xorg", 100 * MIB))))
    message = only(planned(here, demand("a", shape(20), **FIXED))).message
    assert "other processes 6.1 GiB" in message
    assert "The other processes are blender (pid 4711) 6144 MiB, Xorg (pid 12) 100 MiB" in message
    assert "llm_vram_reserved for GPU 0" in message


def test_advice_from_the_least_loss_to_the_most() -> None:
    here = machine(gpu(), gpu(1))
    model = demand("a", shape(16), **{**FIXED, "context": 32768, "parallel": 4})
    found = planned(here, model)
    assert messages(found) == [
        "a: kv_cache: q8_0 (frees 4.0 GiB of GPU 0)",
        "a: gpus: [0, 1] (frees 12.0 GiB of GPU 0)",
        "a: parallel: 3 instead of 4 (frees 2.0 GiB of GPU 0)",
        "a: context: 30720 instead of 32768 (frees 512 MiB of GPU 0)",
        "a: gpu_layers: 31 of 32, the rest is computed in main memory, slowly (frees 768 MiB of GPU 0)",
    ]
    assert found.refusals[0].changes[0].as_dict() == {"model": "a", "set": {"kv_cache": "q8_0"}, "message": messages(found)[0]}


@pytest.mark.parametrize(
    ("here", "models"),
    [
        (machine(gpu(), gpu(1)), (demand("a", shape(16), **{**FIXED, "context": 32768, "parallel": 4}), demand("b", shape(2), **FIXED))),
        (machine(gpu()), (demand("moe", shape(30, experts=True), n_cpu_moe=1, **FIXED), demand("b", shape(2), **FIXED))),
        (machine(gpu(), gpu(1, 12)), (demand("a", shape(14), **FIXED), demand("b", shape(9), **FIXED))),
        (machine(gpu(), gpu(1), tensor_parallel=((0, 1),)), (vllm("fast", shape(20), context=131072, gpus=[0]),)),
        (machine(gpu(), ram=8), (demand("cpu", shape(12), **{**FIXED, "gpus": []}),)),
        (machine(gpu(), ram=8), (demand("a", shape(4), **{**FIXED, "cache_ram": 16384}),)),
    ],
    ids=["kv", "moe", "elsewhere", "vllm", "ram", "prompts"],
)
def test_whoever_follows_any_advice_has_a_plan_that_fits(here: Machine, models: tuple[Demand, ...]) -> None:
    found = planned(here, *models)
    changes = only(found).changes
    assert changes
    for change in changes:
        assert again(change, here, *models).fits, change.message


def test_another_gpu_is_named_with_its_room() -> None:
    here = machine(gpu(), gpu(1, 12), gpu(2, 16))
    found = planned(here, demand("a", shape(20), **FIXED), demand("b", shape(9), **FIXED))
    assert messages(found)[0] == "b: gpus: [2], which has 16.0 GiB of room (frees 10.5 GiB of GPU 0)"


def test_more_gpus_with_a_shorter_context_where_neither_is_enough() -> None:
    here = machine(gpu(0, 12), gpu(1, 12), ram=4)
    model = demand("a", shape(16), **{**FIXED, "context": 131072, "kv_cache": "f16"})
    change = next(change for change in only(planned(here, model)).changes if "context" in change.settings[0].values)
    assert change.settings[0].values == {"gpus": [0, 1], "context": 114688}
    assert change.message.startswith("a: gpus: [0, 1], context: 114688 instead of 131072")
    assert again(change, here, model).fits


def test_fewer_models_at_once() -> None:
    models = [demand(name, shape(9), **FIXED) for name in ("a", "b", "c")]
    found = planned(machine(gpu()), *models)
    change = next(change for change in only(found).changes if change.settings[0].model == "")
    assert change.settings[0].values == {"llm_models_max": 2}
    assert "llm_models_max: 2 of the router llama-router: a request for another model waits" in change.message
    assert again(change, machine(gpu()), *models).fits


def test_a_combination_is_as_small_as_it_can_be() -> None:
    models = [demand(name, shape(10.5), **{**FIXED, "context": 32768}) for name in ("a", "b")]
    own = [replace(model, service=f"llama-router-{number}") for number, model in enumerate(models)]
    here = machine(gpu(), ram=0.25)
    change = only(planned(here, *own)).changes[0]
    assert {setting.model: dict(setting.values) for setting in change.settings} == {"a": {"kv_cache": "q8_0"}, "b": {"kv_cache": "q8_0"}}
    assert change.as_dict()["more"] == [{"model": "b", "set": {"kv_cache": "q8_0"}}]
    assert again(change, here, *own).fits


def test_weights_that_alone_are_too_large() -> None:
    found = planned(machine(gpu(), ram=8), demand("huge", shape(70), **FIXED))
    assert only(found).changes == ()
    assert "The weights of huge alone (70.0 GiB) are more than it can give (24.0 GiB)" in only(found).message


def test_without_models_the_budgets_are_too_large() -> None:
    found = planned(machine(gpu()), budgets=[Budget("ollama", 0, 30 * GIB)])
    assert "No model of ours is there" in only(found).message


def test_main_memory_that_is_too_small() -> None:
    found = planned(machine(ram=4), demand("chat", shape(6), **{**FIXED, "gpus": []}))
    assert (only(found).place, only(found).shortfall) == ("ram", 3 * GIB + 100 * MIB)
    assert only(found).message.startswith("gpu01: main memory with 4.0 GiB is 3,172 MiB short: chat 7.1 GiB.")


def test_vllm_is_offered_tensor_parallelism_and_a_smaller_cache_type() -> None:
    here = machine(gpu(), gpu(1), tensor_parallel=((0, 1),))
    found = planned(here, vllm("fast", shape(20), context=65536, gpus=[0]))
    assert any(change.settings[0].values == {"gpus": [0, 1]} for change in only(found).changes)
    old = machine(replace(gpu(), compute_capability="8.0"))
    assert not any("fp8" in message for message in messages(planned(old, vllm("fast", shape(18.5), context=98304, gpus=[0]))))
    new = planned(machine(gpu()), vllm("fast", shape(18.5), context=98304, gpus=[0]))
    assert "fast: kv_cache: fp8 (frees 3.0 GiB of GPU 0)" in messages(new)


def test_a_refusal_keeps_the_rest_of_the_plan() -> None:
    found = planned(machine(gpu(), gpu(1)), demand("large", shape(40), **FIXED), demand("chat", shape(4), gpus=[1]))
    assert not found.fits
    assert found.deployments[1].options["context"] == 65536
    assert found.accounts[1].free > 0
