# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""vram_plan and vram_usage as Ansible calls them: model files of published shapes, GPUs by the stand-in for NVML."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.modules import vram_plan, vram_usage
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published

Call = Callable[..., dict[str, t.Any]]
GIB = 2**30


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    published.write(published.qwen3_8b(), root / "chat.gguf")
    published.write(published.qwen3_30b(), root / "coder.gguf")
    return root


def deployment(models: Path, name: str, **options: t.Any) -> dict[str, t.Any]:
    return {"model": name, "engine": "llama_router", "service": "llama-router", "source": f"file:{models}/{name}.gguf", "options": options}


def test_a_host_is_planned_as_nvml_finds_it(call: Call, board: t.Any, models: Path) -> None:
    board("rtx3090-pair")
    answer = call(vram_plan, host="box", deployments=[deployment(models, "chat", gpus=[0]), deployment(models, "coder", gpus=[1])])
    plan = answer["plan"]
    assert (answer["changed"], answer["known"], plan["source"], plan["fits"]) == (False, True, "nvml", True)
    assert [account["place"] for account in plan["accounts"]] == ["gpu0", "gpu1", "ram"]
    assert [found["gpus"] for found in plan["deployments"]] == [[0], [1]]
    assert all(account["free"] >= 0 for account in plan["accounts"])
    assert all(found["options"]["context"] >= 4096 for found in plan["deployments"])
    assert call(vram_plan, host="box", deployments=[deployment(models, "chat", gpus=[0]), deployment(models, "coder", gpus=[1])]) == answer


def test_what_does_not_fit_is_refused_with_the_shortfall_and_what_would_fit(call: Call, board: t.Any, models: Path) -> None:
    board("a2000-pair-display")
    wanted = deployment(models, "coder", gpus=[0], n_cpu_moe=0, context=16384)
    answer = call(vram_plan, host="box", deployments=[wanted])
    (refusal,) = answer["plan"]["refusals"]
    assert (answer["plan"]["fits"], refusal["place"]) == (False, "gpu0")
    assert refusal["shortfall"] == -answer["plan"]["accounts"][0]["free"] > 4 * GIB
    assert "box" in answer["refused"] and "1. coder" in answer["refused"]
    # each way out really is one
    for change in refusal["changes"]:
        assert call(vram_plan, host="box", deployments=[{**wanted, "options": {**wanted["options"], **change["set"]}}])["plan"]["fits"], change


def test_gpus_that_are_not_there_yet(call: Call, board: t.Any, models: Path) -> None:
    board("none")
    answer = call(vram_plan, host="box", gpus=[{"name": "RTX 4090"}], deployments=[deployment(models, "chat")])
    assert (answer["plan"]["source"], answer["plan"]["deployments"][0]["gpus"]) == ("llm_gpus", [0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gpus": [{"name": "RTX 4090"}]}, "llm_gpus of box lists 1 GPUs, but the host has 2"),
        ({"budgets": [{"name": "ollama"}]}, "budgets has .*: write a mapping such as"),
        ({"budgets": [{"name": "ollama", "gpu": 0, "memory": "lots"}]}, "memory of the budget ollama is 'lots'"),
        ({"reserved": {"5": "1GiB"}}, "reserved names GPU '5'; there is: 0, 1"),
        ({"margin": "1GB"}, "margin is '1GB': write a number with a unit"),
        ({"deployments": [{"model": "x", "engine": "llama_router", "source": "file:/nowhere/x.gguf"}]}, "llm_models.x: .*/nowhere/x.gguf"),
    ],
)
def test_bad_input(call: Call, board: t.Any, options: dict[str, t.Any], sentence: str) -> None:
    board("rtx3090-pair")
    answer = call(vram_plan, host="box", **options)
    assert answer["failed"]
    assert re.search(sentence, answer["msg"]), answer["msg"]


def test_budgets_and_reserves_are_taken_first(call: Call, board: t.Any, models: Path) -> None:
    board("rtx3090-pair")
    wanted = [deployment(models, "chat", gpus=[0])]
    plain = call(vram_plan, host="box", deployments=wanted)["plan"]
    tight = call(
        vram_plan, host="box", deployments=wanted, budgets=[{"name": "ollama", "gpu": 0, "memory": "6GiB"}], reserved={"0": "2GiB"}, margin="1GiB"
    )["plan"]
    taken = {entry["name"]: entry["bytes"] for entry in tight["accounts"][0]["entries"]}
    assert (taken["ollama"], taken["reserved"], taken["margin"]) == (6 * GIB, 2 * GIB, GIB)
    assert tight["fits"]
    assert tight["deployments"][0]["options"]["context"] * tight["deployments"][0]["options"]["parallel"] < (
        plain["deployments"][0]["options"]["context"] * plain["deployments"][0]["options"]["parallel"]
    )


def test_nothing_runs_so_nothing_drifts(call: Call, board: t.Any, models: Path) -> None:
    board("rtx3090-pair")
    # a service of its own name: a machine of the tests may run a router on this very kernel
    plan = call(vram_plan, host="box", deployments=[{**deployment(models, "chat"), "service": "nobody"}])["plan"]
    answer = call(vram_usage, plan=plan)
    assert (answer["changed"], answer["usages"], answer["drifts"]) == (False, [], [])
