"""Secrets go through runs that show all they can, and through runs that are made to fail. Then somebody without rights looks for them everywhere."""

from __future__ import annotations

import hashlib
import json
import secrets as random
import shutil
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from conftest import FrontDoor, Run, play, shell  # type: ignore[import-not-found]

FILES = Path(__file__).resolve().parents[1] / "files"
PLACES = ["/etc", "/opt/llm", "/var", "/tmp", "/run", "/home", "/root", "/srv/llm/models", "/usr/local", "/dev/shm"]
ENOUGH = 20  # secrets at least
LOUD = ("-vvvv", "--diff")

Texts = dict[str, str]


def inside(machine: str, script: str, given: t.Any) -> t.Any:
    """As somebody without rights."""
    command = ["docker", "exec", "--interactive", machine, "runuser", "--user", "nobody", "--", "python3", "-c", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def search(machine: str, texts: Texts) -> t.Any:
    return inside(machine, (FILES / "search.py").read_text(), {"texts": texts, "places": PLACES})


def needle(content: str) -> str:
    """What is searched for: of a PEM a line in its middle; anything else is one line."""
    lines = content.strip().splitlines()
    return lines[2] if len(lines) > 3 else lines[0]


def leaked(texts: Texts, output: str) -> list[str]:
    return [name for name, text in texts.items() if text in output]


@pytest.fixture(scope="module")
def mine(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with what its owner changes so that every file with a secret in it is written again."""
    copy = tmp_path_factory.mktemp("canary") / "inventory"
    shutil.copytree(inventory, copy)
    catalogue = copy / "group_vars/all.yml"
    variables = yaml.safe_load(catalogue.read_text())
    variables["llm_keys"] += [{"name": f"canary-{number}"} for number in range(6)]
    variables["llm_keys"].append({"name": "given", "key": f"sk-{random.token_hex(32)}"})
    variables["litellm_general_settings"] = {"canary_password": random.token_hex(24)}
    catalogue.write_text(yaml.safe_dump(variables))
    (copy / ".secrets/engine_key").unlink()  # the run makes another
    return copy


class Changed(t.NamedTuple):
    said: str
    canaries: Texts


@pytest.fixture(scope="module")
def changed(mine: Path) -> Changed:
    """A run that writes all of them, and what they are."""
    run = play(mine, "site", *LOUD, "-e", "llm_rotate=laptop")
    assert run.rc == 0, run.said[-4000:]
    assert run.said.count("changed: [") > 3, "nothing was written, so nothing could leak"
    variables = yaml.safe_load((mine / "group_vars/all.yml").read_text())
    texts = {
        str(path.relative_to(mine)): needle(path.read_text())
        for path in (mine / ".secrets").rglob("*")
        if path.is_file() and path.suffix not in (".crt", ".json")
    }
    texts["litellm_general_settings"] = variables["litellm_general_settings"]["canary_password"]
    texts["llm_keys"] = variables["llm_keys"][-1]["key"]
    assert len(texts) >= ENOUGH, sorted(texts)
    assert all(len(text) >= 32 for text in texts.values()), sorted(texts)
    return Changed(run.said, texts)


def test_not_in_what_a_run_says(changed: Changed) -> None:
    assert leaked({"found": "PLAY RECAP"}, changed.said) == ["found"]
    assert leaked(changed.canaries, changed.said) == []


# A run with something wrong: its playbook, what it is given, and what its error names.
WRONG: dict[str, tuple[str, dict[str, t.Any], str]] = {
    "a key that no header carries": ("site", {"llm_keys": [{"name": "torn", "key": "CANARY with a space in it"}]}, "torn"),
    "a master key that LiteLLM does not know": ("keys", {"llm_master_key": "sk-CANARY"}, "llm_master_key"),
    "another salt": ("gateway", {"llm_salt_key": "CANARY"}, "salt"),
    "no private key": ("gateway", {"nginx_tls_certificate": "THE CERTIFICATE", "nginx_tls_private_key": "CANARY"}, "nginx_tls"),
    "a database that lets nobody in": (
        "gateway",
        {"postgresql_external": {"host": "127.0.0.1"}, "llm_database_password": "CANARY"},
        "postgresql_external",
    ),
    "a text instead of a mapping": ("gateway", {"litellm_general_settings": "CANARY"}, "litellm_general_settings"),
}


@pytest.fixture(scope="module")
def failures(mine: Path, changed: Changed) -> dict[str, tuple[Run, str]]:
    """What each of them says, and its canary. They change nothing, so two run at a time."""

    def one(case: str) -> tuple[str, tuple[Run, str]]:
        playbook, variables, _because = WRONG[case]
        canary = random.token_hex(24)
        given = mine.parent / f"{canary[:8]}.json"  # not on the command line, which -vvvv repeats
        given.write_text(json.dumps(variables).replace("CANARY", canary))
        return case, (play(mine, playbook, *LOUD, "-e", f"@{given}"), canary)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(one, WRONG))


@pytest.mark.parametrize("case", WRONG)
def test_not_in_what_a_failure_says(failures: dict[str, tuple[Run, str]], changed: Changed, case: str) -> None:
    failed, canary = failures[case]
    assert failed.rc != 0
    assert WRONG[case][2] in failed.said, failed.said[-3000:]
    assert leaked({**changed.canaries, "given": canary}, failed.said) == []


def test_the_search_finds_what_is_there(machine: str) -> None:
    canary = random.token_hex(24)
    shell(machine, f"echo {canary} >/tmp/canary")
    found = search(machine, {"planted": canary})
    shell(machine, "rm /tmp/canary")
    assert found["found"] == ["planted in /tmp/canary"]
    assert found["looked_at"]["processes"] > 10
    assert found["looked_at"]["units"] > 50
    assert found["looked_at"]["files"] > 1000


def test_not_on_the_machine(machine: str, changed: Changed) -> None:
    assert search(machine, changed.canaries)["found"] == []


def test_not_in_the_journal(machine: str, changed: Changed) -> None:
    journal = subprocess.run(["docker", "exec", machine, "journalctl", "--no-pager", "--all"], check=True, capture_output=True).stdout.decode(errors="replace")
    assert "llm_nginx" in journal
    assert leaked(changed.canaries, journal) == []


HELLO = {"model": "tiny-a", "messages": [{"role": "user", "content": "Hello"}]}
QUESTIONS: dict[str, tuple[str, str, t.Any]] = {
    "an unknown key": ("UNKNOWN", "chat/completions", HELLO),
    "a malformed key": ("' OR 1=1 --", "models", None),
    "an unknown model": ("VALID", "chat/completions", {**HELLO, "model": "nobody"}),
    "no messages": ("VALID", "chat/completions", {"model": "tiny-a"}),
    "an unknown route": ("VALID", "nowhere", None),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_not_in_what_a_client_is_told(front_door: FrontDoor, mine: Path, changed: Changed, question: str) -> None:
    """Neither the key that came, nor its hash, by which LiteLLM's tables know it."""
    key, route, body = QUESTIONS[question]
    key = {"UNKNOWN": f"sk-{random.token_hex(32)}", "VALID": needle((mine / ".secrets/keys/laptop").read_text())}.get(key, key)
    told = front_door.ask("GET" if body is None else "POST", f"/v1/{route}", key, body)
    assert told.status >= 400
    said = f"{told.headers}{json.dumps(told.body)}"
    assert leaked({**changed.canaries, "the key": key, "its hash": hashlib.sha256(key.encode()).hexdigest()}, said) == []
