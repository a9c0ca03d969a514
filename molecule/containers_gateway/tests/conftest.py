"""A gateway of its own, as molecule/gateway has it, with LiteLLM in a container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor
from ansible_collections.baremetal.llm.tests.gateway import Admin, chat, play, shell, until

__all__ = ["Admin", "FrontDoor", "chat", "play", "shell", "until"]  # for the tests beside this file


@pytest.fixture(scope="session")
def machine() -> str:
    return os.environ.get("LLM_GATEWAY_MACHINE", "baremetal-llm-test-containers-gateway")


@pytest.fixture(scope="session")
def inventory() -> Path:
    return Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent


@pytest.fixture(scope="session")
def front_door(machine: str, inventory: Path) -> FrontDoor:
    # not the first of `hostname -I`, which is the engine's bridge
    address = shell(machine, "ip -4 -oneline address show eth0").split()[3].partition("/")[0]
    return FrontDoor(machine, address, inventory / ".secrets")


@pytest.fixture(scope="session")
def admin(machine: str, inventory: Path) -> Admin:
    return Admin(machine, (inventory / ".secrets/litellm_master_key").read_text().strip())
