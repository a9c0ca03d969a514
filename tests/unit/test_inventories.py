# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from ansible.vars.manager import VariableManager
from ansible_collections.baremetal.llm.plugins.module_utils._inventory import inventory_errors
from ansible_collections.baremetal.llm.plugins.module_utils._topology import endpoints, host_plan

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "demo": ["http://127.0.0.1:8081 demo"],
    "single": ["http://127.0.0.1:8081 chat"],
    "two_machines": ["http://127.0.0.1:8100 chat", "http://127.0.0.1:8081 coder"],
    "fleet": [
        "http://10.0.0.21:8100 chat",
        "http://10.0.0.22:8100 chat",
        "http://10.0.0.22:8081 small",
        "http://10.0.0.23:8081 coder",
    ],
}

init_plugin_loader()


def parsed(name: str) -> tuple[dict[str, t.Any], dict[str, list[str]]]:
    """The variables of all hosts, as a playbook sees them, and the groups."""
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(ROOT / "inventories" / name)])
    manager = VariableManager(loader=loader, inventory=inventory)
    hostvars = {}
    for host in inventory.get_hosts():
        variables = manager.get_vars(host=host)
        hostvars[host.name] = Templar(loader=loader, variables=variables).template(
            {key: variables[key] for key in variables if key.startswith("llm_") or key == "ansible_host"}
        )
    return hostvars, inventory.get_groups_dict()


@pytest.mark.parametrize("name", EXPECTED)
def test_it_makes_sense_and_yields_its_endpoints(name: str) -> None:
    hostvars, groups = parsed(name)
    gateway = groups["gateways"][0]
    catalogue = hostvars[gateway]["llm_models"]
    assert inventory_errors(catalogue, hostvars, groups) == []
    found = endpoints(catalogue, hostvars, groups, gateway)
    assert [f"{endpoint['url']} {endpoint['model']}" for endpoint in found] == EXPECTED[name]
    for host in groups["inference_servers"]:
        assert host_plan(catalogue, hostvars, groups, host)["engines"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_playbooks_take_it(name: str) -> None:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    command = [str(playbook), "--inventory", f"inventories/{name}", "--syntax-check", "playbooks/site.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "playbook: playbooks/site.yml" in done.stdout


def test_every_inventory_is_tested() -> None:
    assert sorted(path.name for path in (ROOT / "inventories").iterdir() if path.is_dir()) == sorted(EXPECTED)
