# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gateway costs: time to first token and gap between tokens, direct to the engine, through LiteLLM, and through
Nginx and LiteLLM, interleaved in one run on the machine itself.

    tests/bench/gateway_overhead.py                     (the demo's machine)
    tests/bench/gateway_overhead.py --reach 'ssh root@gpu01' --secrets inventories/single/.secrets --client laptop --model chat
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
UTILS = Path("plugins/module_utils")
DIRECT, LITELLM, NGINX = "direct", "LiteLLM", "Nginx + LiteLLM"

# Everything comes on standard input, the keys too: nothing of it is seen in a list of processes.
BOOT = """
import json, pathlib, sys, tempfile
given = json.load(sys.stdin)
with tempfile.TemporaryDirectory() as top:
    for name, text in given.pop("files").items():
        path = pathlib.Path(top, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys.path.insert(0, top)
    import overhead
    overhead.main(given)
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what the gateway adds to the engine's times.")
    parser.add_argument("--reach", default="docker exec -i baremetal-llm-demo", help="command that runs another there")
    parser.add_argument("--secrets", type=Path, default=ROOT / "inventories/demo/.secrets")
    parser.add_argument("--client", default="demo", help="the client of llm_keys whose key is used")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--server-name", default="localhost", help="a name in the front door's certificate")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--engine-port", type=int, default=8081)
    parser.add_argument("--litellm-port", type=int, default=4000)
    parser.add_argument("--nginx-port", type=int, default=443)
    parser.add_argument("--json", action="store_true", help="print every answer's figures as JSON instead of the table")
    return parser.parse_args()


def ways(given: argparse.Namespace) -> dict[str, dict[str, t.Any]]:
    def secret(name: str) -> str:
        return Path(given.secrets, name).read_text().strip()

    return {
        DIRECT: {"url": f"http://127.0.0.1:{given.engine_port}", "api_key": secret("engine_key")},
        LITELLM: {"url": f"http://127.0.0.1:{given.litellm_port}", "api_key": secret("litellm_master_key")},
        NGINX: {
            "url": f"https://127.0.0.1:{given.nginx_port}",
            "api_key": secret(f"keys/{given.client}"),
            "ca_pem": secret("tls/ca.crt"),
            "server_name": given.server_name,
        },
    }


def run_there(given: argparse.Namespace) -> list[dict[str, t.Any]]:
    package = Path("ansible_collections/baremetal/llm") / UTILS
    files = {str(package / name): (ROOT / UTILS / name).read_text() for name in ("_errors.py", "_pace.py", "_stream.py")}
    files["overhead.py"] = Path(__file__).with_name("overhead.py").read_text()
    question = {
        "model": given.model,
        "prompt": "Count from one to one hundred in words.",
        "max_tokens": given.max_tokens,
    }
    sent = {"files": files, "ways": ways(given), "question": question, "rounds": given.rounds}
    command = [*shlex.split(given.reach), "python3", "-c", BOOT]
    if command[0] == "ssh":  # it gives its arguments to a shell
        command = [*shlex.split(given.reach), shlex.join(["python3", "-c", BOOT])]
    done = subprocess.run(command, input=json.dumps(sent), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The measurement failed over there:\n{done.stderr.strip()}")
    return t.cast("list[dict[str, t.Any]]", json.loads(done.stdout))


def report(rows: list[dict[str, t.Any]]) -> str:
    figures = {"first token": "first_token", "gap, median": "gap_median", "gap, p95": "gap_p95", "whole answer": "total"}
    lines = [f"{'':<16}" + "".join(f"{title:>16}{'':>9}" for title in figures)]
    for name in (DIRECT, LITELLM, NGINX):
        line = f"{name:<16}"
        for figure in figures.values():
            value, base = (_median(rows, way, figure) for way in (name, DIRECT))
            line += f"{value * 1000:>13.2f} ms{'x ' + format(value / base, '.2f'):>9}"
        lines.append(line)
    rounds = max(row["round"] for row in rows) + 1
    lines.append(f"Medians of {rounds} answers each, interleaved, {rows[0]['events']} events in the first; x = against direct.")
    return "\n".join(lines)


def _median(rows: list[dict[str, t.Any]], way: str, figure: str) -> float:
    return statistics.median(row[figure] for row in rows if row["way"] == way and row[figure] is not None)


def main() -> int:
    given = arguments()
    rows = run_there(given)
    print(json.dumps(rows, indent=2) if given.json else report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
