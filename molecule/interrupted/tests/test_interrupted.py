"""A run that is killed in the middle, and the next one: the machine ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://all"]
ROOT = Path(__file__).resolve().parents[3]
INVENTORY = Path(os.environ.get("MOLECULE_INVENTORY_FILE", "inventory")).parent
STATE = "/opt/llm /etc/llm /var/lib/llm"
PART = "/var/lib/llm/models/tiny-a/tiny-a.gguf.part"
MODEL = PART[: -len(".part")]
# Patterns of command lines; the brackets keep them from matching the search itself.
ANSIBLE = "[a]nsible|/[u]v "
INSTALLATION = "[u]v pip install .*/opt/llm/litellm/"

# Runs on the machine: sends half of the model to the first who asks and then nothing, to all others what they ask for.
SLOW_SERVER = """
import http.server, pathlib, time
data = pathlib.Path("/srv/llm/mirror/tiny-a.gguf").read_bytes()
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        begin = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        asked.append(begin)
        pathlib.Path("/tmp/asked").write_text(" ".join(map(str, asked)))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"one"')
        self.end_headers()
        first = len(asked) == 1
        self.wfile.write(data[begin : len(data) // 2 if first else None])
        self.wfile.flush()
        time.sleep(300 if first else 0)
http.server.ThreadingHTTPServer(("127.0.0.1", 9999), Handler).serve_forever()
"""


class Run:
    """site.yml, in a process group of its own so that it can be killed as a whole."""

    def __init__(self, playbook: str = "playbooks/site.yml") -> None:
        sha256 = Path(os.environ["LLM_CACHE"], "mirror/tiny-a.gguf.sha256").read_text()
        model = {"source": "http://127.0.0.1:9999/tiny-a.gguf", "sha256": sha256, "engine": "llama_router", "context": 512}
        variables = {"llm_models": {"tiny-a": model}, "llm_serve": [{"model": "tiny-a"}]}
        self.process = subprocess.Popen(
            ["ansible-playbook", "--inventory", INVENTORY, ROOT / playbook, "--extra-vars", json.dumps(variables)],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill_once(self, host: t.Any, reached: t.Callable[[], bool], seconds: float) -> None:
        """Kill the run and what it started on the machine, as a power cut would, at the moment that ``reached`` names."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[0][-3000:]
            assert time.monotonic() < deadline, "the run did not come to the moment at which it is to be killed"
            time.sleep(0.1)
        os.killpg(self.process.pid, signal.SIGKILL)
        host.run("pkill --signal KILL --full %s", ANSIBLE)
        self.process.communicate()
        assert host.run("pgrep --full %s", ANSIBLE).rc == 1

    def finish(self) -> str:
        output = self.process.communicate()[0]
        assert self.process.returncode == 0, output[-3000:]
        return output


def state(host: t.Any) -> dict[str, list[str]]:
    """All files of ours with type, mode, owner and target; of the configuration what is in it, too.

    The server's certificate and its key are made anew after every removal.
    """
    skip = r"\( -name __pycache__ -o -path '/var/lib/llm/*/.cache' \) -prune -o"
    return {
        "files": sorted(host.check_output(f"find {STATE} {skip} -printf '%p %y %m %u %g %l\n'").splitlines()),
        "configuration": sorted(host.check_output("find /etc/llm -type f ! -name 'server.*' -exec sha256sum {} +").splitlines()),
        "model": [host.check_output(f"sha256sum {MODEL}")],
        "services": host.check_output("systemctl is-active llm-llama-router llm-litellm llm-nginx").splitlines(),
    }


@pytest.fixture(scope="module", autouse=True)
def slow_server(host: t.Any) -> None:
    name = host.ansible.get_variables()["inventory_hostname"]
    subprocess.run(["docker", "exec", "--detach", name, "python3", "-c", SLOW_SERVER], check=True)


def test_killed_while_it_downloads(host: t.Any) -> None:
    half = host.file("/srv/llm/mirror/tiny-a.gguf").size // 2
    Run().kill_once(host, lambda: host.file(PART).exists and host.file(PART).size == half, 120)
    assert host.file(PART).size == half
    assert not host.file(MODEL).exists, "half a model has no name that an engine could load"


def test_killed_while_it_installs(host: t.Any) -> None:
    Run().kill_once(host, lambda: host.run("pgrep --full %s", INSTALLATION).rc == 0, 300)
    assert not host.file(PART).exists, "the download was brought to its end first"
    first, second = host.file("/tmp/asked").content_string.split()
    assert int(first) == 0
    assert int(second) > 0, "and went on where it had stopped"
    assert host.run("ls /opt/llm/litellm/*/.complete").rc != 0, "half an installation does not count as one"


def test_the_next_run_ends_as_if_nothing_had_happened(host: t.Any) -> None:
    Run().finish()
    mended = state(host)
    assert mended["services"] == ["active"] * 3
    again = Run().finish()
    assert re.search(r"changed=0 .*failed=0", again), again[-2000:]

    Run("molecule/shared/absent.yml").finish()
    Run().finish()
    assert state(host) == mended
