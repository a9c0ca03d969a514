"""What the tests of a scenario with one gateway of its own begin with; its conftest.py takes them from here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from ansible_collections.baremetal.llm.tests.front_door import FrontDoor
from ansible_collections.baremetal.llm.tests.gateway import Admin, shell


@pytest.fixture(scope="session")
def inventory() -> Path:
    return Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent


@pytest.fixture(scope="session")
def machine() -> str:
    """LLM_GATEWAY_MACHINE names another one."""
    if name := os.environ.get("LLM_GATEWAY_MACHINE"):
        return name
    (name,) = yaml.safe_load(Path(os.environ["MOLECULE_INVENTORY_FILE"]).read_text())["gateways"]["hosts"]
    return str(name)


@pytest.fixture(scope="session")
def secrets(inventory: Path) -> Path:
    return Path(os.environ.get("LLM_SECRETS_DIR") or inventory / ".secrets")


@pytest.fixture(scope="session")
def front_door(machine: str, secrets: Path) -> FrontDoor:
    return FrontDoor(machine, shell(machine, "hostname -I").split()[0], secrets)


@pytest.fixture(scope="session")
def admin(machine: str, secrets: Path) -> Admin:
    return Admin(machine, (secrets / "litellm_master_key").read_text().strip())
