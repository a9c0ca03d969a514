# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a repeated site.yml costs: its seconds and executed tasks, against as many `ping` tasks in the same run.

    tests/bench/second_run.py                                   (the demo's machine)
    tests/bench/second_run.py -i inventories/mine [-- more options of ansible-playbook]

Executed tasks are what the recap counts as `ok`, changed ones and argument validations included. The pings say what
Ansible itself takes here for that many tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import typing as t
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SLOWEST = 8


class Run(t.NamedTuple):
    seconds: float
    executed: int
    changed: int
    skipped: int
    tasks: list[tuple[float, str]]


def play(playbook: Path, options: list[str]) -> Run:
    """One run of a playbook, with its result as JSON."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), *options, str(playbook)]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{playbook.name} failed ({done.returncode}):\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    result = json.loads(done.stdout[done.stdout.index("{") :])
    counts = result["stats"].values()
    tasks = [(_seconds(task["task"]), task["task"]["name"]) for play in result["plays"] for task in play["tasks"]]
    return Run(
        seconds,
        sum(count["ok"] for count in counts),
        sum(count["changed"] for count in counts),
        sum(count["skipped"] for count in counts),
        sorted(tasks, reverse=True),
    )


def _seconds(task: dict[str, t.Any]) -> float:
    start, end = (datetime.fromisoformat(task["duration"][side].rstrip("Z")) for side in ("start", "end"))
    return (end - start).total_seconds()


def pings(count: int, options: list[str]) -> Run:
    """As many of the cheapest tasks, on one host of the same inventory."""
    one = {"name": "Ping", "ansible.builtin.ping": None}
    content = [{"name": "Pings", "hosts": "gateways[0]", "gather_facts": False, "tasks": [one] * count}]
    with tempfile.TemporaryDirectory() as directory:
        playbook = Path(directory, "pings.yml")
        playbook.write_text(json.dumps(content))
        return play(playbook, options)


def demo_options() -> list[str]:
    """What `make demo` gives to its site.yml."""
    default = "/var/cache/baremetal-llm" if os.getuid() == 0 else str(Path.home() / ".cache/baremetal-llm")
    os.environ.setdefault("LLM_CACHE", default)
    spec = importlib.util.spec_from_file_location("demo_run", ROOT / "demo/run.py")
    assert spec and spec.loader
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    with contextlib.redirect_stdout(sys.stderr):
        return ["-i", str(demo.INVENTORY), "-e", json.dumps(demo.choose_model())]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a repeated site.yml.")
    parser.add_argument("-i", "--inventory", help="default: the demo's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("options", nargs="*", help="more options of ansible-playbook, after --")
    given = parser.parse_args()
    options = [*(["-i", given.inventory] if given.inventory else demo_options()), *given.options]
    site = play(ROOT / "playbooks/site.yml", options)
    base = pings(site.executed, options)
    if given.json:
        print(json.dumps({"site": site._asdict(), "pings": base._asdict()}, indent=2))
        return 0
    print(f"{'':<10}{'seconds':>9}{'executed':>10}{'changed':>9}{'skipped':>9}")
    for name, run in (("site.yml", site), ("pings", base)):
        print(f"{name:<10}{run.seconds:>9.1f}{run.executed:>10}{run.changed:>9}{run.skipped:>9}")
    print(f"site.yml takes {site.seconds / base.seconds:.2f} times what {base.executed} pings take. Its slowest tasks:")
    for seconds, name in site.tasks[:SLOWEST]:
        print(f"  {seconds:>6.2f} s  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
