"""Nginx before an authority: what its clients see, and the role run again with something else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / ".collections"))

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor
from ansible_collections.baremetal.llm.tests.gateway import ROOT, shell, until

__all__ = ["DOOR", "FrontDoor", "Run", "converge", "shell", "until"]  # for the tests beside this file

DOOR = "baremetal-llm-test-acme-door"
AUTHORITY = "baremetal-llm-test-acme-authority"


class Run(t.NamedTuple):
    """A run of the role: how it ended, what it said, and whether it changed anything."""

    rc: int
    said: str

    @property
    def changed(self) -> int:
        found = re.search(rf"{DOOR} .*changed=(\d+)", self.said)
        assert found, self.said[-2000:]
        return int(found[1])


def converge(*arguments: str, **variables: t.Any) -> Run:
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", inventory, str(ROOT / "molecule/acme/converge.yml"), *arguments]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000", "ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
    done = subprocess.run([*command, "--extra-vars", json.dumps(variables)], env=environment, capture_output=True, text=True, check=False)
    return Run(done.returncode, " ".join((done.stdout + done.stderr).split()))


@pytest.fixture(scope="session")
def front_door(tmp_path_factory: pytest.TempPathFactory) -> FrontDoor:
    """Its clients trust the authority and nobody else."""
    place = tmp_path_factory.mktemp("trusted")
    (place / "tls").mkdir()
    (place / "tls/ca.crt").write_text(shell(AUTHORITY, "cat /opt/acme/ca.crt"))
    (place / "keys").mkdir()
    (place / "keys/laptop").write_text("sk-" + "a" * 64)
    return FrontDoor("llm.acme.test", shell(DOOR, "hostname -I").split()[0], place)
