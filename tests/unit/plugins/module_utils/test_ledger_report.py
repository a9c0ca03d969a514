# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import copy
import json
import re
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.filter.vram_report import FilterModule
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_report import (
    clean,
    group_title,
    groups,
    keys,
    ledger_summary,
    ledger_table,
    refused,
    settings,
    shortened,
    terms,
)

GIB = 2**30
MIB = 2**20
PLANS: dict[str, t.Any] = json.loads((Path(__file__).parents[2] / "fixtures/vram/plans.json").read_text())
HOSTS = [name for name in PLANS if name != "fleet"]


def account(*entries: dict[str, t.Any], total: int = 100 * GIB, **more: t.Any) -> dict[str, t.Any]:
    used = sum(entry["bytes"] for entry in entries if entry.get("resident", True))
    found = {"place": "gpu0", "title": "GPU 0", "name": "board", "total": total, "free": total - used, "unit": "VRAM", "entries": list(entries)}
    return {**found, **more}


def entry(name: str, size: int, kind: str = "model", **more: t.Any) -> dict[str, t.Any]:
    return {"name": name, "kind": kind, "bytes": size, **more}


def plan(*accounts: dict[str, t.Any], **more: t.Any) -> dict[str, t.Any]:
    found = {"host": "gpu01", "source": "nvml", "fits": True, "accounts": list(accounts), "deployments": [], "refusals": [], "warnings": []}
    return {**found, **more}


def bars(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if re.match(r"  [█▓▒░·]", line) and not line.startswith("  · ")]


@pytest.mark.parametrize("name", HOSTS)
def test_the_examples_add_up(name: str) -> None:
    for found in PLANS[name]["accounts"]:
        assert found["free"] == found["total"] - sum(one["bytes"] for one in found["entries"] if one.get("resident", True))
        assert all(sum(one["terms"].values()) == one["bytes"] for one in found["entries"] if one["kind"] == "model")


@pytest.mark.parametrize("width", [40, 72, 80, 100, 160])
@pytest.mark.parametrize("name", HOSTS)
def test_no_line_is_wider_than_asked_and_none_ends_in_spaces(name: str, width: int) -> None:
    lines = ledger_table(PLANS[name], width)
    assert max(len(line) for line in lines) <= width
    assert [line for line in lines if line != line.rstrip()] == []
    assert not lines[0].startswith(" ")  # Ansible's YAML would need an indentation mark


def test_too_narrow_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="width is 39: a ledger needs at least 40"):
        FilterModule().filters()["vram_report"](PLANS["single"], 39)
    assert FilterModule().filters()["vram_report"](PLANS["single"], "40") == ledger_table(PLANS["single"], 40)


def test_first_line_says_whether_it_fits_and_the_least_that_is_left() -> None:
    assert ledger_table(PLANS["single"])[:2] == ["gpu01 FITS: 1.9 GiB left on GPU 0, 40.5 GiB left in RAM", "as NVML sees the machine"]
    assert ledger_table(PLANS["eight"])[0] == "dgx01 FITS: at least 17.7 GiB left on each GPU, 1973.5 GiB left in RAM"
    assert ledger_table(PLANS["cpu"])[:2] == ["cpu01 FITS: 1.4 GiB left in RAM", "no GPU: everything runs in main memory"]
    assert ledger_table(PLANS["refused"])[0] == "gpu03 DOES NOT FIT: GPU 0 is 9,742 MiB short"
    assert ledger_table(plan(fits=False))[0] == "gpu01 DOES NOT FIT: see below what is wrong"
    assert ledger_table(plan())[0] == "gpu01 FITS: nothing to place"


def test_shortfall_of_a_byte_is_a_mebibyte() -> None:
    lines = ledger_table(plan(account(entry("chat", 10 * GIB + 1), total=10 * GIB), fits=False))
    assert lines[0] == "gpu01 DOES NOT FIT: GPU 0 is 1 MiB short"
    assert bars(lines)[0].endswith("│!")


def test_an_account_reads_from_top_to_bottom() -> None:
    chat = entry("chat", 40 * GIB, terms={"weights": 30 * GIB, "cache": 9 * GIB, "compute": GIB, "state": 0})
    away = entry("embed", 2 * GIB, resident=False)
    found = ledger_table(plan(account(chat, away, entry("ollama", 20 * GIB, "budget"), entry("margin", 512 * MIB, "margin"))), 72)
    assert found[3:] == [
        "GPU 0  board                                    100.0 GiB, 39.5 GiB free",
        "  ████████████ A █████████████▒▒▒▒▒ B ▒▒▒▒▒▒····························",
        "  A chat    40.0 GiB   40%  weights 30.0, KV 9.0, compute 1.0 GiB",
        "    (embed)  2.0 GiB    2%  only in place of another",
        "  B ollama  20.0 GiB   20%  set in the inventory",
        "  a margin   512 MiB    0%  for what no estimate knows",
        "  · free    39.5 GiB   40%",
    ]


def test_bar_is_in_proportion() -> None:
    (drawn,) = bars(ledger_table(plan(account(entry("one", 25 * GIB), entry("two", 25 * GIB))), 82))
    assert len(drawn) == 80
    assert [drawn[:20].replace(" A ", "███"), drawn[20:40].replace(" B ", "▓▓▓"), drawn[40:]] == ["█" * 20, "▓" * 20, "·" * 40]


def test_what_is_too_much_is_beyond_the_line() -> None:
    (drawn,) = bars(ledger_table(plan(account(entry("one", 150 * GIB), entry("two", 50 * GIB)), fits=False), 82))
    assert len(drawn) == 80
    assert drawn.index("│") == 40
    assert drawn[41:] == "!" * 39


def test_a_model_that_takes_turns_is_not_in_the_bar() -> None:
    (drawn,) = bars(ledger_table(plan(account(entry("embed", 90 * GIB, resident=False))), 82))
    assert drawn == "·" * 80


def test_letters_are_the_same_on_all_gpus_of_a_host() -> None:
    letters = keys(PLANS["two_gpus"])
    assert letters[("model", "chat")] == "A"
    assert letters[("budget", "ollama")] == "B"
    assert letters[("driver", "driver")] == "a"
    assert letters[("margin", "margin")] == "b"
    assert len(set(letters.values())) == len(letters)


def test_gpus_that_read_the_same_are_one_block() -> None:
    assert [group_title(group) for group in groups(PLANS["tensor_parallel"]["accounts"])] == ["GPU 0 to GPU 3, each", "RAM"]
    assert len(groups(PLANS["eight"]["accounts"])) == 9
    some = copy.deepcopy(PLANS["tensor_parallel"])
    some["accounts"][2]["entries"][0]["terms"]["weights"] += MIB
    assert [group_title(group) for group in groups(some["accounts"])] == ["GPU 0 to GPU 1, each", "GPU 2", "GPU 3", "RAM"]


def test_breakdown_drops_the_smallest_terms_first_and_still_adds_up() -> None:
    found = entry("chat", 10 * GIB, terms={"weights": 5 * GIB, "cache": 3 * GIB, "compute": 3 * GIB // 2, "overhead": GIB // 2, "draft": 0})
    assert terms(found, 100) == "weights 5.0, KV 3.0, compute 1.5, process 0.5 GiB"
    assert terms(found, 40) == "weights 5.0, KV 3.0, other 2.0 GiB"
    assert terms(found, 28) == "weights 5.0, other 5.0 GiB"
    assert terms(found, 10) == ""
    assert terms(entry("embed", 500 * MIB, terms={"weights": 480 * MIB, "cache": 20 * MIB}), 100) == "weights 480, KV 20 MiB"


def test_long_names_keep_both_ends() -> None:
    assert shortened("qwen3-coder-30b-q4", 18) == "qwen3-coder-30b-q4"
    assert shortened("qwen3-coder-30b-instruct-q4", 12) == "qwen3-…ct-q4"
    text = "\n".join(ledger_table(PLANS["long_names"], 72))
    assert "qwen3-code…-xl-long1" in text
    assert "qwen3-code…-xl-long2" in text


def test_decisions_have_their_reasons() -> None:
    lines = ledger_table(PLANS["two_gpus"], 72)
    decided = lines[lines.index("Decided") :]
    assert decided[1] == "  chat: gpu_memory_utilization 0.457, kv_cache_memory 4.7 GiB"
    assert "    - gpu_memory_utilization: 0.457, its whole share of GPU 0" in decided
    assert "    - vLLM's activation peak was fitted, not derived: its residual is" in decided
    assert not any("embed" in line for line in decided)  # nothing was decided for it


def test_warnings_and_refusals_come_last_with_what_would_help() -> None:
    lines = ledger_table(PLANS["refused"], 100)
    assert lines[lines.index("Does not fit") :] == [
        "Does not fit",
        "  ! gpu03, GPU 0: coder takes 25,944 MiB, chat 7,487 MiB, margin 512 MiB, driver 375 MiB; that is",
        "    9,742 MiB more than its 24,576 MiB.",
        "    Any one of these would do, the nearest first:",
        "    1. coder: kv_cache: q8_0 and llama_router_models_max: 1 (saves 10.2 GiB)",
        "    2. coder: gpu_layers: 28 of 49 (moves 9.7 GiB to main memory, slower)",
        "    3. chat: gpus: [] (runs on the CPU)",
    ]
    lines = ledger_table(PLANS["two_gpus"], 100)
    assert lines[lines.index("Warnings") + 1].startswith("  ! vision: context 16384 is more than the 8192 tokens")


def test_a_refusal_without_a_way_out_promises_none() -> None:
    refusal = {"place": "", "shortfall": 0, "message": "gpu01: tensor_parallel 3 does not divide 32 heads.", "changes": []}
    lines = ledger_table(plan(fits=False, refusals=[refusal]))
    assert lines[-2:] == ["Does not fit", "  ! gpu01: tensor_parallel 3 does not divide 32 heads."]


def test_numbers_keep_their_units() -> None:
    for width in range(40, 80):
        lines = ledger_table(PLANS["refused"], width)
        assert [line for line in lines if line.strip().startswith(("MiB", "GiB"))] == []


def test_names_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31m\nb\u202e\x00") == "a?[31m b??"
    lines = ledger_table(plan(account(entry("evil\x1b]0;x\x07\r\n", GIB), name="b\x1bc"), warnings=["x\x1b[2J"], host="h\nh"))
    assert all(line.isprintable() for line in lines)


def test_memory_of_zero_is_shown_not_divided_by() -> None:
    lines = ledger_table(plan(account(entry("driver", 0, "driver"), total=0)), 60)
    assert "  · free   0 MiB     -" in lines


def test_names_are_not_broken_at_their_hyphens() -> None:
    for width in range(40, 70):
        lines = ledger_table(plan(warnings=["chat: the model qwen3-coder-30b-a3b has no file in the store of this machine."]), width)
        assert "qwen3-coder-30b-a3b" in "\n".join(lines)


def test_settings_read_as_people_write_them() -> None:
    assert settings({"gpus": [0, 1], "kv_cache_k": "q8_0", "kv_cache_v": "q8_0", "kv_cache_memory": 4 * GIB, "context": 1048576}) == [
        ("gpus", "0, 1"),
        ("kv_cache", "q8_0"),
        ("kv_cache_memory", "4.0 GiB"),
        ("context", "1048576"),
    ]
    assert settings({"gpus": [], "kv_cache_k": "f16", "kv_cache_v": "q8_0"}) == [("gpus", "none"), ("kv_cache_k", "f16"), ("kv_cache_v", "q8_0")]


def test_a_small_model_counts_what_its_process_keeps() -> None:
    small = entry("embed", 600 * MIB, asleep=600 * MIB, terms={"weights": 61 * MIB, "compute": 25 * MIB})
    large = entry("chat", 10 * GIB, asleep=600 * MIB, terms={"weights": 10 * GIB})
    text = "\n".join(ledger_table(plan(account(small, large)), 80))
    assert "600 MiB    1%  what its process keeps asleep" in text
    assert "10.0 GiB   10%  weights 10.0 GiB" in text


def test_one_way_out_is_not_one_of_several() -> None:
    refusal = {"place": "gpu0", "shortfall": 1, "message": "too much", "changes": [{"model": "a", "set": {}, "message": "a: context: 4096"}]}
    lines = ledger_table(plan(fits=False, refusals=[refusal]))
    assert lines[-2:] == ["    This would do:", "    1. a: context: 4096"]


def test_a_summary_says_whether_it_fits_and_what_was_decided() -> None:
    lines = ledger_summary(PLANS["two_gpus"])
    assert lines[0].startswith("ws02: at least")
    assert any(line.startswith("  coder: context 32768") for line in lines)
    assert not any("GPU 0  NVIDIA" in line for line in lines)


def test_a_refusal_names_its_ways_out_in_order() -> None:
    assert refused(PLANS["single"]) == ""
    text = refused(PLANS["refused"]).splitlines()
    assert "9,742 MiB" in text[0]
    assert text[1] == "Any one of these would do, the nearest first:"
    assert text[2].startswith("  1. coder: kv_cache: q8_0")
