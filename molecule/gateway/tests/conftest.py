"""A gateway with its database: its front door as clients see it, LiteLLM's own interface as its administrator does, and the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor, Reply
from ansible_collections.baremetal.llm.tests.gateway import ROOT, Admin, chat, play, shell, until

__all__ = ["ROOT", "Admin", "FrontDoor", "Reply", "chat", "play", "shell", "until"]  # for the tests beside this file

DOOR = "baremetal-llm-gateway-door"
BLANK = "baremetal-llm-gateway-blank"
ADDRESSES = {DOOR: "10.85.25.10", BLANK: "10.85.25.30"}


@pytest.fixture(scope="session")
def inventory() -> Path:
    return Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent


@pytest.fixture(scope="session")
def machine() -> str:
    return os.environ.get("LLM_GATEWAY_MACHINE", DOOR)


@pytest.fixture(scope="session")
def secrets(inventory: Path) -> Path:
    return Path(os.environ.get("LLM_SECRETS_DIR") or inventory / ".secrets")


@pytest.fixture(scope="session")
def front_door(machine: str, secrets: Path) -> FrontDoor:
    return FrontDoor(machine, shell(machine, "hostname -I").split()[0], secrets)


@pytest.fixture(scope="session")
def admin(machine: str, secrets: Path) -> Admin:
    return Admin(machine, (secrets / "litellm_master_key").read_text().strip())


@pytest.fixture(scope="module", autouse=True)
def every_limit_is_fresh(machine: str, front_door: FrontDoor) -> None:
    """What the tests of another file have used up is not held against those of this one."""
    shell(machine, "systemctl restart llm-nginx")
    until(lambda: _answers(front_door), 10, "Nginx answers")


def _answers(front_door: FrontDoor) -> bool:
    try:
        return front_door.ask("GET", "/health").status == 200
    except OSError:
        return False
