# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long it takes from the edit of the inventory to the first token of a new server, and who is changed by it.

    tests/bench/fleet/growth.py

A gateway and a server are there and serve. Then a fresh machine is written into the inventory with the same model, and site.yml runs. Meanwhile a client
asks through the front door without a pause, until the new server has answered. The baseline is a run of site.yml before the edit, which changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import typing as t
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / ".collections")]

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, Question, stream  # noqa: E402
from ansible_collections.baremetal.llm.tests.bench.fleet.machines import Fleet, Run, fleet, say  # noqa: E402

MODEL = "tiny"
CLIENTS = 2  # at a time, so that the balance has a reason to use the second server
PAUSE = 0.2


class Grown(t.NamedTuple):
    before: Run  # nothing to do
    edit: Run
    first_token: float  # seconds after the edit
    answers: int
    failures: list[str]


class Watch:
    """Clients that ask all the time. ``first_token`` is when the new server's first token came."""

    def __init__(self, endpoint: Endpoint, host: str) -> None:
        self.endpoint, self.host = endpoint, host
        self.first_token: float | None = None
        self.answers = 0
        self.failures: list[str] = []
        self.over = threading.Event()
        self.clients = [threading.Thread(target=self._ask) for _number in range(CLIENTS)]

    def __enter__(self) -> Watch:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.over.set()
        for client in self.clients:
            client.join()

    def _ask(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                answer = stream(self.endpoint, Question(MODEL, "Count from one to twenty in words.", 32))
            except LLMError as exc:
                self.failures.append(str(exc))
            else:
                self.answers += 1
                if self.first_token is None and f"@{self.host}:" in (answer.served_by or ""):
                    self.first_token = began + (answer.pace.first_token or 0.0)
            self.over.wait(PAUSE)


def measure(made: Fleet) -> Grown:
    gateway, old, new = made.names
    say("making gateway and server what the inventory says")
    inventory = made.inventory(gateway, {old: [MODEL]})
    made.site(inventory)
    say("a run with nothing to do")
    before = made.site(inventory)
    say(f"adding {new}")
    with Watch(made.front_door(gateway), new) as watch:
        edited = time.monotonic()
        made.inventory(gateway, {old: [MODEL], new: [MODEL]})
        edit = made.site(inventory)
        until = time.monotonic() + 60
        while watch.first_token is None and time.monotonic() < until:
            time.sleep(PAUSE)
    if watch.first_token is None:
        raise SystemExit(f"{new} has answered nobody: {watch.answers} answers, {len(watch.failures)} failures, {watch.failures[:3]}")
    return Grown(before, edit, watch.first_token - edited, watch.answers, watch.failures)


def report(grown: Grown, names: t.Sequence[str]) -> str:
    lines = [f"{'':<22}{'seconds':>9}{'tasks':>7}{'changed':>9}"]
    for name, run in (("nothing to do", grown.before), ("a new server", grown.edit)):
        lines.append(f"{name:<22}{run.seconds:>9.1f}{run.tasks:>7}{sum(run.changed.values()):>9}")
    changed = ", ".join(f"{role} {grown.edit.changed.get(name, 0)}" for role, name in zip(("gateway", "old server", "new server"), names))
    lines += [
        f"First token of the new server {grown.first_token:.1f} s after the edit: {grown.first_token / grown.before.seconds:.2f} times the run before.",
        f"Changed tasks: {changed}.",
        f"Meanwhile {grown.answers} requests were answered and {len(grown.failures)} failed{': ' + grown.failures[0] if grown.failures else ''}.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the way from the edit of the inventory to the new server's first token.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the machines")
    given = parser.parse_args()
    with fleet(3, given.keep) as made:
        grown = measure(made)
    print(json.dumps(grown._asdict()) if given.json else report(grown, made.names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
