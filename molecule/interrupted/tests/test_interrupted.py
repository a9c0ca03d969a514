"""site.yml killed with everything it has started, wherever it was, ends in the same state when it is run again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / ".collections"), str(ROOT / "tests/doubles")]

from hub import HubDouble  # type: ignore[import-not-found]

testinfra_hosts = ["ansible://gateways"]
DOWNLOAD_SECONDS = 8


@pytest.fixture
def hub(host: t.Any, tmp_path: Path) -> t.Iterator[HubDouble]:
    """A hub from which the model takes some seconds, at the address of the machine's host."""
    model = Path(os.environ["LLM_CACHE"]) / "mirror/tiny-a.gguf"
    (tmp_path / "test/tiny").mkdir(parents=True)
    shutil.copy(model, tmp_path / "test/tiny/tiny-a.gguf")
    bridge = host.check_output("ip route show default").split()[2]  # this machine, as the one under test sees it
    with contextlib.closing(HubDouble(tmp_path, bind=bridge, bytes_per_second=model.stat().st_size // DOWNLOAD_SECONDS)) as double:
        yield double


class Site:
    """site.yml against the machine, with one model from the hub."""

    def __init__(self, host: t.Any, hub: HubDouble, log: Path) -> None:
        self.host, self.log = host, log
        variables = {
            "llm_models": {"tiny-a": {"source": "hf:test/tiny", "files": ["tiny-a.gguf"], "engine": "llama_router", "context": 2048}},
            "llm_serve": [{"model": "tiny-a"}],
            "llm_routes": {},
            "llm_hub_endpoint": hub.url,
            "llm_download_cache": "",  # an installation that has to download is one that can be met
        }
        playbook = Path(sys.executable).with_name("ansible-playbook")
        inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
        self.command = [str(playbook), "--inventory", str(inventory), str(ROOT / "playbooks/site.yml"), "--extra-vars", json.dumps(variables)]
        self.environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}

    def run(self) -> str:
        done = subprocess.run(self.command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout

    def kill_when(self, met: t.Callable[[], bool], what: str) -> None:
        with self.log.open("w") as log:
            run = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 180
            while not met():
                assert run.poll() is None, f"it ended before it met {what}: {self.log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, f"it never met {what}"
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        # and what it has started on the machine: modules (piped into a Python without arguments), uv; no service of ours runs yet
        self.host.run("pkill -9 '^python'; pkill -9 --full '[/]opt/llm/uv/'")


def test_killed_twice_and_run_again(host: t.Any, hub: HubDouble, tmp_path: Path) -> None:
    site = Site(host, hub, tmp_path / "site.log")
    models = "/var/lib/llm/models/tiny-a"

    site.kill_when(lambda: host.run(f"ls {models} -A").stdout.find(".part") >= 0, "a download that is under way")
    assert not host.file(f"{models}/tiny-a.gguf").exists
    part = host.check_output(f"find {models} -name '*.part' -size +0")
    assert part

    site.kill_when(lambda: bool(host.run("ls -d /opt/llm/litellm/1*/lib").stdout), "an installation that is under way")
    assert host.file(f"{models}/tiny-a.gguf").exists, "the download was finished on the way"
    ranges = [headers.get("range", "") for server, _method, _path, headers in hub.requests if server == "cdn"]
    # Those with an end read the model's header.
    assert any(re.fullmatch("bytes=[1-9][0-9]*-", asked) for asked in ranges), "the download was resumed, not begun again"
    assert not host.file("/opt/llm/litellm/current").exists
    assert not host.run("ls /opt/llm/litellm/1*/.complete").stdout

    assert "All 2 are served." in site.run()
    assert host.check_output("find /opt/llm /var/lib/llm/models -name '*.part' -o -name '.scratch-*'") == ""
    assert host.run("ls /opt/llm/litellm/current/.complete").rc == 0
    assert " changed=0 " in site.run(), "a run after that changes nothing"
