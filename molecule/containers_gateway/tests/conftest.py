"""A gateway of its own, as molecule/gateway has it, with LiteLLM in a container."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor
from ansible_collections.baremetal.llm.tests.gateway import Admin, chat, play, shell, until
from ansible_collections.baremetal.llm.tests.gateway_fixtures import admin, front_door, identity, inventory, machine, public, secrets

# for the tests beside this file
__all__ = ["Admin", "FrontDoor", "admin", "chat", "front_door", "identity", "inventory", "machine", "play", "public", "secrets", "shell", "until"]
