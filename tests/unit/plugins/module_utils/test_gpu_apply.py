# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings on the stand-in's boards, through the real nvidia-ml-py."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_apply import Outcome
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_apply import apply as apply_settings
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import NvmlUnavailable, snapshot


class Host:
    """A board with the record that lives as long as its settings."""

    def __init__(self, board: t.Any, record: Path) -> None:
        self.board, self.record = board, record

    def apply(self, *entries: dict[str, t.Any], **options: t.Any) -> Outcome:
        return apply_settings(entries, record=self.record, **options)

    def reboot(self) -> None:
        self.board.forget()
        self.record.unlink(missing_ok=True)


@pytest.fixture
def host(board: t.Any, tmp_path: Path) -> t.Callable[[str | None], Host]:
    # With persistence mode, as the roles leave it: otherwise a board forgets at the end of every session.
    return lambda name: Host(board(name), tmp_path / "run/gpu-settings.json")


PERSISTENT = {"persistence": True}


def after(outcome: Outcome, setting: str) -> list[t.Any]:
    return [gpu["after"].get(setting) for gpu in outcome.gpus]


def limits() -> list[t.Any]:
    return [gpu.power and gpu.power.limit for gpu in snapshot().gpus]


def test_a_limit_is_set_once(host: t.Any) -> None:
    machine = host("rtx4090")
    machine.apply(PERSISTENT)
    done = machine.apply(PERSISTENT, {"power_limit": "300"})
    assert done.changed
    assert "power_limit: 450 W" in done.diff["before"]
    assert "power_limit: 300 W" in done.diff["after"]
    assert limits() == [300]
    before = machine.board.calls()
    assert not machine.apply(PERSISTENT, {"power_limit": "300"}).changed
    assert machine.board.calls() == before


def test_a_check_says_the_same_and_sets_nothing(host: t.Any) -> None:
    machine = host("rtx3090-pair")
    machine.apply(PERSISTENT)
    calls = machine.board.calls()
    entries = ({"persistence": True, "power_limit": "80%"}, {"gpu": "1", "power_limit": "250", "sm_clocks": [210, 1395]})
    said = machine.apply(*entries, check=True)
    assert machine.board.calls() == calls
    done = machine.apply(*entries)
    assert (said.changed, said.diff, said.gpus) == (True, done.diff, done.gpus)
    assert limits() == [280, 250]


def test_what_is_no_longer_asked_for_goes_back(host: t.Any) -> None:
    machine = host("rtx4090")
    machine.apply({"persistence": True, "power_limit": "300", "sm_clocks": [210, 1200], "compute_mode": "exclusive_process"})
    back = machine.apply(PERSISTENT)
    assert back.changed
    assert (after(back, "power_limit"), after(back, "sm_clocks"), after(back, "compute_mode")) == ([450], [None], ["default"])
    assert limits() == [450]
    assert not machine.apply(PERSISTENT).changed
    assert after(machine.apply(), "persistence") == [False]


def test_what_somebody_else_set_stays_unless_it_is_asked_for(host: t.Any) -> None:
    machine = host("rtx4090")
    machine.apply({"persistence": True, "power_limit": "300"})
    machine.record.unlink()
    assert not machine.apply().changed
    assert limits() == [300]
    reset = machine.apply(reset=True)
    assert reset.changed
    assert limits() == [450]
    assert not machine.apply(reset=True).changed


def test_after_a_reboot_everything_is_set_again(host: t.Any) -> None:
    machine = host("rtx4090")
    entry = {"persistence": True, "power_limit": "300", "sm_clocks": [210, 1200]}
    machine.apply(entry)
    machine.reboot()
    assert limits() == [450]
    assert machine.apply(entry, check=True).changed
    assert machine.apply(entry).changed
    assert limits() == [300]


def test_without_persistence_a_board_forgets_and_it_is_drift(host: t.Any) -> None:
    machine = host("rtx4090")
    machine.apply({"power_limit": "300"})
    assert machine.apply({"power_limit": "300"}, check=True).changed


@pytest.mark.parametrize("refuses", ["it is fixed", "when it is tried"])
def test_a_board_that_refuses_a_limit_gets_a_clock_lock(host: t.Any, refuses: str) -> None:
    machine = host("a2000-pair-display" if refuses == "it is fixed" else "rtx3090-pair")
    machine.board.edit("gpu.*.error.nvmlDeviceSetPowerManagementLimit", "3")
    entry = {"persistence": True, "power_limit": "80%", "fallback_sm_clocks": [210, 1200]}
    before = limits()
    done = machine.apply(entry)
    assert after(done, "sm_clocks") == [[210, 1200], [210, 1200]]
    assert after(done, "power_limit") == limits() == before
    reason = done.gpus[0]["unchangeable"]["power_limit"]
    assert ("fixed at 70 W" if refuses == "it is fixed" else "the board refuses it: Not Supported") in reason
    assert reason.endswith("fallback_sm_clocks take its place")
    calls = machine.board.calls()
    assert not machine.apply(entry).changed
    assert not machine.apply(entry, check=True).changed
    assert machine.board.calls() == calls


def test_a_laptop_says_why_and_locks_the_clock_if_allowed(host: t.Any) -> None:
    machine = host("laptop")
    alone = machine.apply({"persistence": True, "power_limit": "60"})
    assert "Not Supported" in alone.gpus[0]["unchangeable"]["power_limit"]
    assert any("power_limit" in warning for warning in alone.warnings)
    allowed = machine.apply({"persistence": True, "power_limit": "60", "fallback_sm_clocks": [210]})
    assert after(allowed, "sm_clocks") == [[210, 210]]
    assert "fallback_sm_clocks take its place" in allowed.gpus[0]["unchangeable"]["power_limit"]
    assert not machine.apply({"persistence": True, "power_limit": "60", "fallback_sm_clocks": [210]}).changed


def test_a_lost_gpu_does_not_keep_the_others(host: t.Any) -> None:
    machine = host("lost")
    done = machine.apply({"persistence": True})
    assert after(done, "persistence") == [True, True, None, True]
    assert "lost" in done.gpus[2]["unchangeable"]["gpu"].lower()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"power_limit": "900"}, r"gpus\[0\]\.power_limit is '900': GPU 0 \(NVIDIA GeForce RTX 4090, GPU-.*\) takes 150 to 600 W"),
        ({"power_limit": "10%"}, r"that is 45 W of 450 W: .* takes 150 to 600 W"),
        ({"power_limit": "much"}, "it must be watts"),
        ({"gpu": "GPU-nobody"}, "no GPU is called so. There is: GPU 0"),
        ({"gpu": "7"}, "no GPU is called so"),
        ({"gpu": "*H100*"}, "no GPU is called so"),
        ({"gpu": "MIG-41b0f2c5"}, "belong to the whole GPU"),
        ({"sm_clocks": [1001]}, "1001 MHz, which GPU 0 .* does not list: nearest are"),
        ({"memory_clocks": [1]}, "does not list"),
        ({"sm_clocks": [1200, 210]}, "the lowest and the highest"),
        ({"sm_clocks": [210, 1200, 1395]}, "the lowest and the highest"),
        ({"compute_mode": "shared"}, "must be one of default"),
    ],
)
def test_bad_input_is_refused_before_anything_is_set(host: t.Any, entry: dict[str, t.Any], message: str) -> None:
    machine = host("rtx4090")
    with pytest.raises(InputError, match=message):
        machine.apply(entry, {"persistence": True})
    assert machine.board.calls() == []


def test_every_mistake_is_named_at_once(host: t.Any) -> None:
    with pytest.raises(InputError) as caught:
        host("rtx4090").apply({"power_limit": "900"}, {"gpu": "5"})
    assert "900" in str(caught.value) and "'5'" in str(caught.value)


def test_only_root_may_set(host: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = host("rtx4090")
    monkeypatch.setenv("NVML_DOUBLE_EUID", "1000")
    assert machine.apply({"power_limit": "300"}, check=True).changed
    with pytest.raises(LLMError, match="only root may set power_limit"):
        machine.apply({"power_limit": "300"})
    assert limits() == [450]


def test_without_a_driver(host: t.Any) -> None:
    with pytest.raises(NvmlUnavailable, match="not loaded"):
        host(None).apply({"power_limit": "300"})


@pytest.mark.parametrize("name", ["rtx4090", "rtx3090-pair", "rtx3090-rtx3060", "a2000-pair-display", "laptop", "h100x8"])
def test_the_worked_profile_fits_every_board(host: t.Any, name: str) -> None:
    profile = yaml.safe_load((Path(__file__).parents[4] / "inventories/fleet/group_vars/decode_power.yml").read_text())
    machine = host(name)
    machine.apply(PERSISTENT, *profile["gpu_settings_gpus"])
    assert not machine.apply(PERSISTENT, *profile["gpu_settings_gpus"]).changed
