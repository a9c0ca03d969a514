# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The text of the table, and what is done to a kernel that has another one; the real nft is asked in Molecule."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files, _nftables, _systemd
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._nftables import NftablesError, Rule, absent, present, render

UNIT = "[Service]\nType=oneshot\n"
RULES = [Rule((8081,), ("192.0.2.1",))]


class Machine:
    """Answers nft and systemctl. nft lists a table as the lines of its file in capitals, so that its words are not ours."""

    def __init__(self, root: Path) -> None:
        self.file = root / "etc/llm.nft"
        self.live: str | None = None
        self.states = {"UnitFileState": "disabled", "ActiveState": "inactive"}
        self.calls: list[str] = []
        self.deaf = False  # takes what it is told, and forgets it

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] == "unshare":
            return 0, Path(command[7]).read_text().upper(), ""
        verb = " ".join(command[1:3])
        if command[0] == "systemctl":
            return self.systemctl(command)
        if verb == "list tables":
            return 0, "table ip nat\n" + ("table inet llm\n" if self.live is not None else ""), ""
        if verb.startswith("--stateless"):
            return 0, self.live or "", ""
        self.calls.append(" ".join(command[1:]).replace(str(self.file.parent), ""))
        if verb.startswith("--file"):
            self.load()
        elif verb == "delete table":
            self.live = None
        return 0, "", ""

    def systemctl(self, command: list[str]) -> tuple[int, str, str]:
        if command[1] == "show":
            return 0, "".join(f"{key}={value}\n" for key, value in self.states.items()), ""
        self.calls.append(command[1])
        if command[1] in ("start", "restart", "reload"):
            self.load()
            self.states["ActiveState"] = "active"
        elif command[1] in ("enable", "disable"):
            self.states["UnitFileState"] = f"{command[1]}d"
        return 0, "", ""

    def load(self) -> None:
        self.live = None if self.deaf else self.file.read_text().upper()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    nft = tmp_path / "nft"
    nft.touch()
    monkeypatch.setattr(_nftables, "NFT", nft)
    monkeypatch.setattr(_nftables, "RULES", made.file)
    monkeypatch.setattr(_systemd, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(_systemd, "STAMP_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(_systemd, "_due", lambda _app, _unit, changed, running, _state: ("reload" if changed else "") if running else "start")
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:root")
    return made


def rules_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "dport" in line]


def test_a_range_comes_after_its_ports() -> None:
    text = render([Rule(("29500", "32768-60999"), ("192.0.2.2",)), Rule((40000,), ("192.0.2.1",)), Rule(("32768-60999",), ("192.0.2.3",))])
    assert rules_of(text) == [
        "tcp dport { 29500 } ip saddr { 192.0.2.2 } accept",
        "tcp dport { 29500 } reject with tcp reset",
        "tcp dport { 40000 } ip saddr { 192.0.2.1 } accept",
        "tcp dport { 40000 } reject with tcp reset",
        "tcp dport 32768-60999 ip saddr { 192.0.2.2/31 } accept",
        "tcp dport 32768-60999 reject with tcp reset",
    ]


@pytest.mark.parametrize("port", ["60999-32768", "1-70000", "http", "-5", "8000-", "10-30"])
def test_no_range(port: str) -> None:
    with pytest.raises(InputError, match="is no TCP port|port 22 is how this host is reached"):
        render([Rule((port,), ())])


def test_the_head_replaces_the_table_and_lets_in_what_is_not_ours() -> None:
    text = render(RULES)
    assert re.sub(r"#.*\n", "", text).startswith("table inet llm {}\ndelete table inet llm\ntable inet llm {\n")
    order = ["iif lo accept", "tcp flags & (syn | ack) != syn accept", "fib daddr type != local accept", "tcp dport"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_ports_with_the_same_sources_share_a_line_and_rules_add_up() -> None:
    rules = [
        Rule((8081, 8000), ("192.0.2.1", "2001:db8::1")),
        Rule((8000,), ("192.0.2.9",)),
        Rule((8090,), ("2001:db8::1", "192.0.2.1")),
        Rule((9100,), ()),
    ]
    assert rules_of(render(rules)) == [
        "tcp dport { 8000 } ip saddr { 192.0.2.1, 192.0.2.9 } accept",
        "tcp dport { 8000 } ip6 saddr { 2001:db8::1 } accept",
        "tcp dport { 8000 } reject with tcp reset",
        "tcp dport { 8081, 8090 } ip saddr { 192.0.2.1 } accept",
        "tcp dport { 8081, 8090 } ip6 saddr { 2001:db8::1 } accept",
        "tcp dport { 8081, 8090 } reject with tcp reset",
        "tcp dport { 9100 } reject with tcp reset",
    ]


def test_sources_that_overlap_become_one_and_a_mapped_address_is_the_one_it_maps() -> None:
    sources = ("192.0.2.7", "192.0.2.0/25", "192.0.2.128/25", "::ffff:198.51.100.1")
    assert rules_of(render([Rule((1,), sources)]))[0] == "tcp dport { 1 } ip saddr { 192.0.2.0/24, 198.51.100.1 } accept"


def test_a_name_is_what_this_host_knows_it_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"gw01": ["192.0.2.10", "fe80::2%eth0"]}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_more, **_named: [(0, 0, 0, "", (address, 0)) for address in known[name]])
    assert rules_of(render([Rule((1,), ("gw01", "192.0.2.9"))]))[:2] == [
        "tcp dport { 1 } ip saddr { 192.0.2.9, 192.0.2.10 } accept",
        "tcp dport { 1 } ip6 saddr { fe80::2 } accept",
    ]


def test_without_rules_nobody_is_kept_out() -> None:
    assert rules_of(render([])) == []


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Rule((8081,), ("gw01.invalid",)), "rules[0]: this host does not know the name gw01.invalid"),
        (Rule((8081,), ("192.0.2.7/24",)), "rules[0]: source '192.0.2.7/24' is no IP address, no network and no name: did you mean 192.0.2.0/24"),
        (Rule((8081,), ("fe80::1%eth0/64",)), "rules[0]: source 'fe80::1%eth0/64' is no IP address"),
        (Rule((8081,), ("",)), "rules[0]: source '' is no IP address"),
        (Rule((0,), ()), "rules[0]: 0 is no TCP port"),
        (Rule((65536,), ()), "rules[0]: 65536 is no TCP port"),
        (Rule((22,), ()), "rules[0]: port 22 is how this host is reached"),
    ],
)
def test_what_is_no_rule_is_refused(rule: Rule, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        render([rule])


def test_the_first_run_writes_loads_and_enables_and_the_second_does_nothing(machine: Machine) -> None:
    said = present(RULES, UNIT, machine, check=True)
    assert said.changed
    assert "192.0.2.1" in said.diff["after"]
    assert (machine.live, machine.file.exists(), machine.calls) == (None, False, [])
    assert present(RULES, UNIT, machine, check=False).changed
    assert machine.live == machine.file.read_text().upper() == render(RULES).upper()
    assert machine.calls[-2:] == ["enable", "start"]
    machine.calls.clear()
    assert not present(RULES, UNIT, machine, check=False).changed
    assert machine.calls == []


def test_other_rules_come_into_force_by_a_reload(machine: Machine) -> None:
    present(RULES, UNIT, machine, check=False)
    machine.calls.clear()
    assert present([Rule((8081,), ("192.0.2.2",))], UNIT, machine, check=False).changed
    assert [call for call in machine.calls if not call.startswith("--check")] == ["reload"]
    assert "192.0.2.2" in (machine.live or "")


@pytest.mark.parametrize("found", [None, "TABLE WITH ANOTHER RULE"])
def test_what_somebody_did_to_the_table_is_put_right(machine: Machine, found: str | None) -> None:
    present(RULES, UNIT, machine, check=False)
    machine.live = found
    machine.calls.clear()
    said = present(RULES, UNIT, machine, check=True)
    assert said.changed
    assert (found or "(absent)") in said.diff["before"]
    assert (machine.live, machine.calls) == (found, [])
    assert present(RULES, UNIT, machine, check=False).changed
    assert machine.calls == ["--file /llm.nft"]
    assert machine.live == render(RULES).upper()


def test_a_table_that_does_not_stay_is_an_error(machine: Machine) -> None:
    machine.deaf = True
    with pytest.raises(NftablesError, match="does another program write into that table"):
        present(RULES, UNIT, machine, check=False)


def test_before_nft_is_there_only_a_check_passes(machine: Machine) -> None:
    _nftables.NFT.unlink()
    assert present(RULES, UNIT, machine, check=True).changed
    with pytest.raises(NftablesError, match="install nftables first"):
        present(RULES, UNIT, machine, check=False)
    assert not absent(machine, check=False).changed


def test_rules_that_nft_refuses_change_nothing(machine: Machine) -> None:
    def refusing(command: list[str]) -> tuple[int, str, str]:
        return (1, "llm.nft:1:1: Error: no", "") if command[0] == "unshare" else machine(command)

    with pytest.raises(NftablesError, match="nft refuses the rules, so nothing was changed: llm.nft:1:1: Error: no"):
        present(RULES, UNIT, refusing, check=False)
    assert machine.calls == []


def test_absent_leaves_nothing_and_then_finds_nothing(machine: Machine) -> None:
    present(RULES, UNIT, machine, check=False)
    assert absent(machine, check=True).changed
    assert machine.live
    assert absent(machine, check=False).changed
    assert (machine.live, machine.file.parent.exists(), list(_systemd.UNIT_DIRECTORY.iterdir())) == (None, False, [])
    machine.states = {"UnitFileState": "", "ActiveState": "inactive"}
    assert not absent(machine, check=False).changed
