"""A gateway with its database, under test: LiteLLM's own interface as its administrator sees it, and the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.tests.front_door import FrontDoor, Reply

ROOT = Path(__file__).resolve().parents[1]
# Who asks gets the key by the standard input: a command's arguments are for everybody to read.
ASK = """
import json, sys, urllib.error, urllib.request
given = json.load(sys.stdin)
headers = {"Authorization": "Bearer " + given["key"], "Content-Type": "application/json"}
body = None if given["body"] is None else json.dumps(given["body"]).encode()
try:
    answer = urllib.request.urlopen(urllib.request.Request(given["url"], body, headers, method=given["method"]), timeout=60)
except urllib.error.HTTPError as refused:
    answer = refused
except OSError as nobody:
    print(json.dumps({"status": 0, "body": str(nobody)}))
    sys.exit()
text = answer.read().decode()
print(json.dumps({"status": answer.status, "body": text}))
"""


def shell(machine: str, command: str) -> str:
    """What a command has said; it must succeed."""
    done = subprocess.run(["docker", "exec", machine, "sh", "-ec", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} on {machine}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    return done.stdout


def until(condition: t.Callable[[], t.Any], seconds: float, what: str) -> float:
    """How long it took until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return time.monotonic() - began


class Told(t.NamedTuple):
    """Status 0: nobody answered."""

    status: int
    body: t.Any


@dataclass(frozen=True)
class Admin:
    """LiteLLM's own interface, on the machine itself and with the master key."""

    machine: str
    master_key: str = field(repr=False)
    port: int = 4000

    def call(self, method: str, path: str, body: t.Any = None, port: int = 0) -> Told:
        given = {"key": self.master_key, "method": method, "url": f"http://127.0.0.1:{port or self.port}{path}", "body": body}
        command = ["docker", "exec", "--interactive", self.machine, "python3", "-c", ASK]
        told = json.loads(subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True).stdout)
        try:
            return Told(told["status"], json.loads(told["body"]))
        except ValueError:
            return Told(told["status"], told["body"])

    def make_key(self, alias: str, **fields: t.Any) -> str:
        told = self.call("POST", "/key/generate", {"key_alias": alias, **fields})
        assert told.status == 200, told
        return str(told.body["key"])

    def remove_key(self, alias: str) -> None:
        self.call("POST", "/key/delete", {"key_aliases": [alias]})

    def database(self, port: int = 0) -> str:
        """What LiteLLM says of its database; empty if it does not answer."""
        told = self.call("GET", "/health/readiness", port=port)
        return str(told.body.get("db")) if isinstance(told.body, dict) else ""

    def query(self, statement: str) -> str:
        """What the database says, to its administrator."""
        command = ["docker", "exec", "--interactive", self.machine, "runuser", "--user", "postgres", "--", "psql", "--no-psqlrc", "--tuples-only"]
        done = subprocess.run([*command, "--no-align", "--dbname=litellm"], input=statement, capture_output=True, text=True, check=True)
        return done.stdout.strip()


class Run(t.NamedTuple):
    """What a run of a playbook came to, and all that it said."""

    rc: int
    said: str


def play(inventory: Path, playbook: str, *arguments: str) -> Run:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", str(inventory), str(ROOT / f"playbooks/{playbook}.yml"), *arguments]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "10000"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return Run(done.returncode, " ".join(done.stdout.split()))


def chat(front_door: FrontDoor, key: str, model: str = "tiny-a") -> Reply:
    return front_door.ask("POST", "/v1/chat/completions", key, {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})


class Steady:
    """A client that asks again and again, and keeps what it was answered."""

    def __init__(self, front_door: FrontDoor, key: str, model: str = "tiny-a") -> None:
        self.front_door, self.key, self.model = front_door, front_door.key(key), model
        self.statuses: list[int | OSError] = []
        self.ends = threading.Event()

    def __enter__(self) -> Steady:
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()
        return self

    def __exit__(self, *_what: object) -> None:
        self.ends.set()
        self.thread.join()

    def ask(self) -> None:
        while not self.ends.wait(0.5):
            try:
                self.statuses.append(chat(self.front_door, self.key, self.model).status)
            except OSError as exc:
                self.statuses.append(exc)
