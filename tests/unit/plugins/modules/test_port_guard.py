# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._nftables import NftablesError, Outcome, Rule
from ansible_collections.baremetal.llm.plugins.modules import port_guard

Call = t.Callable[..., dict[str, t.Any]]


def test_the_rules_arrive(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []

    def present(*arguments: t.Any) -> Outcome:
        seen.append((arguments[0], arguments[1], arguments[3]))
        return Outcome(True, {"before": "a", "after": "b"})

    monkeypatch.setattr(port_guard, "present", present)
    answer = call(port_guard, check=True, rules=[{"ports": [8081, "32768-60999"], "sources": ["192.0.2.1"]}, {"ports": [9100]}], unit="[Service]")
    assert seen == [([Rule(("8081", "32768-60999"), ("192.0.2.1",)), Rule(("9100",), ())], "[Service]", True)]
    assert (answer["changed"], answer["diff"]) == (True, {"before": "a", "after": "b"})


def test_it_fails_with_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_arguments: t.Any) -> Outcome:
        raise NftablesError("no nft here")

    monkeypatch.setattr(port_guard, "absent", absent)
    assert "no nft here" in call(port_guard, state="absent")["msg"]
    assert "unit" in call(port_guard)["msg"]
