# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The cases that the unit tests keep, with what llama.cpp said to each."""

from __future__ import annotations

import json
import random
import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.tests.bench.vram.asking import Answer, Place
from ansible_collections.baremetal.llm.tests.bench.vram.cases import SEED, Case

FIXTURES = Path(__file__).resolve().parents[2] / "unit/fixtures/vram"
FILE = "oracle-llama-{}.json"
PER_MODEL = 2
Kept = list[tuple[Case, Answer]]


def choose(cases: t.Sequence[Case]) -> list[Case]:
    """Some of every model and some of every layout."""
    drawn = random.Random(SEED)
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.model, []).append(case)
        groups.setdefault(case.layout, []).append(case)
    chosen = [case for group in groups.values() for case in drawn.sample(group, PER_MODEL)]
    return [case for number, case in enumerate(chosen) if case not in chosen[:number]]


def write(version: str, kept: Kept) -> None:
    """One case a line, so that a change of the cases reads well."""
    lines = [
        json.dumps({"model": case.model, "layout": case.layout, "settings": case.settings, "devices": answer.devices, "host": answer.host})
        for case, answer in kept
    ]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    FIXTURES.mkdir(exist_ok=True)
    (FIXTURES / FILE.format(version)).write_text(text, encoding="utf-8")


def read(version: str) -> Kept:
    data = json.loads((FIXTURES / FILE.format(version)).read_text(encoding="utf-8"))
    return [
        (
            Case(one["model"], one["layout"], len(one["devices"]), one["settings"]),
            Answer(tuple(Place(*place) for place in one["devices"]), Place(*one["host"])),
        )
        for one in data
    ]
