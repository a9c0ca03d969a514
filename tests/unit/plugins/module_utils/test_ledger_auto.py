# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the ledger gives to whatever was left to it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Deployment, Plan, Policy
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import ladder
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
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

F16: dict[str, t.Any] = {"kv_cache": "f16", "cache_ram": 0}
PAIR = machine(gpu(), gpu(1), tensor_parallel=((0, 1),))


def given(found: Plan, number: int = 0) -> tuple[int, int]:
    options = found.deployments[number].options
    return options["context"], options["parallel"]


def why(deployment: Deployment, word: str) -> str:
    return next(sentence for sentence in deployment.why if sentence.startswith(f"{word}:"))


@pytest.mark.parametrize(
    ("trained", "context", "parallel", "expected"),
    [
        (131072, None, None, "4096x1 8192x1 8192x2 16384x2 16384x4 32768x4 65536x4 131072x4"),
        (40960, None, None, "4096x1 8192x1 8192x2 16384x2 16384x4 32768x4 40960x4"),
        (4096, None, None, "4096x1 4096x2 4096x4"),
        (512, None, None, "512x1 512x2 512x4"),
        (131072, 32768, None, "32768x1 32768x2 32768x4"),
        (16384, None, 8, "4096x8 8192x8 16384x8"),
        (131072, 9000, 3, "9000x3"),
        (0, None, 1, "4096x1 8192x1 16384x1 32768x1 65536x1 131072x1"),
    ],
)
def test_the_ladder(trained: int, context: int | None, parallel: int | None, expected: str) -> None:
    assert " ".join(f"{tokens}x{requests}" for tokens, requests in ladder(trained, context, parallel)) == expected


def test_an_embedding_model_first_gets_its_whole_context() -> None:
    assert ladder(16384, None, None, whole_context=True) == ((4096, 1), (8192, 1), (16384, 1), (16384, 2), (16384, 4))
    found = planned(machine(gpu()), demand("embed", shape(1, trained=8192), embeddings=True))
    assert given(found) == (8192, 4)
    assert found.deployments[0].options["cache_ram"] == 0


def test_a_context_as_long_as_it_fits_and_what_more_would_need() -> None:
    # 16 GiB of model, 7.5 GiB left: 65,536 tokens are 4 GiB, 131,072 are 8 GiB
    found = planned(machine(gpu()), demand("chat", shape(16), **F16))
    assert given(found) == (16384, 4)
    assert why(found.deployments[0], "context") == "context: 16384 tokens for each of 4 requests; 32768 would need 500 MiB more on GPU 0"


def test_all_that_it_was_trained_for() -> None:
    found = planned(machine(gpu()), demand("chat", shape(4, trained=8192), **F16))
    assert given(found) == (8192, 4)
    assert why(found.deployments[0], "context").endswith("that is all it was trained for")


def test_only_what_was_left_to_us_grows() -> None:
    assert given(planned(machine(gpu()), demand("chat", shape(16), context=5000, **F16))) == (5000, 4)
    assert given(planned(machine(gpu()), demand("chat", shape(16), parallel=1, **F16))) == (65536, 1)
    fixed = planned(machine(gpu()), demand("chat", shape(16), context=5000, parallel=2, **F16))
    assert given(fixed) == (5000, 2)
    assert not {"context", "parallel", "kv_cache_k"} & set(fixed.deployments[0].decided)


def test_auto_is_as_good_as_nothing() -> None:
    auto = dict.fromkeys(("context", "parallel", "kv_cache", "cache_ram", "n_cpu_moe", "gpus"), "auto")
    assert given(planned(PAIR, demand("chat", shape(16), **auto))) == given(planned(PAIR, demand("chat", shape(16))))
    assert "context" in planned(PAIR, demand("chat", shape(16), **auto)).deployments[0].decided


def test_growth_is_fair() -> None:
    # 24 - 12 - 0.98 GiB for both: 32,768 x 2 and 16,384 x 4 are 4 GiB each
    found = planned(machine(gpu()), demand("a", shape(6), **F16), demand("b", shape(6), **F16))
    assert given(found) == given(found, 1) == (16384, 4)


def test_whoever_cannot_grow_leaves_the_rest_to_others() -> None:
    found = planned(machine(gpu()), demand("short", shape(6, trained=4096), **F16), demand("long", shape(6), **F16))
    assert given(found) == (4096, 4)
    assert given(found, 1) == (32768, 4)


def test_models_of_a_router_that_are_never_loaded_together_share_the_room() -> None:
    demands = [demand("a", shape(6), **F16), demand("b", shape(6), **F16)]
    found = planned(machine(gpu()), *demands, models_max={"llama-router": 1})
    assert given(found) == given(found, 1) == (65536, 4)


def test_gpus_are_filled_apart() -> None:
    found = planned(PAIR, demand("big", shape(20), gpus=[0], **F16), demand("small", shape(4), gpus=[1], **F16))
    assert (given(found), given(found, 1)) == ((16384, 2), (65536, 4))


def test_a_longer_context_over_two_gpus() -> None:
    found = planned(PAIR, demand("big", shape(30), gpus=[0, 1], **F16))
    assert given(found) == (65536, 4)
    assert min(free(found)["gpu0"], free(found)["gpu1"]) >= 0


def test_prompts_are_remembered_as_main_memory_allows() -> None:
    models = [demand(name, shape(4), gpus=[0], context=4096, parallel=1) for name in ("a", "b", "c")]
    assert [one.options["cache_ram"] for one in planned(machine(gpu(), ram=64), *models).deployments] == [8192] * 3
    assert [one.options["cache_ram"] for one in planned(machine(gpu(), ram=20), *models).deployments] == [4096] * 3
    none = planned(machine(gpu(), ram=0.5), *models)
    assert [one.options["cache_ram"] for one in none.deployments] == [0] * 3
    assert none.fits
    assert "no room" in why(none.deployments[0], "cache_ram")


def test_a_prompt_cache_that_the_user_wrote_is_counted() -> None:
    found = planned(machine(gpu(), ram=4), demand("a", shape(4), gpus=[0], cache_ram=8192))
    assert [refusal.place for refusal in found.refusals] == ["ram"]


def test_in_main_memory_contexts_and_prompts_share() -> None:
    found = planned(machine(ram=16), demand("chat", shape(4)))
    assert found.fits
    assert (given(found), found.deployments[0].options["cache_ram"]) == ((16384, 4), 4096)


def test_vllm_gets_what_is_left_and_utilization_agrees() -> None:
    policy = Policy(margin=512 * MIB, ram_reserved=0, ram_margin=0)
    found = planned(machine(gpu()), vllm("fast", shape(6), context=8192), policy=policy)
    options = found.deployments[0].options
    assert options["kv_cache_memory"] == 24 * GIB - 512 * MIB - 7 * GIB
    assert options["gpu_memory_utilization"] == 0.979  # 23.5 of 24, rounded down
    assert free(found)["gpu0"] == 0
    assert why(found.deployments[0], "kv_cache_memory") == (
        "kv_cache_memory: 16.5 GiB on each GPU for 270,336 tokens of all requests together: what is left of GPU 0"
    )


def test_engines_on_one_gpu_share_what_is_left() -> None:
    found = planned(machine(gpu()), vllm("a", shape(4), context=8192, gpus=[0]), vllm("b", shape(6), context=16384, gpus=[0]))
    first, second = (one.options for one in found.deployments)
    # 24 - 4 - 6 - 2 GiB: 0.5 and 1 GiB for one request each, on the ladder up to 4; the rest in equal parts
    assert first["kv_cache_memory"] + second["kv_cache_memory"] == 12 * GIB
    assert 0 < second["kv_cache_memory"] - first["kv_cache_memory"] <= 2 * GIB
    assert first["gpu_memory_utilization"] + second["gpu_memory_utilization"] <= 1
    assert "shared evenly with b" in why(found.deployments[0], "kv_cache_memory")


def test_no_engine_gets_more_than_its_requests_can_use() -> None:
    found = planned(machine(gpu()), vllm("a", shape(4), context=4096, parallel=2, gpus=[0]), vllm("b", shape(4), context=8192, gpus=[0]))
    assert found.deployments[0].options["kv_cache_memory"] == 2 * 4096 * MIB // 16
    assert free(found)["gpu0"] < 0.01


def test_vllm_and_a_router_on_one_gpu() -> None:
    found = planned(machine(gpu()), vllm("fast", shape(6), gpus=[0]), demand("chat", shape(4), gpus=[0], **F16))
    assert found.fits
    assert given(found, 1) == (16384, 4)
    assert found.deployments[0].options["kv_cache_memory"] >= 4 * GIB
    assert free(found)["gpu0"] < 0.01


def test_cache_bytes_that_the_user_wrote() -> None:
    found = planned(machine(gpu()), vllm("fast", shape(6), context=8192, kv_cache_memory="4G"))
    assert found.deployments[0].options["kv_cache_memory"] == 4 * GIB
    assert free(found)["gpu0"] == 24 - 11
    assert "kv_cache_memory" not in found.deployments[0].decided


def test_a_share_that_the_user_wrote() -> None:
    found = planned(machine(gpu()), vllm("fast", shape(6), context=8192, gpu_memory_utilization=0.5), vllm("b", shape(2), context=8192))
    assert found.deployments[0].estimate.devices[0].total == 12 * GIB
    assert "kv_cache_memory" not in found.deployments[0].options
    assert found.deployments[0].options["gpu_memory_utilization"] == 0.5
    assert found.deployments[1].options["kv_cache_memory"] == 24 * GIB - 12 * GIB - 3 * GIB


def test_a_context_only_as_long_as_the_users_cache_holds_it() -> None:
    found = planned(machine(gpu()), vllm("fast", shape(6), kv_cache_memory="4G"))
    assert found.deployments[0].options["context"] == 65536
    assert given(planned(machine(gpu()), vllm("fast", shape(6), gpu_memory_utilization=0.5)))[0] == 65536


def test_a_share_too_small_for_one_request_is_refused_with_what_would_do() -> None:
    found = planned(machine(gpu()), vllm("fast", shape(6), context=65536, gpu_memory_utilization=0.4))
    assert len(found.refusals) == 1
    refusal = found.refusals[0]
    assert "gpu_memory_utilization: 0.4, which is 1,434 MiB too little on each GPU for the cache of one request of 65536 tokens" in refusal.message
    assert refusal.changes[0].message == "fast: gpu_memory_utilization: auto"
    assert any("context" in change.settings[0].values for change in refusal.changes)


def test_batched_tokens_by_board_are_told() -> None:
    assert planned(machine(gpu()), vllm("a", shape(4))).deployments[0].options["max_batched_tokens"] == 2048
    assert planned(machine(gpu(0, 140)), vllm("a", shape(4))).deployments[0].options["max_batched_tokens"] == 8192
    mixed = machine(gpu(0, 24), gpu(1, 180))
    assert planned(mixed, vllm("a", shape(60))).deployments[0].options["max_batched_tokens"] == 16384


def test_beyond_its_training_it_warns_and_names_what_stretches_it() -> None:
    found = planned(machine(gpu()), demand("chat", shape(4, trained=32768), context=65536, parallel=1, **F16))
    assert found.fits
    assert found.warnings == (
        "chat: context: 65536 is more than the 32768 tokens that the model was trained for; its answers degrade beyond that unless its positions "
        "are stretched: extra: {rope-scaling: yarn, rope-scale: 2, yarn-orig-ctx: 32768}",
    )
    stretched = {"rope-scaling": "yarn", "rope-scale": 2}
    assert not planned(machine(gpu()), demand("chat", shape(4, trained=32768), context=65536, extra=stretched)).warnings
    assert "hf-overrides" in planned(machine(gpu()), vllm("fast", shape(4, trained=32768), context=50000)).warnings[0]


def test_vllm_without_a_gpu_leaves_half_of_main_memory_to_others() -> None:
    found = planned(machine(ram=37), vllm("chat", shape(4), context=16384))
    (chat,) = found.deployments
    assert found.fits
    assert (chat.options["gpus"], chat.options["kv_cache_memory"]) == ([], 18 * GIB)  # 32 GiB beside weights and process, 4 of which its requests must have
    assert "gpu_memory_utilization" not in chat.options
    assert "gpus: none, the host has no GPU: it runs in main memory" in chat.why


def test_two_of_them_share_what_is_left_of_main_memory() -> None:
    found = planned(machine(ram=42), vllm("chat", shape(4), context=16384), vllm("code", shape(4), context=16384))
    sizes = [one.options["kv_cache_memory"] for one in found.deployments]
    assert sizes[0] == sizes[1]
    assert free(found)["ram"] == sum(sizes) // GIB - 8  # of what both of them must have nothing is kept back
    assert "shared evenly with code" in " ".join(found.deployments[0].why)


def test_main_memory_that_is_too_small_for_vllm_is_said() -> None:
    found = planned(machine(ram=4), vllm("chat", shape(4), context=16384))
    assert "main memory with 4.0 GiB is 2,048 MiB short: chat 6.0 GiB" in found.refusals[0].message


def test_a_cache_that_the_user_made_too_small_is_said_without_a_gpu_too() -> None:
    found = planned(machine(ram=32), vllm("chat", shape(4), context=16384, kv_cache_memory="512MiB"))
    assert "has kv_cache_memory: 512MiB, which is 512 MiB too little for the cache of one request of 16384 tokens" in found.refusals[0].message
