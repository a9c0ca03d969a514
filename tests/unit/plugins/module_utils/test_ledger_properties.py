# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What holds for every plan, tried on hosts thrown together from a fixed seed."""

from __future__ import annotations

import random
import time
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import Budget, Demand, Machine, Plan, Policy, plan
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import (
    demand,
    gpu,
    machine,
    shape,
    vllm,
)

pytestmark = pytest.mark.usefixtures("simple_estimates")

SEEDS = range(25)
Question = tuple[Machine, list[Demand], dict[str, int], list[Budget], Policy]


def question(seed: int) -> Question:
    dice = random.Random(seed)
    count = dice.choice((0, 1, 1, 2, 2, 4, 8))
    sizes = [dice.choice((8, 12, 16, 24, 24, 48)) for _index in range(count)]
    gpus = [gpu(index, size, display=dice.random() < 0.2, driver=dice.randrange(600) * MIB) for index, size in enumerate(sizes)]
    equal = tuple(tuple(index for index, other in enumerate(sizes) if other == size) for size in set(sizes))
    here = machine(*gpus, ram=dice.choice((8, 16, 64, 128)), tensor_parallel=tuple(indices for indices in equal if len(indices) > 1))
    demands = [_demand(dice, number, count) for number in range(dice.randrange(1, 6))]
    models_max = {"llama-router": dice.randrange(1, 4)} if dice.random() < 0.5 else {}
    budgets = [Budget("ollama", dice.randrange(count) if count else None, dice.randrange(4) * GIB)] if dice.random() < 0.5 else []
    return here, demands, models_max, budgets, Policy()


def _demand(dice: random.Random, number: int, count: int) -> Demand:
    options: dict[str, t.Any] = {}
    for name, values in (("context", (4096, 16384, 65536)), ("parallel", (1, 2, 8)), ("idle_sleep", (600,))):
        if dice.random() < 0.3:
            options[name] = dice.choice(values)
    if count and dice.random() < 0.4:
        options["gpus"] = sorted(dice.sample(range(count), dice.randrange(1, min(count, 3) + 1)))
    what = shape(dice.choice((0.5, 2, 5, 9, 18, 40)), dice.choice((24, 32, 48)), dice.choice((4096, 32768, 40960, 131072)), dice.random() < 0.3)
    if count and dice.random() < 0.3:
        return vllm(f"model-{number}", what, **{key: value for key, value in options.items() if key != "idle_sleep"})
    if dice.random() < 0.3:
        options["kv_cache"] = dice.choice(("f16", "q8_0"))
    return demand(f"model-{number}", what, **options)


def more_memory(asked: Question, gibibytes: int) -> Question:
    here = asked[0]
    larger = tuple(replace(device, total=device.total + gibibytes * GIB) for device in here.gpus)
    return (replace(here, gpus=larger, ram=here.ram + gibibytes * GIB), *asked[1:])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_fits_exactly_if_no_account_is_short(seed: int) -> None:
    found = plan(*question(seed))
    short = [account.place for account in found.accounts if account.free < 0]
    assert [refusal.place for refusal in found.refusals if refusal.shortfall] == short
    assert found.fits is not bool(found.refusals)
    for account, refusal in ((account, refusal) for account in found.accounts for refusal in found.refusals if refusal.place == account.place):
        assert refusal.shortfall == -account.free


@pytest.mark.parametrize("seed", SEEDS)
def test_two_runs_are_equal(seed: int) -> None:
    assert plan(*question(seed)).as_dict() == plan(*question(seed)).as_dict()


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_says_fits_still_does_with_more_memory(seed: int) -> None:
    asked = question(seed)
    if plan(*asked).fits:
        assert all(plan(*more_memory(asked, gibibytes)).fits for gibibytes in (1, 4, 32))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_user_wrote_is_not_changed(seed: int) -> None:
    asked = question(seed)
    for wanted, got in zip(asked[1], plan(*asked).deployments):
        for name in ("context", "parallel"):
            assert got.options[name] == wanted.options.get(name, got.options[name])
        assert set(got.gpus) <= set(wanted.options.get("gpus", got.gpus))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_change_that_is_offered_fits(seed: int) -> None:
    here, demands, models_max, budgets, policy = question(seed)
    found = plan(here, demands, models_max, budgets, policy)
    for refusal in found.refusals:
        for change in refusal.changes:
            values = {setting.model: setting.values for setting in change.settings}
            limits = {**models_max, **({"llama-router": values[""]["llm_models_max"]} if "" in values else {})}
            after = plan(here, [replace(one, options={**one.options, **values.get(one.model, {})}) for one in demands], limits, budgets, policy)
            assert refusal.place not in [other.place for other in after.refusals], change.message
            assert len(after.refusals) < len(found.refusals)


@pytest.mark.parametrize("what", [shape(4), shape(16), shape(30, experts=True)], ids=["small", "large", "moe"])
def test_more_memory_never_shortens_a_context(what: t.Any) -> None:
    tokens = []
    for gibibytes in range(8, 64):
        found = plan(machine(gpu(0, gibibytes), ram=64), [demand("chat", what)], {}, [], Policy())
        tokens.append(found.deployments[0].options["context"] * found.deployments[0].options["parallel"] if found.fits else 0)
    assert tokens == sorted(tokens)
    assert tokens[-1] > 0


def test_a_large_host_is_planned_quickly() -> None:
    here = machine(*(gpu(index, 80) for index in range(8)), tensor_parallel=(tuple(range(8)),))
    demands = [demand(f"model-{number}", shape(6 + number, experts=number % 3 == 0)) for number in range(10)]
    begin = time.process_time()
    found: Plan = plan(here, [*demands, vllm("a", shape(100)), vllm("b", shape(30))], {}, [], Policy())
    assert found.fits
    assert time.process_time() - begin < 2
