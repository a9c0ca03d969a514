# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference


def test_equal_values_are_no_difference() -> None:
    difference = Difference()
    assert not difference.add("a", 1, 1)
    assert not difference.changed
    assert difference.as_dict() == {"before": "", "after": ""}


def test_a_secret_shows_only_that_it_changed() -> None:
    difference = Difference()
    assert difference.add("key", None, "hush", secret=True)
    assert difference.add("other", "old hush", "new hush", secret=True)
    assert difference.changed
    assert difference.as_dict() == {"before": "key: (absent)\nother: (secret)\n", "after": "key: (secret)\nother: (secret)\n"}


def test_text_of_several_lines_stands_below_its_name() -> None:
    difference = Difference()
    difference.add("/etc/x", "one\ntwo", "one\n")
    assert difference.as_dict() == {"before": "--- /etc/x\none\ntwo\n", "after": "--- /etc/x\none\n"}
