"""Steady load on the front door while something breaks, and the table of what its clients saw."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tests.load.fault_table import Row, page, row
from tests.load.steady_load import Load, Request, Shape, Target

GATEWAY, ONE, TWO = (f"baremetal-llm-test-faults-{name}" for name in ("gateway", "one", "two"))
ADDRESS = {GATEWAY: "10.85.24.10", ONE: "10.85.24.21", TWO: "10.85.24.22"}
SHORT = Shape(rate=1.5, tokens=10)
LONG = Shape(rate=1, clients=4, tokens=1500)
READY = 60  # seconds for streams to flow, or to flow again


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


def shell(machine: str, command: str) -> str:
    return docker("exec", machine, "bash", "-c", command)


def listening(machine: str, port: int) -> None:
    """Return once the machine accepts connections there."""
    shell(machine, f"for attempt in {{1..600}}; do (echo >/dev/tcp/{ADDRESS[machine]}/{port}) 2>/dev/null && exit; sleep 0.1; done; exit 1")


class Faults:
    """Short answers and long ones, all the time, while a fault comes and goes."""

    def __init__(self, secrets: Path) -> None:
        key = (secrets / "keys/load").read_text().strip()
        self.target = Target(ADDRESS[GATEWAY], 443, "chat", key, GATEWAY, str(secrets / "tls/ca.crt"))
        self.rows: list[Row] = []

    @contextlib.contextmanager
    def load(self) -> t.Iterator[tuple[Load, Load]]:
        begun = time.monotonic()
        with Load(self.target, LONG, begun) as long, Load(self.target, SHORT, begun) as short:
            yield long, short

    def see(self, fault: str, inject: t.Callable[[], object], restore: t.Callable[[], object], hold: float, server: str = "") -> Row:
        """``inject`` the fault while long answers flow (from ``server``), ``restore`` after ``hold`` seconds, and wait until it answers again."""
        ending = f"{server}:8081" if server else ""
        with self.load() as (long, short):
            wait_until(lambda: len([one for one in long.requests if one.server.endswith(ending) and one.tokens > 5 and one.end is None]) > 1)
            began = long.now()
            inject()
            time.sleep(hold)
            restore()
            back = long.now()
            wait_until(lambda: any(answered(one, back, ending) for one in [*long.requests, *short.requests]))
        found = row(fault, [*long.requests, *short.requests], began, back, ending)
        self.rows.append(found)
        return found


def answered(one: Request, since: float, server: str) -> bool:
    return one.start >= since and one.first is not None and one.server.endswith(server)


def wait_until(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture(scope="session")
def inventory() -> Path:
    return Path(os.environ["MOLECULE_INVENTORY_FILE"])


@pytest.fixture(scope="session")
def faults(inventory: Path) -> t.Iterator[Faults]:
    """The table is written beside the inventory; with LLM_WRITE_DOCS to docs/faults.md too."""
    faults = Faults(inventory.parent / ".secrets")
    yield faults
    written = inventory.parent / "faults.md"
    written.write_text(page(faults.rows, f"{os.cpu_count()} cores ({platform.machine()})"))
    print(f"\n{written.read_text()}\nThis table is in {written}.")
    if os.environ.get("LLM_WRITE_DOCS"):
        shutil.copy(written, ROOT / "docs/faults.md")
