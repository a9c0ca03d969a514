"""A gateway with its database: its front door as clients see it, LiteLLM's own interface as its administrator does, and the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor, Reply
from ansible_collections.baremetal.llm.tests.gateway import ROOT, Admin, Run, chat, play, shell, until
from ansible_collections.baremetal.llm.tests.gateway_fixtures import admin, front_door, identity, inventory, machine, public, secrets

from backups import backup, blank, restoring  # type: ignore[import-not-found]  # isort: skip

# for the tests beside this file
__all__ = [
    "ROOT",
    "Admin",
    "FrontDoor",
    "Reply",
    "Run",
    "admin",
    "backup",
    "blank",
    "chat",
    "front_door",
    "identity",
    "inventory",
    "machine",
    "play",
    "public",
    "restoring",
    "secrets",
    "shell",
    "until",
]


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
