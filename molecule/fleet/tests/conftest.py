"""A fleet as its owner has it: an inventory to edit, site.yml to run, machines to look into. And a client, who has an address and a key."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
NAME = "baremetal-llm-fleet-{}"
GATEWAY, LLAMA, VLLM, THIRD, CLIENT = (NAME.format(role) for role in ("gateway", "llama", "vllm", "third", "client"))
ADDRESSES = {GATEWAY: "10.85.23.10", LLAMA: "10.85.23.21", VLLM: "10.85.23.22", THIRD: "10.85.23.23", CLIENT: "10.85.23.50"}
METRICS = {server: f"http://{ADDRESSES[server]}:8081/metrics?model=chat" for server in (LLAMA, THIRD)} | {VLLM: f"http://{ADDRESSES[VLLM]}:8100/metrics"}
Answer = dict[str, t.Any]
FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: t.Any) -> None:
    for figure in FIGURES:
        terminalreporter.write_line(figure)


def inside(machine: str, file: str, given: t.Any = None, *arguments: str) -> t.Any:
    """What a program of ``files`` prints on a machine."""
    command = ["docker", "exec", "--interactive", machine, "python3", "-c", (HERE / "files" / file).read_text(), *arguments]
    done = subprocess.run(command, input=json.dumps(given) + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{file} on {machine}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def shell(machine: str, command: str) -> str:
    return subprocess.run(["docker", "exec", machine, "sh", "-ec", command], check=True, capture_output=True, text=True).stdout


class Run(t.NamedTuple):
    """A run of a playbook, host by host."""

    rc: int
    seconds: float
    changed: dict[str, list[str]]  # the names of the tasks; hosts without any are there too
    failed: dict[str, str]  # what each task that failed has said

    def changed_hosts(self) -> set[str]:
        return {host for host, tasks in self.changed.items() if tasks}


class Asking:
    """The client's program while it runs."""

    def __init__(self, job: dict[str, t.Any]) -> None:
        command = ["docker", "exec", "--interactive", CLIENT, "python3", "-c", (HERE / "files/client.py").read_text()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def runs(self) -> bool:
        return self.process.poll() is None

    def answers(self, within: float = 300) -> list[Answer]:
        """All of them, after the last has ended; who asks again and again stops that now."""
        output, _errors = self.process.communicate(timeout=within)
        assert self.process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]


class Fleet:
    def __init__(self, scratch: Path) -> None:
        self.inventory = scratch / "inventory"
        shutil.copytree(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent, self.inventory)
        self.copies = itertools.count()

    # what its owner does

    def write(self, path: str, content: t.Any) -> None:
        (self.inventory / path).write_text(yaml.safe_dump(content))

    def read(self, path: str) -> t.Any:
        return yaml.safe_load((self.inventory / path).read_text())

    def remove(self, *paths: str) -> None:
        for path in paths:
            (self.inventory / path).unlink()

    @contextlib.contextmanager
    def mistaken(self, path: str, change: t.Callable[[t.Any], None]) -> t.Iterator[Fleet]:
        """A copy in which somebody has made a mistake in one file."""
        copy = Fleet.__new__(Fleet)
        copy.inventory = self.inventory.with_name(f"mistaken-{next(self.copies)}")
        shutil.copytree(self.inventory, copy.inventory)
        content = copy.read(path)
        change(content)
        copy.write(path, content)
        yield copy
        shutil.rmtree(copy.inventory)

    def site(self, *arguments: str, playbook: str = "site") -> Run:
        command: list[t.Any] = [
            Path(sys.executable).with_name("ansible-playbook"),
            "--inventory",
            self.inventory,
            ROOT / f"playbooks/{playbook}.yml",
            *arguments,
        ]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        assert done.stdout.lstrip().startswith("{"), done.stdout[-2000:] + done.stderr[-2000:]
        told = json.loads(done.stdout)
        run = Run(done.returncode, seconds, {host: [] for host in told["stats"]}, {})
        for task in (task for play in told["plays"] for task in play["tasks"]):
            for host, result in task["hosts"].items():
                if result.get("changed"):
                    run.changed.setdefault(host, []).append(task["task"]["name"])
                if result.get("failed"):
                    run.failed[f"{host}: {task['task']['name']}"] = json.dumps(result.get("results", result.get("msg")), ensure_ascii=False)
        return run

    # what its client does

    def secret(self, name: str) -> str:
        return (self.inventory / ".secrets" / name).read_text().strip()

    def asking(self, *questions: tuple[str, str, int], key: str | None = None, repeat: float = 0, **options: t.Any) -> Asking:
        """Questions are a model, a prompt and how many tokens the answer shall have; options are those of a chat completion."""
        bodies = [{"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, **options} for model, prompt, tokens in questions]
        job = {"host": ADDRESSES[GATEWAY], "ca": self.secret("tls/ca.crt"), "timeout": 120, "repeat": repeat, "questions": bodies}
        return Asking({**job, "key": self.secret("keys/workstation") if key is None else key})

    def ask(self, model: str, prompt: str = "Hello", tokens: int = 16, **options: t.Any) -> Answer:
        (answer,) = self.asking((model, prompt, tokens), **options).answers()
        return answer

    # what the engines say of themselves, to the gateway

    def counters(self, server: str) -> dict[str, int]:
        return dict(inside(GATEWAY, "counters.py", {"url": METRICS[server], "key": self.secret("engine_key")}))


def whole(answer: Answer, words: int) -> bool:
    """Every word, a reason for the end, and the end itself. A token of the tiny models is a word; an event may bring several."""
    said = len(answer["text"].split())
    return (answer["status"], said, answer["finish"], answer["done"], answer["error"]) == (200, words, "length", True, "")


def broken(answers: list[Answer], words: int) -> list[Answer]:
    """Those that are not whole, short enough to be shown."""
    return [{**answer, "text": f"{len(answer['text'].split())} words"} for answer in answers if not whole(answer, words)]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))
