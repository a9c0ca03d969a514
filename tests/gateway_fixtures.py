"""What the tests of scenarios with a gateway begin with; their conftest.py take it from here."""

from __future__ import annotations

import os
import shutil
import subprocess
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
    # not the first of `hostname -I`, which is Docker's bridge where there is one
    address = shell(machine, "ip -4 -oneline address show eth0").split()[3].partition("/")[0]
    return FrontDoor(machine, address, secrets)


@pytest.fixture(scope="session")
def admin(machine: str, secrets: Path) -> Admin:
    return Admin(machine, (secrets / "litellm_master_key").read_text().strip())


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private key of the user whom backups are encrypted to. It is never on a machine."""
    assert shutil.which("age-keygen"), "age is missing here: install the package age"
    key = tmp_path_factory.mktemp("age") / "backup.key"
    subprocess.run(["age-keygen", "--output", key], check=True, capture_output=True)
    return key


@pytest.fixture(scope="session")
def public(identity: Path) -> str:
    return subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True).stdout.strip()
