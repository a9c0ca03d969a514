# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The units of the distributions, word by word where they matter; the daemon itself runs in Molecule."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files, _persistenced
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._persistenced import absent, drop_in, present

DEBIAN = "[Service]\nType=forking\nExecStart=/usr/bin/nvidia-persistenced --user nvpd\n[Install]\nWantedBy=multi-user.target\n"
UBUNTU = (
    "[Unit]\nStopWhenUnneeded=true\n"
    "[Service]\nType=forking\nExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose\n"
)
RPM = "[Service]\nType=forking\nExecStart=/usr/bin/nvidia-persistenced --verbose\n[Install]\nWantedBy=multi-user.target\n"


class Machine:
    """Answers systemctl for the daemon's unit. The daemon turns persistence mode on if its command does not say otherwise."""

    def __init__(self, root: Path, unit: str | None) -> None:
        self.unit = root / "lib/nvidia-persistenced.service"
        if unit is not None:
            self.unit.parent.mkdir()
            self.unit.write_text(unit)
        self.drop_in = root / "units/nvidia-persistenced.service.d/50-llm.conf"
        self.enabled = "enabled" if unit and "[Install]" in unit else "static"
        self.active = "active" if self.enabled == "enabled" else "inactive"
        self.persistence = self.active == "active"
        self.works = True
        self.calls: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        verb = command[1]
        if verb == "show":
            load = "loaded" if self.unit.exists() else "not-found"
            values = {"LoadState": load, "FragmentPath": str(self.unit), "ActiveState": self.active, "UnitFileState": self.enabled}
            return 0, "".join(f"{key}={value}\n" for key, value in values.items()), ""
        self.calls.append(verb)
        if verb in ("restart", "try-restart"):
            text = self.drop_in.read_text() if self.drop_in.exists() else ""
            self.active = "active"
            self.persistence = self.works and "--no-persistence-mode" not in (text if "ExecStart=/" in text else self.unit.read_text())
        elif verb in ("enable", "disable"):
            self.enabled = "enabled" if verb == "enable" else "static"
        return 0, "", ""

    def look(self) -> Snapshot:
        return Snapshot(True, gpus=[Gpu(0, "GPU-0", persistence=self.persistence), Gpu(1, "GPU-1", persistence=None)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_persistenced, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(_persistenced, "SECONDS_TO_TAKE_EFFECT", 0)
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:root")


@pytest.mark.parametrize("unit", [DEBIAN, RPM])
def test_a_unit_that_turns_it_on_keeps_its_command(unit: str) -> None:
    assert "ExecStart" not in drop_in(unit)
    assert "StopWhenUnneeded=false" in drop_in(unit)


def test_ubuntus_unit_loses_the_option_and_keeps_its_user() -> None:
    assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --verbose\n" in drop_in(UBUNTU)
    assert "[Install]\nWantedBy=multi-user.target" in drop_in(UBUNTU)


@pytest.mark.parametrize("unit", [DEBIAN, UBUNTU, RPM])
def test_it_ends_with_persistence_mode_on_and_then_stays(tmp_path: Path, unit: str) -> None:
    machine = Machine(tmp_path, unit)
    said = present(machine, check=True, look=machine.look)
    assert said.changed
    assert machine.calls == []
    done = present(machine, check=False, look=machine.look)
    assert done.diff == said.diff
    assert done.persistence == {0: True, 1: None}
    assert machine.enabled == "enabled"
    machine.calls.clear()
    assert not present(machine, check=False, look=machine.look).changed
    assert machine.calls == []


def test_a_daemon_that_runs_without_effect_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, UBUNTU)
    machine.works = False
    with pytest.raises(LLMError, match="persistence mode is still off on GPU 0"):
        present(machine, check=False, look=machine.look)


def test_somebody_who_turned_it_off_is_seen(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DEBIAN)
    present(machine, check=False, look=machine.look)
    machine.persistence = False
    assert "GPUs without persistence mode: [0]" in present(machine, check=False, look=machine.look).diff["before"]
    assert machine.persistence


def test_before_the_reboot_all_is_prepared(tmp_path: Path) -> None:
    machine = Machine(tmp_path, UBUNTU)
    done = present(machine, check=False, look=lambda: Snapshot(False, "driver", "It is not loaded."))
    assert machine.calls == ["daemon-reload", "enable"]
    assert done.warnings == ["nvidia-persistenced starts at the next boot: It is not loaded."]
    assert not present(machine, check=False, look=lambda: Snapshot(False, "driver", "")).changed


def test_without_the_daemon(tmp_path: Path) -> None:
    machine = Machine(tmp_path, None)
    assert present(machine, check=True, look=machine.look).changed
    with pytest.raises(LLMError, match="install the package that has it"):
        present(machine, check=False, look=machine.look)


def test_absent_gives_the_unit_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path, UBUNTU)
    present(machine, check=False, look=machine.look)
    assert absent(machine, check=True).changed
    assert absent(machine, check=False).changed
    assert not machine.drop_in.parent.exists()
    assert (machine.enabled, machine.persistence) == ("static", False)
    assert not absent(machine, check=False).changed


def test_absent_leaves_what_others_added(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DEBIAN)
    present(machine, check=False, look=machine.look)
    other = machine.drop_in.with_name("override.conf")
    other.write_text("[Service]\n")
    assert absent(machine, check=False).changed
    assert list(other.parent.iterdir()) == [other]
    assert "daemon-reload" in machine.calls[-3:]
