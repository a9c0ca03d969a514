# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_database as database_of
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, DumpError, Server, Table
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_restore import Place, as_contents, give_back, restore

PLACE = Place("litellm", "litellm", ("llm-litellm", "llm-litellm-standby"))
OLD = Contents("15.14", {"public.keys": Table(2, "1:2")}, ("1_init",))
NEW = Contents("15.14", {"public.keys": Table(3, "1:3")}, ("1_init", "2_more"))


class Machine:
    """A server with databases and the services that use one; keeps what happens in its order."""

    def __init__(self, **found: Contents) -> None:
        self.found, self.happened = found, list[str]()
        self.dump, self.refuses = OLD, ""

    def run(self, command: list[str]) -> tuple[int, str, str]:
        self.happened.append(" ".join(command[1:]))
        return 0, "", ""

    def exists(self, _server: Server, name: str) -> bool:
        return name in self.found

    def contents(self, _server: Server, name: str) -> Contents:
        return self.found[name]

    def drop(self, _server: Server, name: str) -> None:
        if self.found.pop(name, None):
            self.happened.append(f"drop {name}")

    def restore(self, _server: Server, _file: Path, name: str, _owner: str) -> Contents:
        self.found[name] = self.dump
        return self.dump

    def swap(self, _server: Server, name: str, new: str, old: str) -> None:
        if self.refuses:
            raise DumpError(self.refuses)
        if name in self.found:
            self.found[old] = self.found.pop(name)
        self.found[name] = self.found.pop(new)
        self.happened.append("swap")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(litellm=NEW)
    for name in ("exists", "contents", "drop", "restore", "swap"):
        monkeypatch.setattr(database_of, name, getattr(made, name))
    return made


def put(machine: Machine, wanted: Contents = OLD) -> t.Any:
    return restore(Path("/x"), wanted, "1.106.2-3858989f", PLACE, machine.run)


AROUND = ["stop llm-litellm-standby", "stop llm-litellm", "swap", "start llm-litellm", "start llm-litellm-standby"]


def test_the_old_database_stays_and_can_be_given_back(machine: Machine) -> None:
    done = put(machine)
    assert (done.rows, done.older) == (2, True)
    assert machine.found == {"litellm": OLD, done.old: NEW}
    assert machine.happened == AROUND
    failed = give_back(done.old, PLACE, machine.run)
    assert machine.found == {"litellm": NEW, failed: OLD}
    assert (done.old[:15], failed[:15]) == ("litellm_before_", "litellm_failed_")


def test_the_rest_of_a_killed_restore_goes_first(machine: Machine) -> None:
    machine.found["litellm_restoring"] = NEW
    put(machine)
    assert machine.happened[0] == "drop litellm_restoring"


def test_another_row_and_nothing_is_put_in_place(machine: Machine) -> None:
    machine.dump = Contents("15.14", {"public.keys": Table(2, "9:9")}, ("1_init",))
    with pytest.raises(BackupError, match="not put in place: public.keys has 2 rows as it shall, but not the same ones"):
        put(machine)
    assert (machine.found, machine.happened) == ({"litellm": NEW}, ["drop litellm_restoring"])


def test_a_swap_that_fails_leaves_the_services_running(machine: Machine) -> None:
    machine.refuses = "in use"
    with pytest.raises(DumpError, match="in use"):
        put(machine)
    assert machine.happened[-2:] == ["start llm-litellm", "start llm-litellm-standby"]
    assert machine.found["litellm"] == NEW


@pytest.mark.parametrize(
    ("wanted", "here", "because"),
    [
        (Contents("16.1", {}, ("1_init",)), NEW, "of PostgreSQL 16.1, this server is 15.14"),
        (Contents("15.1", {}, ("1_init", "2_more", "3_new")), NEW, r"made by LiteLLM 1.106.2.*does not know 1 of .*3_new\): set litellm_version to 1.106.2 or"),
        (OLD, Contents("15.14"), "LiteLLM has not made its tables in litellm yet"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(machine: Machine, wanted: Contents, here: Contents, because: str) -> None:
    machine.found["litellm"] = here
    with pytest.raises(BackupError, match=because):
        put(machine, wanted)
    assert (machine.found, machine.happened) == ({"litellm": here}, [])


def test_a_server_without_the_database_gets_it(machine: Machine) -> None:
    machine.found.clear()
    assert put(machine).old == ""
    assert machine.found == {"litellm": OLD}


def test_a_manifest_that_came_as_an_option() -> None:
    assert as_contents({"postgresql": "15.14", "tables": {"public.keys": {"rows": 2, "sum": "1:2"}}, "migrations": ["1_init"], "host": "x"}) == OLD
