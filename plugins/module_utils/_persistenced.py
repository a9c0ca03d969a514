# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""nvidia-persistenced that really keeps the driver loaded, whatever the distribution's unit says.

Ubuntu's unit passes --no-persistence-mode, stops when unneeded and has no [Install]; Debian's and NVIDIA's do not. So a drop-in is derived
from the unit that is there, and success is what NVML answers.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot, snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import UNIT_DIRECTORY, systemctl, unit_state

UNIT = "nvidia-persistenced"
OFF = "--no-persistence-mode"
SECONDS_TO_TAKE_EFFECT = 10


@dataclass(frozen=True)
class Outcome:
    """``persistence`` of each GPU by its index, ``None`` where a board does not say."""

    changed: bool
    diff: dict[str, str]
    persistence: dict[int, bool | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def drop_in(unit: str) -> str:
    """What turns a distribution's unit (its text) into one that starts at boot, stays, and turns persistence mode on."""
    commands = [line.partition("=")[2].strip() for line in unit.splitlines() if line.startswith("ExecStart=")]
    service = ""
    if any(OFF in command.split() for command in commands):
        kept = (" ".join(word for word in command.split() if word != OFF) for command in commands)
        service = "[Service]\nExecStart=\n" + "".join(f"ExecStart={command}\n" for command in kept)
    return (
        "# Managed by the Ansible collection baremetal.llm.\n"
        f"[Unit]\nStopWhenUnneeded=false\n{service}[Install]\nWantedBy=multi-user.target\n"
    )


def present(run: Runner, check: bool, look: t.Callable[[], Snapshot] = snapshot) -> Outcome:
    """Write the drop-in, enable and start the daemon, and wait until every GPU has persistence mode.

    Raises ``LLMError`` if the daemon is not installed, or if a GPU still is without it. With a driver that is not loaded all is prepared
    for the next boot.
    """
    difference = Difference()
    state = unit_state(UNIT, run, "FragmentPath")
    if state["LoadState"] == "not-found":
        if not check:
            raise LLMError(f"{UNIT}.service is not there: install the package that has it (Debian: nvidia-persistenced; elsewhere it comes with the driver).")
        difference.add(UNIT, None, "enabled and running")
        return Outcome(True, difference.as_dict())
    spec = FileSpec(_path(), drop_in(Path(state["FragmentPath"]).read_text()))
    written = compare(spec, difference)
    enabled = difference.add("enabled", state["UnitFileState"] == "enabled", True)
    gpus = look()
    if gpus.available:
        lacking = difference.add("GPUs without persistence mode", _without(gpus) or "none", "none")
        stopped = difference.add("running", state["ActiveState"] == "active", True)
    if not check:
        write([spec], {spec.path} if written else set(), run)
        if written:
            systemctl(run, "daemon-reload")
        if enabled:
            systemctl(run, "enable", UNIT)
        if gpus.available and (written or lacking or stopped):
            systemctl(run, "restart", UNIT)
            gpus = _wait(look)
    warnings = [] if gpus.available else [f"{UNIT} starts at the next boot: {gpus.message}"]
    return Outcome(difference.changed, difference.as_dict(), {gpu.index: gpu.persistence for gpu in gpus.gpus}, warnings)


def absent(run: Runner, check: bool) -> Outcome:
    """Take the drop-in away: what the distribution's unit says counts again."""
    difference = Difference()
    spec = _path()
    if difference.add(str(spec), "present" if spec.exists() else None, None) and not check:
        state = unit_state(UNIT, run, "FragmentPath")
        unit = Path(state["FragmentPath"])
        if state["UnitFileState"] == "enabled" and unit.is_file() and "[Install]" not in unit.read_text():
            systemctl(run, "disable", UNIT)
        spec.unlink()
        if not any(spec.parent.iterdir()):
            spec.parent.rmdir()
        systemctl(run, "daemon-reload")
        systemctl(run, "try-restart", UNIT)
    return Outcome(difference.changed, difference.as_dict())


def _path() -> Path:
    return UNIT_DIRECTORY / f"{UNIT}.service.d/50-llm.conf"


def _without(gpus: Snapshot) -> list[int]:
    return [gpu.index for gpu in gpus.gpus if gpu.persistence is False]


def _wait(look: t.Callable[[], Snapshot]) -> Snapshot:
    deadline = time.monotonic() + SECONDS_TO_TAKE_EFFECT
    while _without(gpus := look()):
        if time.monotonic() > deadline:
            raise LLMError(
                f"{UNIT} runs, but persistence mode is still off on GPU {', '.join(map(str, _without(gpus)))}: see journalctl -u {UNIT}."
            )
        time.sleep(0.2)
    return gpus
