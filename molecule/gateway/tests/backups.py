"""A backup with everything in it, and its way onto a machine that has never been a gateway, which goes on beside other tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.baremetal.llm.tests.front_door import FrontDoor
from ansible_collections.baremetal.llm.tests.gateway import ROOT, Admin, chat, until

BLANK = "baremetal-llm-gateway-blank"
ADDRESSES = {"baremetal-llm-gateway-door": "10.85.25.10", BLANK: "10.85.25.30"}
# Of every key, team and user what is told apart and what is counted.
ROWS = {
    "LiteLLM_VerificationToken": "token, key_alias, spend, max_budget, budget_duration, models, rpm_limit, tpm_limit, expires, metadata",
    "LiteLLM_TeamTable": "team_id, team_alias, spend, max_budget, models",
    "LiteLLM_UserTable": "user_id, spend, max_budget",
    "LiteLLM_SpendLogs": "request_id, api_key, spend, total_tokens",
}
SPENT = 12.345678


class Run(t.NamedTuple):
    rc: int
    said: str


ENVIRONMENT = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}


def command_of(inventory: Path, name: str, *arguments: str, **variables: t.Any) -> list[str]:
    return ["ansible-playbook", "--inventory", str(inventory), str(ROOT / "playbooks" / name), *arguments, "--extra-vars", json.dumps(variables)]


def playbook(inventory: Path, name: str, *arguments: str, **variables: t.Any) -> Run:
    command = command_of(inventory, name, *arguments, **variables)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return Run(done.returncode, done.stdout + done.stderr)


def rows(machine: str) -> dict[str, list[str]]:
    found = {}
    for table, columns in ROWS.items():
        asked = f'SELECT {columns} FROM "{table}" ORDER BY 1'
        command = ["docker", "exec", machine, "runuser", "--user", "postgres", "--", "psql", "--no-psqlrc", "--tuples-only", "--dbname=litellm"]
        found[table] = subprocess.run([*command, f"--command={asked}"], capture_output=True, text=True, check=True).stdout.splitlines()
    return found


class Backup(t.NamedTuple):
    """One on the controller, and the rows that were there when it was made."""

    path: Path
    rows: dict[str, list[str]]


@pytest.fixture(scope="session")
def backup(admin: Admin, front_door: FrontDoor, machine: str, public: str, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """One made now, with everything in it, encrypted, and brought to the controller."""
    logged = 'SELECT count(*) FROM "LiteLLM_SpendLogs"'
    so_far = int(admin.query(logged))
    assert [chat(front_door, front_door.key(name)).status for name in ("saver", "guest")] == [200, 200]
    until(lambda: int(admin.query(logged)) >= so_far + 2, 60, "what was spent is written down")
    admin.query(f"UPDATE \"LiteLLM_VerificationToken\" SET spend = {SPENT} WHERE key_alias = 'laptop'")
    copies = tmp_path_factory.mktemp("copies")
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"])
    for _attempt in range(3):  # LiteLLM writes down late what was spent
        before = rows(machine)
        run = playbook(inventory, "backup.yml", backup_encrypt_to=[public], llm_backup_copies=str(copies))
        assert run.rc == 0, run.said[-3000:]
        if rows(machine) == before:
            return Backup(sorted((copies / machine).iterdir())[-1], before)
    raise AssertionError("the gateway never comes to rest")


@pytest.fixture(scope="session")
def blank(machine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory of an owner whose gateway and controller have burnt down: the machine is another one, and there are no secrets."""
    place = tmp_path_factory.mktemp("blank")
    shutil.copytree(ROOT / "molecule/gateway/group_vars", place / "group_vars")
    # One process of LiteLLM is enough to see what was restored.
    new = {"llm_address": ADDRESSES[BLANK], "litellm_standby": False}
    hosts = {"inference_servers": {"hosts": {machine: {"llm_address": ADDRESSES[machine]}}}, "gateways": {"hosts": {BLANK: new}}}
    (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": hosts}}))
    return place


def restore_command(inventory: Path, backup: Path, **variables: t.Any) -> list[str]:
    return command_of(inventory / "hosts.yml", "restore.yml", f"--limit={BLANK}", restore_from=str(backup), **variables)


def restore(inventory: Path, backup: Path, **variables: t.Any) -> Run:
    done = subprocess.run(restore_command(inventory, backup, **variables), cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return Run(done.returncode, done.stdout + done.stderr)


@dataclass
class Restoring:
    """restore.yml at its work on the blank machine. It uses nothing that the other tests use."""

    inventory: Path
    process: subprocess.Popen[str]
    output: Path

    def finished(self) -> Run:
        return Run(self.process.wait(), self.output.read_text())


@pytest.fixture(scope="session")
def restoring(backup: Backup, blank: Path, identity: Path, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Restoring]:
    stand_in = playbook(blank / "hosts.yml", "../molecule/shared/prisma.yml", f"--limit=localhost,{BLANK}")
    assert stand_in.rc == 0, stand_in.said[-2000:]
    output = tmp_path_factory.mktemp("restore") / "output"
    with output.open("w") as said:
        command = restore_command(blank, backup.path, restore_identity=str(identity))
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    yield Restoring(blank, process, output)
    if process.poll() is None:  # another test has failed
        process.terminate()
        process.wait()
