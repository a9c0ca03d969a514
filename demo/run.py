# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `make demo` does: a fresh machine, site.yml, and a reply streamed through the front door, stage by stage.

    python demo/run.py [--stop | --expect-unchanged]      (through `make`: it sets up .venv and names the cache)
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ["LLM_CACHE"])
INVENTORY = Path("inventories/demo")
SECRETS = INVENTORY / ".secrets"
CA = SECRETS / "tls/ca.crt"
KEY = SECRETS / "keys/demo"
LOG = Path(".cache/demo.log")
REPORT = Path(".cache/demo-stages.json")

NAME = "baremetal-llm-demo"
SUITE = "bookworm"
PORT = int(os.environ.get("DEMO_PORT", "8443"))
URL = f"https://127.0.0.1:{PORT}"
MODEL = "demo"
PROMPT = "Tell me in two sentences what a bare metal server is."

# Asked on the machine itself, because the machine is what downloads.
PROBE = """
import sys, urllib.error, urllib.request
for host in sys.argv[1:]:
    try:
        urllib.request.urlopen("https://" + host, timeout=3)
    except urllib.error.HTTPError:
        pass
"""


class DemoError(Exception):
    """A stage that cannot go on; the message says what to do."""


class Stages:
    """Runs stages by name and remembers their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, explanation: str) -> t.Iterator[None]:
        say(f"{name}: {explanation}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - started, 1)

    def report(self, **facts: t.Any) -> None:
        total = round(sum(self.seconds.values()), 1)
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps({"stages": self.seconds, "total": total, **facts}, indent=2) + "\n")
        say("Seconds by stage")
        for name, seconds in [*self.seconds.items(), ("total", total)]:
            print(f"  {name:<12}{seconds:>8.1f}")


def say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{plain}", flush=True)


def run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, check=False)
    if done.returncode:
        raise DemoError(f"`{Path(command[0]).name} {command[1] if command[1:] else ''}` failed ({done.returncode}).")


def playbook(path: str, variables: dict[str, t.Any], *options: str | Path, **environment: str) -> None:
    environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    run("ansible-playbook", *options, path, "--extra-vars", json.dumps(variables), **environment)


def machines() -> dict[str, t.Any]:
    return {"machines": [{"name": NAME, "suite": SUITE, "published_ports": [f"127.0.0.1:{PORT}:443"]}]}


def check_port() -> None:
    """The front door's port must be free, unless it is our own machine that listens there."""
    command = ["docker", "port", NAME, "443"]
    published = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    with socket.socket() as probe:
        # Docker sets the same option: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError as error:
            if f":{PORT}" not in published:
                raise DemoError(
                    f"Port {PORT} of 127.0.0.1 is taken ({error.strerror}; `ss -ltnp` shows by whom). "
                    f"Free it, or choose another: make demo DEMO_PORT={PORT + 1}"
                ) from error


def is_online() -> bool:
    command = ["docker", "exec", NAME, "python3", "-c", PROBE, "github.com", "huggingface.co"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def choose_model() -> dict[str, t.Any]:
    """A small real model from a hub, or a tiny generated one where no hub can be reached."""
    if is_online():
        print("GitHub and Hugging Face answer: a released llama.cpp and a small instruct model.")
        return {"llm_demo_online": True}
    generator, model = ROOT / "tests/models/tiny_gguf.py", CACHE / "mirror/demo.gguf"
    if not model.exists() or model.stat().st_mtime < generator.stat().st_mtime:
        run(sys.executable, generator, model)
    print("No model hub answers: the model is generated here. Its words are random, because its weights are.")
    if not any((CACHE / "builds").glob("llama*")):
        print("llama.cpp is built from source once, and kept: about ten minutes on two cores.")
    return {"llm_demo_online": False, "llm_demo_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}


def converge(variables: dict[str, t.Any]) -> None:
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    playbook("playbooks/site.yml", variables, "--inventory", INVENTORY, ANSIBLE_LOG_PATH=str(LOG))


def changed_tasks() -> int:
    """What the run's recap counted as changed."""
    return sum(int(count) for count in re.findall(r"\bok=\d+ +changed=(\d+)", LOG.read_text()))


def prove() -> None:
    where = f"--url={URL}", f"--ca={CA}", f"--key-file={KEY}"
    run(sys.executable, "demo/stream.py", *where, f"--model={MODEL}", f"--prompt={PROMPT}")


def next_steps() -> None:
    here = Path.cwd()
    request = {"model": MODEL, "stream": True, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
    say("What next")
    print(
        textwrap.dedent(f"""\
        The endpoint     {URL}/v1   (any OpenAI client; model "{MODEL}")
        Its API key      {here / KEY}
        Its authority    {here / CA}

        Ask it yourself:
          curl --no-buffer --cacert {here / CA} -H "Authorization: Bearer $(cat {here / KEY})" \\
            -H "Content-Type: application/json" {URL}/v1/chat/completions \\
            -d '{json.dumps(request)}'

        Run it again     make demo        (the same machine; nothing changes)
        Look inside      docker exec -it {NAME} bash      (systemctl status 'llm-*')
        Real machines    cp -r inventories/single inventories/mine, edit it, then
                         .venv/bin/ansible-playbook -i inventories/mine playbooks/site.yml
        Remove it        make demo-stop""")
    )


def demo(expect_unchanged: bool) -> None:
    stages = Stages()
    if seconds := os.environ.get("DEMO_VENV_SECONDS"):
        stages.seconds["python"] = float(seconds)
    with stages.stage("engine", "a Docker engine that answers"):
        run("tests/machine/engine.sh")
    with stages.stage("image", f"Debian {SUITE} with systemd, nothing of ours in it"):
        run("tests/machine/image.sh", SUITE)
    with stages.stage("machine", f"{NAME}, reached only through port {PORT}"):
        check_port()
        playbook("tests/machine/create.yml", machines())
    with stages.stage("model", "from a hub, if one can be reached"):
        variables = choose_model()
    with stages.stage("site.yml", f"ansible-playbook -i {INVENTORY} playbooks/site.yml"):
        converge(variables)
    with stages.stage("stream", f"a chat completion through {URL}"):
        prove()
    changed = changed_tasks()
    stages.report(online=variables["llm_demo_online"], changed=changed)
    if expect_unchanged and changed:
        raise DemoError(f"A repeated run changed {changed} tasks; it must change none. See {LOG}.")
    next_steps()


def main() -> int:
    parser = argparse.ArgumentParser(description="The demo of baremetal.llm; start it with `make demo`.")
    parser.add_argument("--stop", action="store_true", help="remove the machine")
    parser.add_argument("--expect-unchanged", action="store_true", help="fail if this run changes anything")
    options = parser.parse_args()
    os.chdir(ROOT)
    try:
        if options.stop:
            playbook("tests/machine/destroy.yml", machines())
        else:
            demo(options.expect_unchanged)
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; `make demo` goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
