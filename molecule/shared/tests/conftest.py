"""The front door of the machine under test."""

from __future__ import annotations

import os
import sys
import time
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor, Reply

__all__ = ["FrontDoor", "Reply"]  # for the tests beside this file


@pytest.fixture(scope="module")
def front_door(host: t.Any) -> FrontDoor:
    """By default Molecule's machine; LLM_FRONT_DOOR_NAME and LLM_SECRETS_DIR name another one."""
    name = os.environ.get("LLM_FRONT_DOOR_NAME") or host.ansible.get_variables()["inventory_hostname"]
    inventory = Path(os.environ.get("MOLECULE_INVENTORY_FILE", "inventory"))
    secrets = Path(os.environ.get("LLM_SECRETS_DIR") or inventory.parent / ".secrets")
    return FrontDoor(name, host.check_output("hostname -I").split()[0], secrets)


@pytest.fixture
def fresh_limits(host: t.Any, front_door: FrontDoor) -> t.Iterator[None]:
    """Nobody has used up anything, neither before the test nor after it."""
    restart(host, front_door)
    yield
    restart(host, front_door)


def restart(host: t.Any, front_door: FrontDoor) -> None:
    host.check_output("systemctl restart llm-nginx")
    for _attempt in range(50):
        try:
            front_door.ask("GET", "/health")
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("llm-nginx does not answer after its restart")
