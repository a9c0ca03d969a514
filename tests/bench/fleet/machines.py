# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet to measure: fresh container machines on a network of their own, an inventory over them, and runs of site.yml that are counted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint  # noqa: E402
from ansible_collections.baremetal.llm.tests.models import tiny_gguf  # noqa: E402

PREFIX = os.environ.get("BENCH_FLEET_PREFIX", "baremetal-llm-bench")
NETWORK = os.environ.get("BENCH_FLEET_NETWORK", "10.87.46")  # the first three numbers of its addresses
CLIENT = "bench"


class Run(t.NamedTuple):
    seconds: float
    executed: dict[str, int]  # by host, what the recap counts as ok
    changed: dict[str, int]

    @property
    def tasks(self) -> int:
        return sum(self.executed.values())


class Fleet:
    """``count`` machines, called 1 to ``count``. The directory holds the inventory and the secrets that the first run makes."""

    def __init__(self, count: int, directory: Path, layers: int = tiny_gguf.LAYERS) -> None:
        self.names = [f"{PREFIX}-{number}" for number in range(1, count + 1)]
        self.directory = directory
        default = "/var/cache/baremetal-llm" if os.getuid() == 0 else str(Path.home() / ".cache/baremetal-llm")
        self.cache = Path(os.environ.setdefault("LLM_CACHE", default))
        self.model = self.cache / f"mirror/{PREFIX}-{layers}.gguf"
        self.layers = layers

    def address(self, name: str) -> str:
        return f"{NETWORK}.{10 + int(name.rpartition('-')[2])}"

    @property
    def controller(self) -> str:
        """The address of the machine that measures, on the machines' network."""
        return f"{NETWORK}.1"

    def create(self) -> None:
        self.model.parent.mkdir(parents=True, exist_ok=True)
        tiny_gguf.write(self.model, layers=self.layers)
        self._machines("create.yml")

    def destroy(self) -> None:
        self._machines("destroy.yml")
        self.model.unlink(missing_ok=True)

    def inventory(self, gateway: str, servers: dict[str, list[str]], **variables: t.Any) -> Path:
        """``servers``: the models of each. Every model is the same file; with names of their own they are told apart."""
        entry = {
            "source": f"file:/srv/llm/mirror/{self.model.name}",
            "sha256": hashlib.sha256(self.model.read_bytes()).hexdigest(),
            "engine": "llama_router",
            "context": 512,
            "parallel": 16,
            # All machines share the memory and the processors of this one, and threads that wait for one another would take most of them.
            "cache_ram": 256,
            "threads": 1,
        }
        common = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
            "llm_models": {model: entry for models in servers.values() for model in models},
            "llm_keys": [{"name": CLIENT, "requests_per_minute": 100_000, "burst": 10_000, "parallel": 256}],
            "llm_server_names": [self.address(gateway)],
            "llm_firewall_sources": [self.controller],
            "llama_router_method": "source",
            "llm_download_cache": "/var/cache/llm/uv",
            **variables,
        }
        hosts = {
            name: {"llm_address": self.address(name), **({"llm_serve": [{"model": model} for model in servers[name]]} if name in servers else {})}
            for name in dict.fromkeys([gateway, *servers])
        }
        groups: dict[str, t.Any] = {"inference_servers": {"hosts": {name: {} for name in servers}}, "gateways": {"hosts": {gateway: {}}}}
        path = self.directory / "hosts.json"
        path.write_text(json.dumps({"all": {"hosts": hosts, "vars": common, "children": groups}}, indent=2))
        return path

    def secret(self, name: str) -> str:
        return Path(self.directory, ".secrets", name).read_text().strip()

    def front_door(self, gateway: str) -> Endpoint:
        address = self.address(gateway)
        return Endpoint(f"https://{address}", self.secret(f"keys/{CLIENT}"), ca_pem=self.secret("tls/ca.crt"), timeout=60)

    def engine(self, name: str) -> Endpoint:
        return Endpoint(f"http://{self.address(name)}:8081", self.secret("engine_key"), timeout=60)

    def site(self, inventory: Path, *options: str) -> Run:
        return play(ROOT / "playbooks/site.yml", "-i", str(inventory), *options)

    def limit_processors(self, names: t.Iterable[str], processors: float) -> None:
        """As if each had so few: then two servers have twice what one has, whatever they share."""
        period = 10_000  # microseconds; the default of ten times as much would hold tokens back for as long
        quota = str(round(processors * period))
        subprocess.run(["docker", "update", "--cpu-period", str(period), "--cpu-quota", quota, *names], check=True, stdout=subprocess.DEVNULL)

    def _machines(self, playbook: str) -> None:
        network = f"{PREFIX}-network"
        machines = [{"name": name, "suite": "bookworm", "networks": [{"name": network, "ipv4_address": self.address(name)}]} for name in self.names]
        variables = {"machines": machines, "networks": [{"name": network, "subnet": f"{NETWORK}.0/24"}]}
        command = [program("ansible-playbook"), str(ROOT / "tests/machine" / playbook), "--extra-vars", json.dumps(variables)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{playbook} failed ({done.returncode}):\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")


@contextlib.contextmanager
def fleet(count: int, keep: bool = False, **options: t.Any) -> t.Iterator[Fleet]:
    """Machines that are gone afterwards, however it ends, unless they are to be looked at."""
    directory = Path(tempfile.mkdtemp(prefix="llm-fleet-"))
    made = Fleet(count, directory, **options)
    try:
        say(f"creating {count} machines")
        made.create()
        yield made
    finally:
        if keep:
            say(f"kept: {', '.join(made.names)}, network {PREFIX}-network, inventory {directory}/hosts.json")
        else:
            made.destroy()
            shutil.rmtree(directory)


def play(playbook: Path, *options: str) -> Run:
    """One run of a playbook, counted by host."""
    started = time.monotonic()
    done = subprocess.run(
        [program("ansible-playbook"), *options, str(playbook)],
        cwd=ROOT,
        env={**environment(), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{playbook.name} failed ({done.returncode}):\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}")
    stats = json.loads(done.stdout[done.stdout.index("{") :])["stats"]
    return Run(seconds, {host: count["ok"] for host, count in stats.items()}, {host: count["changed"] for host, count in stats.items()})


def pings(executed: dict[str, int], inventory: Path) -> Run:
    """As many of the cheapest tasks on each host, as parallel as they can be: what Ansible itself takes here for that many."""
    plays = []
    done = 0
    for count in sorted(set(executed.values())):  # all hosts run the first ones, then those that have more to do run on
        hosts = [host for host, tasks in executed.items() if tasks >= count]
        one = {"name": "Ping", "ansible.builtin.ping": None}
        plays.append({"name": "Pings", "hosts": ",".join(hosts), "gather_facts": False, "tasks": [one] * (count - done)})
        done = count
    with tempfile.TemporaryDirectory() as directory:
        playbook = Path(directory, "pings.yml")
        playbook.write_text(json.dumps(plays))
        return play(playbook, "-i", str(inventory))


def environment() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
