# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Seconds of `make demo` by stage: on a new machine, then again on the same one.

    tests/bench/demo_stages.py                  (engine, downloads and image as they are kept from earlier)
    tests/bench/demo_stages.py --fresh-cache    (with an empty cache: downloads and the engine's build count too)

It removes the demo's machine first. The machine's image stays; `docker rmi` it by hand to count its making.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REPORT = ROOT / ".cache/demo-stages.json"


def make(target: str, environment: dict[str, str]) -> None:
    subprocess.run(["make", "-C", str(ROOT), target], env=environment, stdout=sys.stderr, check=True)


def measured(environment: dict[str, str]) -> dict[str, t.Any]:
    make("demo", environment)
    return t.cast("dict[str, t.Any]", json.loads(REPORT.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure `make demo`, cold and warm.")
    parser.add_argument("--fresh-cache", action="store_true", help="begin with an empty cache of builds and downloads")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-cache-") as empty:
        environment = {**os.environ, **({"LLM_CACHE": empty} if given.fresh_cache else {})}
        make("demo-stop", environment)
        cold = measured(environment)
        warm = measured(environment)
        if given.fresh_cache:  # its machine has the directory mounted
            make("demo-stop", environment)
    if given.json:
        print(json.dumps({"cold": cold, "warm": warm}, indent=2))
        return 0
    print(f"{'':<12}{'cold':>9}{'warm':>9}")
    for stage in {**cold["stages"], **warm["stages"]}:
        print(f"{stage:<12}{cold['stages'].get(stage, 0):>9.1f}{warm['stages'].get(stage, 0):>9.1f}")
    print(f"{'total':<12}{cold['total']:>9.1f}{warm['total']:>9.1f}")
    print(f"The repeated run changed {warm['changed']} tasks.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
