# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role container_toolkit derives from a host's facts; on Debian 12 and 13 Molecule runs it."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

ROLES = Path(__file__).resolve().parents[2] / "roles"
HOSTS = {
    "debian12": {"os_family": "Debian", "distribution": "Debian", "distribution_major_version": "12", "distribution_release": "bookworm"},
    "debian13": {"os_family": "Debian", "distribution": "Debian", "distribution_major_version": "13", "distribution_release": "trixie"},
    "ubuntu24": {"os_family": "Debian", "distribution": "Ubuntu", "distribution_major_version": "24", "distribution_release": "noble"},
    "rhel9": {"os_family": "RedHat", "distribution": "RedHat", "distribution_major_version": "9", "distribution_release": "Plow"},
}
CDI = {"features": {"cdi": True}}
RUNTIME = {"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}

init_plugin_loader()


def derived(host: str, name: str, said: str = "", **inputs: t.Any) -> t.Any:
    """A variable of the role on a host with a GPU, whose ``dockerd --version`` or ``apt-cache policy`` said that."""
    loader = DataLoader()
    variables = {"ansible_facts": HOSTS[host], "__container_toolkit_dockerd": {"stdout": said}, "__container_toolkit_host": {"gpu_info": {"pci": [{}]}}}
    for path in ("container_toolkit/defaults/main.yml", "common/vars/lock.yml", "container_toolkit/vars/main.yml"):
        variables |= loader.load_from_file(str(ROLES / path), trusted_as_template=True)
    return Templar(loader=loader, variables=variables | inputs).template(variables[f"__container_toolkit_{name}"])


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("Docker version 20.10.24+dfsg1, build 297e128", RUNTIME),
        ("Docker version 26.1.5+dfsg1, build 411e817", CDI),
        ("Docker version 29.0.1, build abc", CDI),
        ("docker.io:\n  Installed: (none)\n  Candidate: 20.10.24+dfsg1-1+deb12u1+b6\n", RUNTIME),
        ("docker-ce:\n  Installed: (none)\n  Candidate: 5:28.5.1-1~debian.12~bookworm\n", CDI),
        ("", CDI),  # a repository that is only about to be added
    ],
)
def test_how_gpus_are_handed_out(said: str, settings: dict[str, t.Any]) -> None:
    assert derived("debian12", "settings", said) == settings


def test_the_users_keys_and_the_default_runtime() -> None:
    said = "Docker version 28.5.1, build e180ab8"
    wanted = {"features": {"buildkit": True}, "log-driver": "local"}
    assert derived("ubuntu24", "settings", said, container_toolkit_daemon=wanted) == {"features": {"cdi": True, "buildkit": True}, "log-driver": "local"}
    assert derived("ubuntu24", "settings", said, container_toolkit_default_runtime=True) == {**CDI, **RUNTIME, "default-runtime": "nvidia"}
    assert derived("ubuntu24", "settings", said, container_toolkit_default_runtime=True, __container_toolkit_gpu=False) == {}


@pytest.mark.parametrize(
    ("host", "uris", "suites"),
    [
        ("debian13", "https://download.docker.com/linux/debian", "trixie"),
        ("ubuntu24", "https://download.docker.com/linux/ubuntu", "noble"),
        ("rhel9", None, None),
    ],
)
def test_dockers_own_repository(host: str, uris: str | None, suites: str | None) -> None:
    entry = derived(host, "docker_repository")
    assert (entry.get("uris"), entry.get("suites")) == (uris, suites)
    assert (host == "rhel9") == entry.get("baseurl", "").startswith("https://download.docker.com/linux/rhel/")
    assert entry["key"].startswith("https://download.docker.com/")
    assert entry["fingerprints"]


@pytest.mark.parametrize(
    ("host", "docker", "package", "expected"),
    [
        ("debian12", ["docker.io"], "nvidia-container-toolkit=1.20.0-1", "hi nvidia-container-toolkit=1.20.0-1"),
        ("debian13", ["docker.io", "docker-cli"], "libnvidia-container1=1.20.0-1", "hi libnvidia-container1=1.20.0-1"),
        ("ubuntu24", ["docker.io"], "libnvidia-container-tools=1.20.0-1", "hi libnvidia-container-tools=1.20.0-1"),
        ("rhel9", ["docker.io"], "nvidia-container-toolkit-base-1.20.0-1", "nvidia-container-toolkit-base-1.20.0-1"),
    ],
)
def test_packages(host: str, docker: list[str], package: str, expected: str) -> None:
    assert derived(host, "docker_packages")["distribution"] == docker
    packages = derived(host, "packages")
    assert (len(packages), package in packages) == (4, True)
    assert expected in derived(host, "expected")
