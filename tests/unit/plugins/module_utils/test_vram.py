# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB, Usage, mib, parse_size, shown, total


@pytest.mark.parametrize(
    ("value", "size"),
    [("24GiB", 24 * GIB), ("24 GiB", 24 * GIB), ("512M", 512 * MIB), ("1.5G", 3 * GIB // 2), (512, 512 * MIB), ("512", 512 * MIB), (0, 0), ("2T", 2048 * GIB)],
)
def test_sizes(value: t.Any, size: int) -> None:
    assert parse_size(value, "x") == size


@pytest.mark.parametrize("value", ["24GB", "-1", -1, "much", True, None, "", "1e3M", [1]])
def test_what_is_no_size_is_refused_with_its_name_and_value(value: t.Any) -> None:
    with pytest.raises(InputError, match=r"^llm_vram_margin is .*: write a number with a unit, such as 24GiB"):
        parse_size(value, "llm_vram_margin")


def test_usages_add_up_term_by_term() -> None:
    both = total([Usage(weights=1, cache=2), Usage(weights=10, overhead=5)])
    assert both == Usage(weights=11, cache=2, overhead=5)
    assert both.total == 18
    assert list(both.terms()) == ["weights", "cache", "state", "compute", "projector", "draft", "prompts", "overhead"]


def test_a_need_is_never_shown_smaller_than_it_is() -> None:
    assert [mib(0), mib(1), mib(MIB), mib(MIB + 1)] == [0, 1, 1, 2]
    assert [shown(812 * MIB), shown(15 * GIB), shown(-2 * GIB)] == ["812 MiB", "15.0 GiB", "-2.0 GiB"]
