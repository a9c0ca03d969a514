# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.load.fault_table import page, row
from tests.load.steady_load import BROKEN, TOLD, WHOLE, Request

BEFORE = Request(0, 1, 2, 4, 4, 200, WHOLE, server="chat@one")
CUT = Request(1, 2, 3, 10.5, 13, 200, TOLD, "error event: litellm.X: gone LiteLLM: model group", server="chat@one")
LOST = Request(2, 11, end=12, outcome=BROKEN, detail="ConnectionRefusedError")
SLOW = Request(3, 12, 19, 20, 21, 200, WHOLE, server="chat@two")
BACK = Request(4, 25, 26.5, 27, 28, 200, WHOLE, server="chat@one")
OPEN = Request(5, 26, server="chat@one")


def test_what_counts_is_what_the_fault_could_reach() -> None:
    found = row("fault", [BEFORE, CUT, LOST, SLOW, BACK, OPEN], began=10, back=22, server="one")
    assert (found.requests, found.lost, found.cut) == (5, 1, 1)
    assert (found.told, found.wait, found.until, found.back) == (2.5, 7, 3, 4.5)
    assert found.saw == ("1 x told: error event: X: gone", "1 x broken: ConnectionRefusedError")
    assert found.outcomes == {TOLD, BROKEN}


def test_a_fault_that_nobody_notices() -> None:
    found = row("fault", [SLOW], began=10, back=13, server="two")
    assert (found.lost, found.cut, found.told, found.until, found.back, found.saw) == (0, 0, None, None, None, ("nothing",))


def test_the_page_has_a_line_for_each() -> None:
    text = page([row("power cut", [CUT], 10, 22), row("b", [SLOW], 10, 11)], "a machine")
    assert "with the figures of one run on a machine." in text
    assert "| b | 1 | 0 | 0 | - | 7.0 | - | 8.0 | nothing |\n" in text
