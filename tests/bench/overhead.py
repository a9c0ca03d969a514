# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The part of gateway_overhead.py that runs on the machine, with the standard library and the collection's own client."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, Question, stream


def compare(ways: dict[str, dict[str, t.Any]], question: dict[str, t.Any], rounds: int) -> list[dict[str, t.Any]]:
    """Ask over every way in every round, each time beginning with the next one; one row per answer."""
    endpoints = {name: Endpoint(**way) for name, way in ways.items()}
    asked = Question(**question)
    for endpoint in endpoints.values():
        stream(endpoint, asked)  # warm up: the model is loaded, connections to the engine are open
    rows = []
    names = list(endpoints)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rows.append({"way": name, "round": turn, **dataclasses.asdict(stream(endpoints[name], asked).pace)})
    return rows


def main(given: dict[str, t.Any]) -> None:
    print(json.dumps(compare(given["ways"], given["question"], given["rounds"])))
