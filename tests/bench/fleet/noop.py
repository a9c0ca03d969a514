# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a repeated site.yml costs in a growing fleet: seconds and executed tasks with 1, 2, 4 and 8 machines, and what one more machine adds.

    tests/bench/fleet/noop.py [--machines 1 2 4 8] [--rounds 2]

The first machine is gateway and inference server, the others are inference servers, each with one tiny model. Beside each run stand as many `ping`
tasks on the same hosts, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import sys
import typing as t
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / ".collections")]

from ansible_collections.baremetal.llm.tests.bench.fleet.machines import Fleet, Run, fleet, pings, say  # noqa: E402

MODEL = "tiny"


class Row(t.NamedTuple):
    machines: int
    site: Run
    base: Run


def measure(made: Fleet, machines: int, rounds: int) -> Row:
    """The quickest of a few rounds: whatever else the machine does only adds."""
    say(f"{machines} machines: making them what the inventory says")
    inventory = made.inventory(made.names[0], {name: [MODEL] for name in made.names[:machines]})
    made.site(inventory)
    pairs = []
    for number in range(1, rounds + 1):
        say(f"{machines} machines: round {number}")
        site = made.site(inventory)
        if any(site.changed.values()):
            raise SystemExit(f"A repeated run changed something: {site.changed}")
        pairs.append((site, pings(site.executed, inventory)))
    return Row(machines, min((site for site, _base in pairs), key=_seconds), min((base for _site, base in pairs), key=_seconds))


def slope(rows: t.Sequence[Row], value: t.Callable[[Row], float]) -> float:
    """What one more machine adds, the line of least squares through all rows."""
    mean = sum(row.machines for row in rows) / len(rows)
    spread = sum((row.machines - mean) ** 2 for row in rows)
    return sum((row.machines - mean) * value(row) for row in rows) / spread


def report(rows: t.Sequence[Row]) -> str:
    lines = [f"{'machines':<10}{'seconds':>9}{'tasks':>7}{'pings':>9}{'site/pings':>12}{'s/task':>8}"]
    for row in rows:
        ratio = row.site.seconds / row.base.seconds
        lines.append(
            f"{row.machines:<10}{row.site.seconds:>9.1f}{row.site.tasks:>7}{row.base.seconds:>7.1f} s{ratio:>12.2f}{row.site.seconds / row.site.tasks:>8.2f}"
        )
    if len(rows) > 1:
        site, base, tasks = (slope(rows, value) for value in (lambda row: row.site.seconds, lambda row: row.base.seconds, lambda row: row.site.tasks))
        lines.append(f"One more machine adds {site:.2f} s and {tasks:.1f} tasks; as many pings add {base:.2f} s: {site / base:.2f} times as much.")
    return "\n".join(lines)


def _seconds(run: Run) -> float:
    return run.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a repeated site.yml in a growing fleet.")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the machines")
    given = parser.parse_args()
    with fleet(max(given.machines), given.keep) as made:
        rows = [measure(made, machines, given.rounds) for machines in sorted(given.machines)]
    print(json.dumps([row._asdict() for row in rows]) if given.json else report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
