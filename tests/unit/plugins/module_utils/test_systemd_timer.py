# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _files, _systemd_timer
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec
from ansible_collections.baremetal.llm.plugins.module_utils._systemd_timer import Timer, absent, present


class Systemd:
    """Answers as systemd would for one timer, and keeps the calls that change something."""

    def __init__(self) -> None:
        self.active, self.enabled = "inactive", "disabled"
        self.calls: list[str] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] == "systemd-analyze":
            return (0, "", "") if command[2] == "daily" else (1, "", "Failed to parse calendar specification")
        if command[1] == "show":
            return 0, f"ActiveState={self.active}\nUnitFileState={self.enabled}\nNeedDaemonReload=no\n", ""
        self.calls.append(" ".join(command[1:]))
        self.active = {"restart": "active"}.get(command[1], self.active)
        self.enabled = {"enable": "enabled"}.get(command[1], self.enabled)
        return 0, "", ""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(_systemd_timer, "UNIT_DIRECTORY", tmp_path)
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    monkeypatch.setattr(_files, "_owner", lambda _found: "root:root")
    return Systemd()


def timer(tmp_path: Path, service: str = "[Service]\n", timer: str = "[Timer]\n", content: str = "a", schedule: str = "daily") -> Timer:
    return Timer("llm-x", service, timer, (schedule,), (FileSpec(tmp_path / "etc/settings", content),))


def test_written_enabled_and_started_once(systemd: Systemd, tmp_path: Path) -> None:
    assert present(timer(tmp_path), systemd, check=True).changed
    assert list(tmp_path.iterdir()) == []
    assert present(timer(tmp_path), systemd, check=False).changed
    assert systemd.calls == ["daemon-reload", "enable llm-x.timer", "restart llm-x.timer"]
    assert not present(timer(tmp_path), systemd, check=False).changed
    assert len(systemd.calls) == 3


def test_the_timer_is_restarted_only_for_its_own_change(systemd: Systemd, tmp_path: Path) -> None:
    present(timer(tmp_path), systemd, check=False)
    for changed, calls in (
        (timer(tmp_path, content="b"), []),
        (timer(tmp_path, content="b", service="[Service]\nNice=1\n"), ["daemon-reload"]),
        (timer(tmp_path, content="b", service="[Service]\nNice=1\n", timer="[Timer]\n#\n"), ["daemon-reload", "restart llm-x.timer"]),
    ):
        systemd.calls.clear()
        assert present(changed, systemd, check=False).changed
        assert systemd.calls == calls


def test_a_stopped_timer_is_started(systemd: Systemd, tmp_path: Path) -> None:
    present(timer(tmp_path), systemd, check=False)
    systemd.active, systemd.calls = "inactive", []
    assert present(timer(tmp_path), systemd, check=False).as_dict()["before"] == "timer running: False\n"
    assert systemd.calls == ["restart llm-x.timer"]


def test_a_time_that_is_none_is_refused_before_anything_is_written(systemd: Systemd, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="llm-x: systemd does not understand the time 'nightly'"):
        present(timer(tmp_path, schedule="nightly"), systemd, check=False)
    assert (list(tmp_path.iterdir()), systemd.calls) == ([], [])


def test_absent_stops_and_removes_both(systemd: Systemd, tmp_path: Path) -> None:
    present(timer(tmp_path), systemd, check=False)
    systemd.calls.clear()
    assert absent("llm-x", systemd, check=True).changed
    assert absent("llm-x", systemd, check=False).changed
    assert systemd.calls[0] == "disable --now llm-x.timer llm-x.service"
    assert not absent("llm-x", systemd, check=False).changed
    assert not list(tmp_path.glob("llm-x*"))
