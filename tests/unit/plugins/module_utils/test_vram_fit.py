# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The inverses, each checked from both sides: what is answered fits, and one more does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _vram_fit as fit
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Room
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings
from ansible_collections.baremetal.llm.plugins.module_utils._vram_vllm import VllmSettings
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in import shape

pytestmark = pytest.mark.usefixtures("simple_estimates")

MODEL = shape(8)
ONE = LlamaSettings(context=16384, parallel=2, split=(1.0,), cache_ram=0)
ROOM = Room((12 * GIB,))


@pytest.mark.parametrize("gibibytes", [9, 10.3, 12, 17])
@pytest.mark.parametrize("parallel", [1, 3])
def test_the_largest_context(gibibytes: float, parallel: int) -> None:
    room = Room((int(gibibytes * GIB),))
    settings = replace(ONE, parallel=parallel)
    found = fit.largest_context(MODEL, settings, room, 131072)
    assert found
    assert found % 256 == 0
    assert fit.fits(MODEL, fit.with_context(settings, found), room)
    assert found == 131072 or not fit.fits(MODEL, fit.with_context(settings, found + 256), room)


def test_the_largest_context_is_the_limit_itself_where_that_fits() -> None:
    assert fit.largest_context(MODEL, ONE, ROOM, 10007) == 10007
    assert fit.largest_context(MODEL, ONE, Room((8 * GIB,)), 131072) is None


def test_the_largest_parallelism() -> None:
    assert fit.largest_parallel(MODEL, ONE, ROOM, 64) == 7  # 3.51 GiB, 0.5 for each
    assert fit.largest_parallel(MODEL, ONE, ROOM, 4) == 4
    assert fit.largest_parallel(MODEL, ONE, Room((8 * GIB,)), 4) is None


def test_the_best_cache_type() -> None:
    long = replace(ONE, context=131072)  # 8 GiB in f16
    assert [fit.best_cache_type(MODEL, long, Room((gibibytes * GIB,))) for gibibytes in (17, 13, 11, 9)] == ["f16", "q8_0", "q4_0", None]
    assert fit.best_cache_type(MODEL, replace(long, flash_attention=False), Room((13 * GIB,))) is None


def test_the_fewest_layers_of_experts() -> None:
    moe = shape(32, experts=True)
    room = Room((24 * GIB,))
    assert fit.fewest_cpu_moe(moe, ONE, room) == 11
    assert fit.fits(moe, replace(ONE, cpu_moe=11), room)
    assert not fit.fits(moe, replace(ONE, cpu_moe=10), room)
    assert fit.fewest_cpu_moe(moe, ONE, Room((24 * GIB,), host=9 * GIB)) is None
    assert fit.fewest_cpu_moe(moe, ONE, Room((4 * GIB,))) is None


def test_the_most_layers_on_the_gpu() -> None:
    assert fit.most_gpu_layers(MODEL, ONE, Room((5 * GIB,))) == 16
    assert fit.most_gpu_layers(MODEL, ONE, ROOM) == 33
    assert fit.most_gpu_layers(MODEL, ONE, Room((100 * MIB,))) is None


def test_the_smallest_degree_of_tensor_parallelism() -> None:
    settings = VllmSettings(max_model_len=16384)
    assert fit.smallest_tensor_parallel(shape(30), settings, 24 * GIB, (1, 2, 4)) == 2
    assert fit.smallest_tensor_parallel(shape(30, heads=30), settings, 11 * GIB, (2, 4, 5)) == 5
    assert fit.smallest_tensor_parallel(shape(100), settings, 24 * GIB, (1, 2, 4)) is None


def test_the_longest_request_that_a_cache_holds() -> None:
    assert fit.longest_cached(MODEL, VllmSettings(max_model_len=1), GIB, 131072) == 16384
    assert fit.longest_cached(MODEL, VllmSettings(max_model_len=1), MIB, 131072) is None


@pytest.mark.parametrize("room", [(12, 12), (12, 6), (4, 12), (6, 3, 6)])
def test_a_balanced_split_leaves_about_the_same_everywhere(room: tuple[int, ...]) -> None:
    given = Room(tuple(size * GIB for size in room))
    settings = fit.balanced(MODEL, ONE, given)
    left = [have - usage.total for have, usage in zip(given.devices, fit.memory(MODEL, settings).devices)]
    assert max(left) - min(left) <= 2 * (8 + 1) / 32 * GIB  # two layers with their cache
    assert len(settings.split) == len(room)


def test_one_device_needs_no_split() -> None:
    assert fit.balanced(MODEL, ONE, ROOM) is ONE
    none = replace(ONE, split=(1.0, 1.0), split_mode="none")
    assert fit.balanced(MODEL, none, Room((GIB, GIB))) is none


def test_main_memory_counts_where_it_is_limited() -> None:
    assert fit.fits(MODEL, replace(ONE, cache_ram=1024), ROOM)
    assert not fit.fits(MODEL, replace(ONE, cache_ram=1024), replace(ROOM, host=GIB))
