# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import copy
import itertools
import json
import re
import typing as t
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.filter.vram_html import FilterModule
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_html import ledger_page
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_style import GREY, INKS, RED, STYLE

MIB = 2**20
PLANS: dict[str, t.Any] = json.loads((Path(__file__).parents[2] / "fixtures/vram/plans.json").read_text())
HOSTS = [name for name in PLANS if name != "fleet"]
FLEET = [PLANS[name] for name in PLANS["fleet"]]
EVIL = """<script>alert('1')</script>"&'><img src=x onerror=alert(1)>\x00\x1b]]>-->"""


def read(page: str) -> ET.Element:
    """The page is XML too; its elements without their namespace."""
    root = ET.fromstring(page)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def bars(root: ET.Element) -> list[ET.Element]:
    return [found for found in root.iter("svg") if found.get("class") == "bar"]


def rows(root: ET.Element) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in root.iter("tr")]


def segments(drawn: ET.Element) -> list[tuple[str, float, float]]:
    return [(text(found[0]), float(found.get("x", "")[:-1]), float(found.get("width", "")[:-1])) for found in drawn.findall("svg")]


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    light, dark = re.findall(r":root \{ (--page.*?)\}", STYLE, re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#\w{6})", found)) for found in (light, dark)]


@pytest.mark.parametrize("name", HOSTS)
def test_every_plan_is_a_well_formed_page(name: str) -> None:
    root = read(ledger_page([PLANS[name]]))
    idents = [found.get("id") for found in root.iter() if found.get("id")]
    assert len(idents) == len(set(idents))
    for found in root.iter():
        for reference in (found.get("aria-labelledby") or "").split():
            assert reference in idents
        if (found.get("fill") or "").startswith("url(#"):
            assert found.get("fill", "")[5:-1] in idents
        if found.tag == "a" and found.get("href"):
            assert found.get("href", "")[1:] in idents


def test_page_loads_nothing_and_runs_nothing() -> None:
    page = ledger_page(FLEET)
    root = read(page)
    assert {found.tag for found in root.iter()}.isdisjoint({"script", "link", "img", "iframe", "image", "use", "object", "form"})
    assert [found.attrib for found in root.iter() if any(name.startswith("on") or name == "src" for name in found.attrib)] == []
    assert all(found.get("href", "#").startswith("#") for found in root.iter())
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert re.findall(r"https?://[^\"]*", page) == ["http://www.w3.org/1999/xhtml"]
    assert page == ledger_page(copy.deepcopy(FLEET))


def test_nothing_of_a_plan_becomes_markup() -> None:
    def poisoned(value: t.Any, key: str = "") -> t.Any:
        if isinstance(value, dict):
            return {name: poisoned(found, name) for name, found in value.items()}
        if isinstance(value, list):
            return [poisoned(found, key) for found in value]
        return EVIL if isinstance(value, str) and key not in ("kind", "unit", "place") else value

    hosts = [poisoned(PLANS[name]) for name in HOSTS]
    hosts[0]["accounts"][0]["place"] = EVIL
    hosts[0]["deployments"][0]["options"][EVIL] = EVIL
    page = ledger_page(hosts, EVIL)
    root = read(page)
    assert list(root.iter("script")) + list(root.iter("img")) == []
    assert not any(name.startswith("on") for found in root.iter() for name in found.attrib)
    assert "\x00" not in page
    assert "\x1b" not in page
    assert text(next(root.iter("h1"))).startswith("<script>alert('1')</script>")


def test_first_comes_what_does_not_fit_with_a_link_to_it() -> None:
    root = read(ledger_page(FLEET, "GPUs of the lab"))
    main = next(root.iter("main"))
    assert [text(found) for found in main[:2]] == ["GPUs of the lab", "✗ 1 of 3 hosts does not fit."]
    assert main[2].get("class") == "refused"
    link = next(main[2].iter("a"))
    assert text(link) == "gpu03, GPU 0"
    target = next(found for found in root.iter("h3") if any(anchor.get("id") == link.get("href", "")[1:] for anchor in found.iter("a")))
    assert "NVIDIA GeForce RTX 3090, 24.0 GiB 9.5 GiB short" in text(target)
    assert [text(found) for found in next(main[2].iter("ol"))] == [change["message"] for change in PLANS["refused"]["refusals"][0]["changes"]]
    assert "9,742 MiB short" in text(main[2])


def test_a_page_without_refusals_says_so() -> None:
    assert text(next(read(ledger_page([PLANS["single"]])).iter("main"))[1]) == "✓ Everything fits."
    assert text(next(read(ledger_page([PLANS["single"], PLANS["cpu"]])).iter("main"))[1]) == "✓ Everything fits on all 2 hosts."
    assert "There is no host to plan for." in ledger_page([])
    assert "What does not fit" not in ledger_page([PLANS["single"]])


def test_refusal_of_a_whole_host_links_to_the_host() -> None:
    found = copy.deepcopy(PLANS["single"])
    found |= {"fits": False, "refusals": [{"place": "", "shortfall": 0, "message": "no", "changes": []}]}
    root = read(ledger_page([found]))
    assert next(root.iter("a")).get("href") == "#h0"
    assert "MiB short" not in text(next(root.iter("ul")))


def test_bars_have_words_for_those_who_do_not_see_them() -> None:
    found = bars(read(ledger_page([PLANS["two_gpus"]])))
    assert [text(next(drawn.iter("title"))) for drawn in found] == [
        "GPU 0 of ws02: 48.0 GiB, 19.1 GiB free",
        "GPU 1 of ws02: 48.0 GiB, 26.4 GiB free",
        "RAM of ws02: 125.6 GiB, 94.3 GiB free",
    ]
    assert text(next(found[0].iter("desc"))) == "chat 22.0 GiB, driver 455 MiB, ollama 6.0 GiB, margin 512 MiB"
    assert "embed" not in text(found[1])  # it takes turns
    assert all(drawn.get("role") == "img" for drawn in found)


def test_segments_lie_side_by_side_and_in_proportion() -> None:
    (drawn, _ram) = bars(read(ledger_page([PLANS["single"]])))
    account = PLANS["single"]["accounts"][0]
    at = 0.0
    for entry, (title, start, width) in zip(account["entries"], segments(drawn), strict=True):
        assert title.startswith(entry["name"])
        assert start == pytest.approx(at, abs=0.01)
        assert width == pytest.approx(100 * entry["bytes"] / account["total"], abs=0.01)
        at = start + width


def test_too_much_is_drawn_to_scale_with_a_line_where_the_memory_ends() -> None:
    (drawn, _ram) = bars(read(ledger_page([PLANS["refused"]])))
    account = PLANS["refused"]["accounts"][0]
    limit = next(drawn.iter("line"))
    assert float(limit.get("x1", "")[:-1]) == pytest.approx(100 * account["total"] / (account["total"] - account["free"]), abs=0.01)
    _title, start, width = segments(drawn)[-1]
    assert start + width == pytest.approx(100, abs=0.01)
    assert "9.5 GiB more than 24.0 GiB" in text(drawn)
    assert not list(bars(read(ledger_page([PLANS["single"]])))[0].iter("line"))


def test_table_has_only_the_terms_that_there_are_in_mebibytes() -> None:
    found = rows(read(ledger_page([PLANS["two_gpus"]])))
    at = next(number for number, row in enumerate(found) if "Projector" in row)
    assert found[at] == ["Who", "MiB", "Share", "Weights", "KV cache", "Compute", "Projector", "Process", "Note"]
    assert found[at + 2] == ["Dvision", "7,803", "16%", "4,685", "1,024", "298", "1,340", "456", "of llama-router; keeps 600 MiB asleep"]
    assert found[at + 3][0] == "(embed)"
    assert found[at + 3][-1] == "only in place of another; of llama-router; keeps 600 MiB asleep"
    assert found[at + 8] == ["free", "27,058", "55%", "", "", "", "", "", ""]


def test_four_gpus_that_share_a_model_are_one_bar_with_four_anchors() -> None:
    root = read(ledger_page([PLANS["tensor_parallel"]]))
    assert len(bars(root)) == 2
    assert [found.get("id") for found in next(root.iter("h3")).iter("a")] == ["h0-gpu0", "h0-gpu1", "h0-gpu2", "h0-gpu3"]


def test_deployments_show_what_was_decided_and_what_the_engine_is_told() -> None:
    chat = next(read(ledger_page([PLANS["two_gpus"]])).iter("article"))
    assert "vLLM on GPU 0, vllm-chat" in text(chat)
    assert [text(found) for found in chat.iter("code")] == ["gpu_memory_utilization: 0.457", "kv_cache_memory: 4.7 GiB"]
    assert "vLLM's activation peak was fitted" in text(chat)
    assert text(next(chat.iter("dl"))).startswith("context32768")
    assert "llama.cpp on main memory" in ledger_page([PLANS["cpu"]])


def test_more_models_than_colors_differ_in_their_pattern() -> None:
    found = copy.deepcopy(PLANS["single"])
    entry = found["accounts"][0]["entries"][0]
    found["accounts"] = [{**found["accounts"][0], "entries": [{**entry, "name": f"m{number}", "bytes": 2**30} for number in range(20)]}]
    drawn = bars(read(ledger_page([found])))[0]
    looks = [tuple(rect.get("fill") for rect in segment.findall("rect")) for segment in drawn.findall("svg")]
    assert len(looks) == len(set(looks)) == 20


def test_colors_are_told_apart_from_what_they_lie_on() -> None:
    for ink in (*INKS, GREY, RED):
        assert contrast(ink, "#ffffff") >= 4.5  # the letters on them
        assert all(contrast(ink, theme["page"]) >= 3 for theme in themes())
    for theme in themes():
        for name in ("text", "quiet", "link", "good", "bad", "warn"):
            assert contrast(theme[name], theme["page"]) >= 4.5, name
            assert contrast(theme[name], theme["panel"]) >= 4.5, name
        assert contrast(theme["text"], theme["track"]) >= 4.5


def test_filter_gives_the_page() -> None:
    assert FilterModule().filters()["vram_html"](FLEET, "x") == ledger_page(FLEET, "x")


def test_marks_below_a_bar_have_room() -> None:
    found = copy.deepcopy(PLANS["refused"])
    account = found["accounts"][0]
    account["entries"][0]["bytes"] *= 10
    account["free"] = account["total"] - sum(entry["bytes"] for entry in account["entries"]) + 1
    root = read(ledger_page([found, *(PLANS[name] for name in HOSTS)]))
    for drawn in bars(root):
        places = [float(mark.get("x", "")[:-1]) for mark in drawn.findall("text") if mark.get("class") in ("start", "wide")]
        assert min((after - before for before, after in itertools.pairwise(places)), default=100) > 5
    short = next(row for row in rows(root) if row[0] == "short")
    assert short[1] == f"{-(account['free'] // MIB):,}"
