# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._boards import known_board


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("RTX 4090", 24564),
        ("NVIDIA GeForce RTX 4090", 24564),
        ("geforce rtx 3090 ti", 24564),
        ("NVIDIA A100-SXM4-80GB", 81920),
        ("NVIDIA H100 80GB HBM3", 81559),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887),
        ("Tesla T4", 15360),
    ],
)
def test_a_product_name_is_its_board(name: str, memory: int) -> None:
    board = known_board(name)
    assert board and board.memory == memory


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 3060 Ti", "A100", "RTX", ""])
def test_a_name_that_could_be_another_board_is_unknown(name: str) -> None:
    assert known_board(name) is None
