# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""gpu_info and gpu_settings as playbooks see them, over the stand-in's boards."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _gpu_apply
from ansible_collections.baremetal.llm.plugins.modules import gpu_info, gpu_settings

Call = t.Callable[..., dict[str, t.Any]]


@pytest.fixture(autouse=True)
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_gpu_apply, "RECORD", tmp_path / "run/gpu-settings.json")


def test_info_has_the_gpus_and_their_topology(call: Call, board: t.Any) -> None:
    board("h100x8")
    found = call(gpu_info)["gpu_info"]
    assert (found["available"], found["driver"], len(found["gpus"])) == (True, "580.95.05", 8)
    assert found["topology"]["tensor_parallel"] == [list(range(8))]
    assert found["gpus"][0]["memory"]["total"] > 79 * 2**30
    assert "pci" in found and "links" not in found


def test_info_without_a_driver_is_an_answer(call: Call, board: t.Any) -> None:
    board(None)
    answer = call(gpu_info)
    assert not answer["changed"]
    assert (answer["gpu_info"]["available"], answer["gpu_info"]["reason"]) == (False, "driver")


def test_settings_arrive_and_come_back(call: Call, board: t.Any) -> None:
    board("rtx4090")
    options = {"gpus": [{"persistence": True, "power_limit": 300, "sm_clocks": [0, 1500], "memory_clocks": [10501], "compute_mode": "prohibited"}]}
    assert call(gpu_settings, check=True, **options)["changed"]
    done = call(gpu_settings, **options)
    wanted = {"persistence": True, "compute_mode": "prohibited", "power_limit": 300, "sm_clocks": [210, 1500], "memory_clocks": [10501, 10501]}
    assert done["gpus"][0]["after"] == wanted
    assert not call(gpu_settings, **options)["changed"]
    back = call(gpu_settings, state="default")
    assert (back["changed"], back["gpus"][0]["after"]["power_limit"]) == (True, 450)


def test_settings_name_the_value_and_the_board(call: Call, board: t.Any) -> None:
    board("rtx4090")
    failed = call(gpu_settings, gpus=[{"gpu": "0", "power_limit": "900"}])
    assert failed["failed"]
    assert failed["msg"].startswith("gpus[0].power_limit is '900': GPU 0 (NVIDIA GeForce RTX 4090, GPU-")


def test_settings_say_what_a_board_does_not_take(call: Call, board: t.Any) -> None:
    board("laptop")
    answer = call(gpu_settings, gpus=[{"persistence": True, "power_limit": "60"}])
    assert any("GPU 0: power_limit: the board takes none" in str(warning) for warning in answer["warnings"])


@pytest.mark.parametrize("required", [True, False])
def test_settings_without_a_driver(call: Call, board: t.Any, required: bool) -> None:
    board(None)
    answer = call(gpu_settings, gpus=[{"power_limit": "300"}], require_driver=required)
    assert answer.get("failed", False) == required
    assert "not loaded" in (answer["msg"] if required else str(answer["warnings"]))
    assert "gpus" not in answer
