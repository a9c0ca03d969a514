"""Two gateways and what they share, as clients and their administrator see it."""

from __future__ import annotations

import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor, Reply
from ansible_collections.baremetal.llm.tests.gateway import Admin, Steady, chat, play, shell, until
from ansible_collections.baremetal.llm.tests.gateway_fixtures import identity, inventory, public

from tests.load.steady_load import Load, Shape, Target

# for the tests beside this file
__all__ = ["Admin", "FrontDoor", "Load", "Reply", "Shape", "Steady", "Target", "chat", "identity", "inventory", "play", "public", "shell", "until"]

ONE, TWO, STORE = (f"baremetal-llm-test-pair-{name}" for name in ("one", "two", "store"))
ADDRESS = {ONE: "10.85.27.11", TWO: "10.85.27.12"}
SHARED = "10.85.27.100"


def ask_store(statement: str, database: str = "litellm") -> str:
    """What the database says, to the administrator who runs it for somebody else."""
    command = ["docker", "exec", "--interactive", STORE, "runuser", "--user", "postgres", "--", "psql", "--no-psqlrc", "--tuples-only", "--no-align"]
    done = subprocess.run([*command, f"--dbname={database}"], input=statement, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def shared(inventory: Path) -> FrontDoor:
    """Whichever has the address."""
    return FrontDoor("llm.pair.test", SHARED, inventory / ".secrets")


@pytest.fixture(scope="session")
def doors(inventory: Path) -> dict[str, FrontDoor]:
    return {machine: FrontDoor("llm.pair.test", address, inventory / ".secrets") for machine, address in ADDRESS.items()}


@pytest.fixture(scope="session")
def admins(inventory: Path) -> dict[str, Admin]:
    key = (inventory / ".secrets/litellm_master_key").read_text().strip()
    return {machine: Admin(machine, key) for machine in ADDRESS}


@pytest.fixture(scope="session")
def target(inventory: Path) -> t.Callable[[str], Target]:
    """For a load, by the address that it goes to."""
    secrets = inventory / ".secrets"
    key = (secrets / "keys/load").read_text().strip()
    return lambda address: Target(address, 443, "chat", key, "llm.pair.test", str(secrets / "tls/ca.crt"))
