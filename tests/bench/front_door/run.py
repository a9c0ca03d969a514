# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the front door adds and what it holds: direct, through Nginx alone, through Nginx and LiteLLM, in one run on one machine, before a stand-in for an
engine whose events say when they were sent.

    tests/bench/front_door/run.py hops        time to first token and delay of an event, with 1, 20 and 64 streams
    tests/bench/front_door/run.py crowd       1,000 streams held for a minute, alone and beside slow readers, wrong keys and half-open connections
    tests/bench/front_door/run.py silence     a first token after 300 seconds
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DIRECT, ALONE, BOTH = "direct", "Nginx alone", "Nginx + LiteLLM"
MACHINE = "baremetal-llm-bench-front-door"


def ansible(*arguments: str, inventory: Path) -> None:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOST_PATTERN_MISMATCH": "ignore"}
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-2000:])


def place(name: str) -> Path:
    return Path(os.environ.get("LLM_CACHE", "/var/cache/baremetal-llm"), "bench", name)


def make(name: str, workers: int, database: bool) -> Path:
    """The machine, made or brought up to date; returns its secrets."""
    place(name).mkdir(parents=True, exist_ok=True)
    inventory = place(name) / "hosts.yml"
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_python_interpreter": "/usr/bin/python3",
        "llm_download_cache": "/var/cache/llm/uv",
        "litellm_mirror": "/srv/llm/mirror" if database else "",
    }
    inventory.write_text(json.dumps({"gateways": {"hosts": {name: host}}}))
    machines = json.dumps({"machines": [{"name": name, "suite": "bookworm"}]})
    ansible(str(ROOT / "tests/machine/create.yml"), "-e", machines, inventory=inventory)
    ansible(str(HERE / "site.yml"), "-e", json.dumps({"bench_workers": workers, "bench_database": database}), inventory=inventory)
    return place(name) / ".secrets"


def ways(secrets: Path) -> dict[str, dict[str, t.Any]]:
    common = {"address": "127.0.0.1", "model": "double", "key": (secrets / "keys/bench").read_text().strip(), "name": "front-door"}
    return {
        DIRECT: {**common, "port": 9000},
        ALONE: {**common, "port": 444, "ca": True},
        BOTH: {**common, "port": 443, "ca": True},
    }


def measure(machine: str, secrets: Path, **given: t.Any) -> list[dict[str, t.Any]]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in (*(ROOT / "tests/load").glob("*.py"), HERE / "inside.py"):
            archive.add(path, path.relative_to(ROOT))
    subprocess.run(["docker", "exec", "-i", machine, "sh", "-c", "mkdir -p /root/bench && tar -x -C /root/bench"], input=packed.getvalue(), check=True)
    given = {"ways": ways(secrets), "ca": (secrets / "tls/ca.crt").read_text(), **given}
    done = subprocess.run(
        ["docker", "exec", "-i", "-w", "/root/bench", machine, "python3", "-m", "tests.bench.front_door.inside"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return t.cast("list[dict[str, t.Any]]", json.loads(done.stdout)["rows"])


def table(titles: t.Sequence[str], lines: t.Iterable[t.Sequence[t.Any]]) -> str:
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)


def hops_table(rows: t.Sequence[dict[str, t.Any]]) -> str:
    keys = ("first, median", "first, p95", "event, median", "event, p95")
    base = {row["at once"]: row for row in rows if row["way"] == DIRECT}

    def cell(row: dict[str, t.Any], key: str) -> str:
        added = row[key] - base[row["at once"]][key]
        return f"{row[key] * 1000:.1f} ms" + ("" if row["way"] == DIRECT else f" ({added * 1000:+.1f}, x {row[key] / base[row['at once']][key]:.1f})")

    lines = [[row["at once"], row["way"], *(cell(row, key) for key in keys), f"{row['whole']} of {row['streams']}"] for row in rows]
    return table(["streams", "way", *keys, "whole"], lines)


def crowd_table(rows: t.Sequence[dict[str, t.Any]]) -> str:
    titles = [f"{row['way']}{', with company' if row['abuse'] else ''}" for row in rows]
    keys = [key for key in max(rows, key=len) if key not in ("way", "abuse")]

    def cell(value: t.Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "/")

    return table(["", *titles], [[key, *(cell(row.get(key, "")) for row in rows)] for key in keys])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the front door.")
    parser.add_argument("what", choices=["hops", "crowd", "silence"])
    parser.add_argument("--machine", default=MACHINE)
    parser.add_argument("--workers", type=int, default=1, help="LiteLLM's processes")
    parser.add_argument("--database", action="store_true", help="LiteLLM with one, so that it looks at keys and writes down what is spent")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0, help="60 for crowd, 300 for silence")
    parser.add_argument("--pause", type=float, default=5, help="seconds between two events of a stream, for crowd")
    parser.add_argument("--ramp", type=float, default=60, help="seconds in which they are opened, for crowd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="ways of crowd: 'Nginx alone', 'Nginx + LiteLLM'")
    parser.add_argument("--as-is", action="store_true", help="take the machine as an earlier run has left it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    secrets = place(given.machine) / ".secrets" if given.as_is else make(given.machine, given.workers, given.database)
    if given.what == "hops":
        rows = measure(given.machine, secrets, what="hops", streams=[1, 20, 64], rounds=given.rounds)
    elif given.what == "crowd":
        crowd = {"streams": given.streams, "seconds": given.seconds or 60, "pause": given.pause, "ramp": given.ramp}
        chosen = given.only or [ALONE, BOTH]
        rows = measure(given.machine, secrets, what="crowd", crowd=crowd, runs=[(way, abuse) for way in chosen for abuse in (False, True)])
    else:
        rows = measure(given.machine, secrets, what="silence", seconds=given.seconds or 300)
    print(json.dumps(rows, indent=2) if given.json else hops_table(rows) if given.what == "hops" else crowd_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
