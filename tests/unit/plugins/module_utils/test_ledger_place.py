# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where models go by themselves, and what gives way so that they fit."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Plan
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import (
    demand,
    free,
    gpu,
    machine,
    planned,
    shape,
    vllm,
)

pytestmark = pytest.mark.usefixtures("simple_estimates")

FIXED: dict[str, t.Any] = {"context": 16384, "parallel": 1, "kv_cache": "f16", "cache_ram": 0}
PAIR = machine(gpu(), gpu(1), tensor_parallel=((0, 1),))


def places(found: Plan) -> dict[str, list[int]]:
    return {one.model: list(one.gpus) for one in found.deployments}


def options(found: Plan, number: int = 0) -> t.Mapping[str, t.Any]:
    return found.deployments[number].options


def test_one_gpu_before_two_and_the_emptier_one_first() -> None:
    found = planned(machine(gpu(), gpu(1, 32)), demand("a", shape(4), **FIXED), demand("b", shape(14), **FIXED), demand("c", shape(8), **FIXED))
    assert places(found) == {"a": [1], "b": [1], "c": [0]}
    assert found.fits


def test_of_equal_gpus_the_first() -> None:
    assert places(planned(PAIR, demand("a", shape(4), **FIXED))) == {"a": [0]}


def test_whoever_names_its_gpu_comes_first() -> None:
    found = planned(PAIR, demand("anywhere", shape(18), **FIXED), demand("here", shape(18), gpus=[0], **FIXED))
    assert places(found) == {"anywhere": [1], "here": [0]}
    assert found.fits


def test_two_gpus_where_one_is_too_small_and_the_split_is_told() -> None:
    found = planned(PAIR, demand("big", shape(32), **FIXED))
    assert found.fits
    assert places(found) == {"big": [0, 1]}
    assert options(found)["tensor_split"] == [1.0, 1.0]
    assert any("fewer do not hold it" in why for why in found.deployments[0].why)


def test_the_split_follows_the_room() -> None:
    found = planned(machine(gpu(0, 24), gpu(1, 12)), demand("big", shape(28), **FIXED))
    assert found.fits
    first, second = options(found)["tensor_split"]
    assert 2 < first / second < 2.6  # best were 21 to 9 GiB, but layers are whole
    assert abs(free(found)["gpu0"] - free(found)["gpu1"]) < 1.1  # one layer is 0.9 GiB


def test_a_split_that_the_user_wrote_stays() -> None:
    found = planned(PAIR, demand("big", shape(20), gpus=[0, 1], tensor_split=[3, 1], **FIXED))
    assert options(found)["tensor_split"] == [3.0, 1.0]
    assert "tensor_split" not in found.deployments[0].decided
    weights = [usage.weights for usage in found.deployments[0].estimate.devices]
    assert weights == [15 * GIB, 5 * GIB]


def test_a_cache_in_q8_is_preferred_to_a_second_gpu() -> None:
    fixed = {**FIXED, "kv_cache": "auto"}
    assert options(planned(PAIR, demand("a", shape(20), **fixed)))["kv_cache_k"] == "f16"
    tight = planned(PAIR, demand("a", shape(22.8), **fixed))
    assert (places(tight), options(tight)["kv_cache_k"], options(tight)["kv_cache_v"]) == ({"a": [0]}, "q8_0", "q8_0")
    assert any(why.startswith("kv_cache: q8_0, because f16 would need") for why in tight.deployments[0].why)


def test_a_cache_is_never_cheaper_than_q8_by_itself() -> None:
    found = planned(machine(gpu()), demand("a", shape(22.8), context=65536, parallel=4, cache_ram=0))
    assert not found.fits
    assert options(found)["kv_cache_k"] == "q8_0"


def test_without_flash_attention_the_cache_stays_as_it_is() -> None:
    found = planned(machine(gpu()), demand("a", shape(23), **{**FIXED, "kv_cache": "auto"}, flash_attention="off"))
    assert options(found)["kv_cache_k"] == "f16"
    assert not found.fits


def test_experts_go_to_main_memory_only_if_no_set_of_gpus_holds_them() -> None:
    moe = demand("moe", shape(32, experts=True), **FIXED)
    assert (places(planned(PAIR, moe)), options(planned(PAIR, moe))["n_cpu_moe"]) == ({"moe": [0, 1]}, 0)
    alone = planned(machine(gpu()), moe)
    assert alone.fits
    # 32 layers of 1 GiB, 7/8 of each in its experts: 32 + 1 + 0.49 - 24 GiB are 10.8 layers' experts
    assert options(alone)["n_cpu_moe"] == 11
    assert alone.deployments[0].estimate.host.weights == 11 * 7 / 8 * GIB


def test_experts_that_move_anyway_leave_room_for_a_conversation() -> None:
    found = planned(machine(gpu()), demand("moe", shape(32, experts=True)))
    assert found.fits
    assert (options(found)["context"], options(found)["parallel"], options(found)["kv_cache_k"]) == (16384, 2, "q8_0")
    assert options(found)["n_cpu_moe"] == 11


def test_what_the_user_says_about_experts_stays() -> None:
    found = planned(machine(gpu()), demand("moe", shape(32, experts=True), n_cpu_moe=4, **FIXED))
    assert options(found)["n_cpu_moe"] == 4
    assert not found.fits


def test_layers_of_a_dense_model_stay_back_only_where_that_is_allowed() -> None:
    assert not planned(machine(gpu()), demand("big", shape(32), **FIXED)).fits
    found = planned(machine(gpu()), demand("big", shape(32), gpu_layers="auto", **FIXED))
    assert found.fits
    # 24 - 0.49 GiB hold 22 layers of 1 GiB with 1/32 GiB of cache each
    assert options(found)["gpu_layers"] == 22
    assert any("22 of 32" in why for why in found.deployments[0].why)


def test_layers_stay_where_only_main_memory_is_short() -> None:
    found = planned(machine(gpu(), ram=4), demand("a", shape(8), gpu_layers="auto", **{**FIXED, "cache_ram": 8192}))
    assert options(found)["gpu_layers"] == "all"
    assert [refusal.place for refusal in found.refusals] == ["ram"]


def test_an_order_that_ends_short_is_not_the_last_word() -> None:
    # In their order the smaller ones fill both large boards, and the large one, which vLLM cannot divide here, has none left.
    here = machine(gpu(0, 16), gpu(1, 16), gpu(2, 12))
    found = planned(here, *(vllm(name, shape(size), context=4096) for name, size in (("a", 10), ("b", 10), ("c", 14))))
    assert found.fits
    assert places(found) == {"a": [1], "b": [2], "c": [0]}


def test_whoever_is_never_loaded_beside_others_has_all_the_room() -> None:
    both = [demand("large", shape(20), **FIXED), demand("moe", shape(32, experts=True), **FIXED)]
    found = planned(machine(gpu()), *both, models_max={"llama-router": 1})
    assert found.fits
    assert options(found, 1)["n_cpu_moe"] == 11


def test_a_cache_gets_its_quality_back_where_experts_that_moved_made_room() -> None:
    small: dict[str, t.Any] = {"context": 256, "parallel": 1, "kv_cache": "f16", "cache_ram": 0}
    models = [demand("moe", shape(32, experts=True), **small), demand("a", shape(4), **{**FIXED, "kv_cache": "auto"})]
    found = planned(machine(gpu()), *models)
    assert found.fits
    assert (options(found)["n_cpu_moe"], options(found, 1)["kv_cache_k"]) == (16, "f16")


def test_layers_do_not_move_into_main_memory_that_is_full() -> None:
    found = planned(machine(gpu(), ram=8), demand("big", shape(32), gpu_layers="auto", **FIXED))
    assert [refusal.place for refusal in found.refusals] == ["gpu0"]


def test_tensor_parallelism_is_as_small_as_it_fits() -> None:
    four = machine(*(gpu(index) for index in range(4)), tensor_parallel=((0, 1, 2, 3),))
    for size, gpus in ((10, 1), (30, 2), (70, 4)):
        found = planned(four, vllm("fast", shape(size), context=8192))
        assert found.fits
        assert options(found)["tensor_parallel"] == gpus == len(options(found)["gpus"])


def test_tensor_parallelism_takes_only_gpus_that_can() -> None:
    here = machine(gpu(), gpu(1), gpu(2), gpu(3), tensor_parallel=((1, 3),))
    assert places(planned(here, vllm("fast", shape(30), context=8192))) == {"fast": [1, 3]}
    assert places(planned(here, vllm("fast", shape(30), context=8192, gpus=[1, 2, 3]))) == {"fast": [1, 3]}


def test_heads_that_cannot_be_divided() -> None:
    three = machine(gpu(), gpu(1), gpu(2), tensor_parallel=((0, 1, 2),))
    found = planned(three, vllm("fast", shape(60, heads=32), context=8192))
    assert "not divided over several GPUs" not in found.refusals[0].message  # two are used
    odd = planned(three, vllm("fast", shape(60, heads=31), context=8192))
    assert "fast is not divided over several GPUs: it cannot be divided by 2: its 31 heads are no multiple of 2." in odd.refusals[0].message
    with pytest.raises(InputError, match="gpu01: the model fast has tensor_parallel: 3, but its 32 heads are no multiple of 3"):
        planned(three, vllm("fast", shape(60, heads=32), tensor_parallel=3))


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(InputError, match="tensor_parallel: 4, but only 2 GPUs to run on"):
        planned(PAIR, vllm("fast", shape(4), tensor_parallel=4))


def test_gpus_that_cannot_share_a_model_are_refused_with_the_reason() -> None:
    here = machine(gpu(), gpu(1), unfit=(((0, 1), "no P2P: the GPUs do not support it"),))
    found = planned(here, vllm("fast", shape(4), tensor_parallel=2))
    assert [(refusal.place, refusal.shortfall) for refusal in found.refusals] == [("gpu0", 0)]
    assert "tensor_parallel: 2 over GPUs 0, 1, but the GPUs cannot share a model: no P2P" in found.refusals[0].message


def test_without_p2p_the_refusal_says_why_one_gpu_stands_alone() -> None:
    here = machine(gpu(), gpu(1), unfit=(((0, 1), "no P2P: the GPUs do not support it"),))
    found = planned(here, vllm("fast", shape(30), context=8192))
    assert "fast is not divided over several GPUs: the GPUs cannot share a model: no P2P" in found.refusals[0].message


def test_a_model_that_fits_nowhere_stands_where_least_is_missing() -> None:
    found = planned(machine(gpu(), gpu(1, 16)), demand("a", shape(60), **FIXED))
    assert not found.fits
    assert places(found) == {"a": [0, 1]}
