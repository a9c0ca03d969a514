# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_database as database_of
from ansible_collections.baremetal.llm.plugins.module_utils._backup_database import Contents, DumpError, NoServer, Server, Table
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_restore import Place, as_contents, forget, give_back, prepare, restore
from ansible_collections.baremetal.llm.plugins.module_utils._services import Services
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.backup_stand_in import age

__all__ = ["age"]
OLD = Contents("15.14", {"public.keys": Table(2, "1:2")}, ("1_init",))
NEW = Contents("15.14", {"public.keys": Table(3, "1:3")}, ("1_init", "2_more"))


class Machine:
    """A server with databases and the services that use one; keeps what happens in its order."""

    def __init__(self, **found: Contents) -> None:
        self.found, self.happened = found, list[str]()
        self.dump, self.refuses, self.lacks = OLD, "", ""
        self.through: t.Sequence[str] = ()

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

    def lacking(self, _server: Server, _name: str) -> str:
        return self.lacks

    def restore(self, _server: Server, _file: Path, name: str, _owner: str, through: t.Sequence[str]) -> Contents:
        self.found[name], self.through = self.dump, through
        return self.dump

    def swap(self, _server: Server, name: str, new: str, old: str) -> None:
        if self.refuses:
            raise DumpError(self.refuses)
        if name in self.found:
            self.found[old] = self.found.pop(name)
        self.found[name] = self.found.pop(new)
        self.happened.append("swap")


def place_on(machine: Machine, *names: str, **server: t.Any) -> Place:
    return Place("litellm", "litellm", Services(names or ("llm-litellm", "llm-litellm-standby"), machine.run), Server(**server))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(litellm=NEW)
    for name in ("exists", "contents", "drop", "lacking", "restore", "swap"):
        monkeypatch.setattr(database_of, name, getattr(made, name))
    return made


def put(machine: Machine, wanted: Contents = OLD) -> t.Any:
    return restore(Path("/x"), wanted, "1.106.2-3858989f", place_on(machine))


AROUND = ["stop llm-litellm-standby", "stop llm-litellm", "swap", "start llm-litellm", "start llm-litellm-standby"]


def test_the_old_database_stays_and_can_be_given_back(machine: Machine) -> None:
    done = put(machine)
    assert (done.rows, done.older) == (2, True)
    assert machine.found == {"litellm": OLD, done.old: NEW}
    assert machine.happened == AROUND
    failed = give_back(done.old, place_on(machine))
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


def test_a_place_is_made_for_us_alone_with_a_key_to_seal_to(machine: Machine, age: Path, tmp_path: Path) -> None:
    place = tmp_path / "restore"
    place.mkdir()
    (place / "litellm.dump.age").write_text("of a restore that was killed")
    ready = prepare(OLD, "1.106.2", place_on(machine), place, sealed=True, check=False)
    assert (ready.there, ready.older, ready.public_key) == (True, True, "age1another")
    assert place.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in place.iterdir()] == ["key"]
    restore(place / "litellm.dump.age", OLD, "1.106.2", place_on(machine))
    assert machine.through[-2:] == ["--decrypt", f"--identity={place}/key"]
    assert prepare(OLD, "1.106.2", place_on(machine), place, sealed=False, check=False).public_key == ""
    assert list(place.iterdir()) == []
    forget(place)
    forget(place)
    assert not place.exists()


def test_checking_makes_no_place_and_knows_a_bare_machine(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(OLD, "1.106.2", place_on(machine), tmp_path / "restore", sealed=True, check=True).there

    def bare(_server: Server, _name: str) -> t.NoReturn:
        raise NoServer("PostgreSQL is not installed here.")

    monkeypatch.setattr(database_of, "exists", bare)
    assert not prepare(OLD, "1.106.2", place_on(machine), tmp_path / "restore", sealed=True, check=True).there
    assert not (tmp_path / "restore").exists()
    with pytest.raises(NoServer):
        prepare(OLD, "1.106.2", place_on(machine), tmp_path / "restore", sealed=True, check=False)


def test_somebody_elses_server_must_allow_it(machine: Machine, tmp_path: Path) -> None:
    machine.lacks = "ALTER ROLE litellm CREATEDB"
    theirs = place_on(machine, host="db.example.org", user="litellm", system_user="", tls="verify-full")
    for check in (True, False):
        with pytest.raises(BackupError, match="litellm may not replace a database on db.example.org:5432.*administrator.*: ALTER ROLE litellm CREATEDB"):
            prepare(OLD, "1.106.2", theirs, tmp_path / "restore", sealed=True, check=check)
    assert not (tmp_path / "restore").exists()
    assert prepare(OLD, "1.106.2", place_on(machine), tmp_path / "restore", sealed=False, check=True).there  # our own administrator may everything
