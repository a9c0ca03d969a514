# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans over the facts of machines (tests/unit/fixtures/driver). Debian's are carried out by Molecule, Ubuntu's and RHEL's are only asserted here."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.filter.nvidia_driver_plan import FilterModule
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import DRIVER_PACKAGE
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._nvidia_driver import Plan, Wishes, plan

ROOT = Path(__file__).resolve().parents[4]
DEVICES = {"older": "1180", "pascal": "1b80", "maxwell": "17c2", "volta": "1db1", "turing": "1e04", "ampere": "2204", "ada": "2684"}
DEVICES |= {"hopper": "2330", "blackwell": "2b85", "unknown": "3200"}


def machine(name: str, *generations: str, **facts: t.Any) -> dict[str, t.Any]:
    """The facts of a machine with GPUs of these generations; ``kernel`` is another one than in the fixture."""
    found = yaml.safe_load((ROOT / f"tests/unit/fixtures/driver/{name}.yml").read_text())
    found["gpus"] = [
        {"address": f"0000:{number:02x}:00.0", "device": DEVICES[generation], "generation": generation, "driver": ""}
        for number, generation in enumerate(generations or ("ampere",), 1)
    ]
    for key in ("kernel", "architecture"):
        if key in facts:
            found["system"][key] = facts.pop(key)
    return {**found, **facts}


def planned(facts: t.Mapping[str, t.Any], **wishes: t.Any) -> Plan:
    return plan(facts, Wishes(**wishes))


# Which kind of modules


@pytest.mark.parametrize(
    ("generations", "branch", "modules"),
    [
        (["pascal"], "580", "proprietary"),
        (["maxwell", "volta"], "535", "proprietary"),
        (["pascal", "ada"], "580", "proprietary"),  # both can do with them
        (["turing"], "580", "open"),
        (["ampere", "hopper"], "580", "open"),
        (["ampere"], "550", "proprietary"),  # the open ones were not for every board yet
        (["ampere"], "620", "open"),
        (["blackwell"], "570", "open"),
        (["unknown"], "615", "open"),
    ],
)
def test_auto_takes_what_all_gpus_need(generations: list[str], branch: str, modules: str) -> None:
    assert planned(machine("debian12", *generations), branch=branch).modules == modules


@pytest.mark.parametrize("modules", ["open", "proprietary"])
def test_where_the_gpu_leaves_the_choice_the_user_has_it(modules: str) -> None:
    assert planned(machine("debian12", "ada"), modules=modules).modules == modules


@pytest.mark.parametrize(
    ("generations", "wishes", "says"),
    [
        (["pascal"], {"branch": "590"}, r"590 does not drive the GPU at 0000:01:00.0 \(pascal, PCI device 1b80\): pascal GPUs end with branch 580"),
        (["volta"], {"branch": "610.43.02"}, "610.43.02 does not drive the GPU at .*volta GPUs end with branch 580"),
        (["maxwell"], {"branch": "595"}, "maxwell GPUs end with branch 580"),
        (["older"], {}, "older GPUs end with branch 470"),
        (["blackwell"], {"branch": "550"}, "blackwell GPUs begin with branch 570"),
        (["pascal"], {"modules": "open"}, "open does not drive the GPU at .*begin with Turing. Set proprietary or auto"),
        (["blackwell"], {"modules": "proprietary"}, "proprietary does not drive the GPU at .*which needs the open ones"),
        (["ada"], {"modules": "proprietary", "branch": "620"}, "proprietary ended with branch 615"),
        (["pascal", "blackwell"], {}, r"No driver drives both the GPU at 0000:01:00.0 .* and the GPU at 0000:02:00.0 .*two machines"),
        (["ada"], {"branch": "58"}, "'58' is neither a branch"),
        (["ada"], {"branch": "latest"}, "'latest' is neither a branch"),
        (["ada"], {"modules": "both"}, "'both' is none of auto, open, proprietary"),
        (["ada"], {"source": "run"}, "'run' is none of auto, distribution, nvidia, existing"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_gpu_and_a_remedy(generations: list[str], wishes: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        planned(machine("debian12", *generations), **wishes)


# Debian


def test_debian_from_nvidia() -> None:
    found = planned(machine("debian12", "ada"))
    assert found.install == ["linux-headers-amd64", "linux-headers-6.1.0-54-amd64", "nvidia-kernel-open-dkms=580.*", "nvidia-driver-cuda=580.*"]
    assert (found.source, found.modules, found.signed, found.repository) == ("nvidia", "open", False, "debian12-x86_64")
    assert found.hold == ["nvidia-kernel-open-dkms", "nvidia-driver-cuda"]
    assert found.warnings == []
    # some of NVIDIA's packages need contrib; the addresses are the machine's own
    assert found.archive.count("Components: contrib\n") == 3
    assert "URIs: http://mirror.example.org/debian-security/\nSuites: bookworm-security\nComponents: contrib\n" in found.archive


@pytest.mark.parametrize(
    ("wishes", "packages"),
    [
        ({"modules": "proprietary"}, ["nvidia-kernel-dkms=580.*", "nvidia-driver-cuda=580.*"]),
        ({"compute_only": False}, ["nvidia-kernel-open-dkms=580.*", "nvidia-open=580.*"]),
        ({"compute_only": False, "modules": "proprietary"}, ["nvidia-kernel-dkms=580.*", "cuda-drivers=580.*"]),
        ({"branch": "580.105.08"}, ["nvidia-kernel-open-dkms=580.105.08-*", "nvidia-driver-cuda=580.105.08-*"]),
    ],
)
def test_debian_from_nvidia_in_other_shapes(wishes: dict[str, t.Any], packages: list[str]) -> None:
    assert planned(machine("debian13", "ada"), source="nvidia", **wishes).install[1:] == packages


def test_debians_own_driver() -> None:
    found = planned(machine("debian12"), source="distribution", branch="535")
    assert (found.source, found.modules, found.repository) == ("distribution", "proprietary", "")
    assert {"nvidia-kernel-dkms=535.*", "libcuda1=535.*", "nvidia-smi=535.*"} < set(found.install)
    assert found.archive.count("Components: contrib non-free non-free-firmware\n") == 3
    assert "Signed-By" not in found.archive
    assert planned(machine("debian12"), source="distribution", branch="535", compute_only=False).install[-1] == "nvidia-driver=535.*"


def test_a_source_is_signed_by_what_signs_the_machines_own_and_has_only_what_is_missing() -> None:
    found = planned(machine("debian13"), source="distribution", branch="550")
    assert found.archive == (
        "# Managed by the Ansible collection baremetal.llm.\n"
        "Types: deb\nURIs: http://mirror.example.org/debian-security/\nSuites: trixie-security\nComponents: contrib non-free\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_debian_13_has_open_modules_of_its_own() -> None:
    assert "nvidia-open-kernel-dkms=550.*" in planned(machine("debian13"), source="distribution", branch="550", modules="open").install


@pytest.mark.parametrize(
    ("name", "wishes", "says"),
    [
        ("debian12", {}, "580 is not in the archive of Debian 12, which has 535: set nvidia_driver_source: nvidia, or nvidia_driver_branch: '535'"),
        ("debian13", {"branch": "535"}, "535 is not in the archive of Debian 13, which has 550"),
        ("debian12", {"branch": "535.309.01"}, "is not in the archive"),
        ("debian12", {"branch": "535", "modules": "open"}, "open cannot be had from the archive of Debian 12"),
    ],
)
def test_what_debian_does_not_have(name: str, wishes: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        planned(machine(name), source="distribution", **wishes)


@pytest.mark.parametrize(
    ("kernel", "available", "headers", "warned"),
    [
        ("6.1.0-54-amd64", ["linux-headers-6.1.0-54-amd64"], ["linux-headers-amd64", "linux-headers-6.1.0-54-amd64"], False),
        ("6.1.0-40-amd64", [], ["linux-headers-amd64"], False),  # no longer in the archive: the module comes with the next boot
        ("6.1.0-54-cloud-amd64", [], ["linux-headers-cloud-amd64"], False),
        ("6.12.107+deb13-amd64", [], ["linux-headers-amd64"], False),
        ("6.18.44-fc-v657", [], ["linux-headers-amd64"], True),
        ("6.8.12-1-pve", [], ["linux-headers-amd64"], True),
    ],
)
def test_headers_on_debian(kernel: str, available: list[str], headers: list[str], warned: bool) -> None:
    found = planned(machine("debian12", kernel=kernel, available=available))
    assert [name for name in found.install if name.startswith("linux-")] == headers
    assert any("is none of the distribution's" in warning for warning in found.warnings) == warned


def test_a_real_time_kernel_is_refused() -> None:
    with pytest.raises(InputError, match="6.1.0-54-rt-amd64 is a real-time one"):
        planned(machine("debian12", kernel="6.1.0-54-rt-amd64"))


def test_a_machine_without_sources_says_so() -> None:
    with pytest.raises(InputError, match="apt on this machine has no source with the component main"):
        planned(machine("debian12", archives=[]))


# Ubuntu


def test_ubuntu_has_signed_modules() -> None:
    found = planned(machine("ubuntu2404", "ada"))
    assert found.install == [
        "linux-modules-nvidia-580-server-open-generic",
        "nvidia-headless-no-dkms-580-server-open=580.*",
        "nvidia-utils-580-server=580.*",
    ]
    assert (found.source, found.signed, found.repository, found.archive, found.warnings) == ("distribution", True, "", "", [])
    assert found.hold == []  # the next kernel's modules need the libraries of their day


def test_ubuntu_proprietary_for_old_gpus() -> None:
    assert planned(machine("ubuntu2404", "pascal")).install == [
        "linux-modules-nvidia-580-server-generic",
        "nvidia-headless-no-dkms-580-server=580.*",
        "nvidia-utils-580-server=580.*",
    ]


def test_ubuntu_with_a_newer_kernel_and_modules_for_the_one_that_runs() -> None:
    assert planned(machine("ubuntu2204", "hopper")).install[:2] == [
        "linux-modules-nvidia-580-server-open-generic-hwe-22.04",
        "linux-modules-nvidia-580-server-open-6.8.0-87-generic",
    ]


@pytest.mark.parametrize(
    ("name", "kernel", "meta"),
    [
        ("ubuntu2204", "5.15.0-161-generic", "generic"),
        ("ubuntu2404", "6.14.0-35-generic", "generic-hwe-24.04"),
        ("ubuntu2404", "6.14.0-1016-aws", "aws"),
        ("ubuntu2404", "6.8.0-90-lowlatency", "lowlatency"),
        ("ubuntu2404", "6.11.0-1016-nvidia", "nvidia"),
    ],
)
def test_the_metapackage_follows_the_kernels_flavour(name: str, kernel: str, meta: str) -> None:
    assert planned(machine(name, kernel=kernel)).install[0] == f"linux-modules-nvidia-580-server-open-{meta}"


@pytest.mark.parametrize("kernel", ["6.8.0-1030-raspi", "6.18.44-fc-v657", "6.8.0-1020-kvm"])
def test_ubuntu_builds_for_kernels_without_signed_modules(kernel: str) -> None:
    found = planned(machine("ubuntu2404", kernel=kernel))
    assert not found.signed
    assert found.install[1:] == ["nvidia-dkms-580-server-open=580.*", "nvidia-headless-no-dkms-580-server-open=580.*", "nvidia-utils-580-server=580.*"]
    assert found.install[0].startswith("linux-headers-")
    assert found.hold[0] == "nvidia-dkms-580-server-open"
    assert "no signed modules for the kernel" in found.warnings[0]


def test_ubuntu_with_screens() -> None:
    assert "libnvidia-gl-580-server=580.*" in planned(machine("ubuntu2404"), compute_only=False).install


def test_ubuntus_archive_keeps_no_old_versions() -> None:
    with pytest.raises(InputError, match=r"580\.105\.08 is a whole version, but .* give '580', or set nvidia_driver_source: nvidia"):
        planned(machine("ubuntu2404"), branch="580.105.08")


@pytest.mark.parametrize(
    ("branch", "packages"),
    [
        ("580", ["nvidia-dkms-580-open=580.*", "libnvidia-compute-580=580.*", "nvidia-utils-580=580.*", "nvidia-compute-utils-580=580.*"]),
        (
            "580.105.08",
            [
                *("nvidia-dkms-580-open=580.105.08-*", "libnvidia-compute-580=580.105.08-*"),
                *("nvidia-utils-580=580.105.08-*", "nvidia-compute-utils-580=580.105.08-*"),
            ],
        ),
        ("595", ["nvidia-dkms-open=595.*", "libnvidia-compute=595.*"]),
    ],
)
def test_ubuntu_from_nvidia(branch: str, packages: list[str]) -> None:
    found = planned(machine("ubuntu2404", "ada"), source="nvidia", branch=branch)
    assert found.install == ["linux-headers-generic", "linux-headers-6.8.0-90-generic", *packages]
    assert found.repository == "ubuntu2404-x86_64"
    assert found.preferences.index("Pin: release o=Ubuntu\nPin-Priority: -1") < found.preferences.index(f"Pin: version {branch}")


# What pins, and what has to go


def test_the_branch_is_pinned_and_the_other_source_shut_out() -> None:
    records = planned(machine("debian12"), source="distribution", branch="535").preferences.split("\n\n")
    assert records[0].endswith("Pin: release o=NVIDIA\nPin-Priority: -1")
    assert records[1].endswith("Pin: version 535.*\nPin-Priority: 1001\n")
    assert "Pin: version 580.105.08-*\n" in planned(machine("debian12"), branch="580.105.08").preferences


@pytest.mark.parametrize(
    ("name", "wishes", "installed", "goes"),
    [
        ("debian12", {}, ["nvidia-kernel-dkms", "libcuda1", "nvidia-kernel-open-dkms"], ["nvidia-kernel-dkms"]),
        ("debian12", {"modules": "proprietary"}, ["nvidia-open-kernel-dkms", "nvidia-kernel-dkms"], ["nvidia-open-kernel-dkms"]),
        ("debian12", {}, ["nvidia-tesla-535-driver", "nvidia-kernel-common", "nvidia-smi"], ["nvidia-tesla-535-driver"]),
        (
            "ubuntu2404",
            {},
            [
                *("linux-modules-nvidia-570-server-open-generic", "linux-modules-nvidia-580-server-generic", "linux-modules-nvidia-580-server-open-generic"),
                *("linux-modules-nvidia-580-server-open-6.8.0-90-generic", "libnvidia-compute-570-server", "libnvidia-compute-580-server"),
                *("nvidia-utils-580", "nvidia-dkms-580-server-open", "nvidia-kernel-common-580-server", "libnvidia-egl-wayland1"),
            ],
            [
                *("linux-modules-nvidia-570-server-open-generic", "linux-modules-nvidia-580-server-generic", "libnvidia-compute-570-server"),
                *("nvidia-utils-580", "nvidia-dkms-580-server-open"),
            ],
        ),
        ("ubuntu2404", {"source": "nvidia"}, ["linux-modules-nvidia-580-open-generic", "nvidia-dkms-580-open"], ["linux-modules-nvidia-580-open-generic"]),
        ("ubuntu2404", {"source": "nvidia", "branch": "595"}, ["libnvidia-compute-580", "libnvidia-compute"], ["libnvidia-compute-580"]),
        ("rhel9", {}, ["kmod-nvidia-latest-dkms", "nvidia-driver-cuda", "kmod-nvidia-open-dkms"], ["kmod-nvidia-latest-dkms"]),
    ],
)
def test_what_another_branch_or_kind_left_goes(name: str, wishes: dict[str, str], installed: list[str], goes: list[str]) -> None:
    assert planned(machine(name, packages=dict.fromkeys(installed, "1")), **wishes).remove == goes


@pytest.mark.parametrize(
    ("package", "belongs"),
    [
        *((name, True) for name in ("nvidia-smi", "libnvidia-ml1", "libcuda1", "linux-modules-nvidia-580-server-open-generic", "kmod-nvidia-open-dkms")),
        *((name, True) for name in ("firmware-nvidia-gsp", "nvidia-persistenced", "libnvidia-compute-580", "nvidia-driver-cuda")),
        *((name, False) for name in ("nvidia-container-toolkit", "libnvidia-container1", "nvidia-cuda-toolkit", "cuda-toolkit-13-0", "libcudart12")),
        *((name, False) for name in ("linux-headers-amd64", "dkms", "docker.io", "nvidia-fs", "nvidia-cudnn")),
    ],
)
def test_what_belongs_to_the_driver(package: str, belongs: bool) -> None:
    assert bool(DRIVER_PACKAGE.match(package)) == belongs


# RHEL and its rebuilds


def test_rocky_9() -> None:
    found = planned(machine("rhel9", "ada"))
    assert found.first == ["epel-release"]
    assert found.install == ["kernel-devel-matched", "kernel-headers", "kmod-nvidia-open-dkms-3:580.*", "nvidia-driver-cuda-3:580.*"]
    assert found.repository == "rhel9-x86_64"
    assert found.stream == "[nvidia-driver]\nname=nvidia-driver\nstream=580-open\nprofiles=\nstate=enabled\n"
    assert "nvidia-driver-cuda-3:580.*-*" in found.locks
    assert (found.archive, found.preferences, found.hold) == ("", "", [])


def test_rhel_10_has_no_streams_and_no_epel_package() -> None:
    found = planned(machine("rhel10", "pascal"), branch="580.105.08")
    assert (found.first, found.stream, found.repository) == ([], "", "rhel10-x86_64")
    assert found.install[2:] == ["kmod-nvidia-latest-dkms-3:580.105.08-*", "nvidia-driver-cuda-3:580.105.08-*"]
    assert "libnvidia-ml-3:580.105.08-*" in found.locks
    assert "enable EPEL" in found.warnings[0]


def test_old_gpus_get_the_stream_of_proprietary_modules() -> None:
    assert "stream=580-dkms\n" in planned(machine("rhel9", "volta")).stream


def test_rhel_has_no_driver_of_its_own() -> None:
    with pytest.raises(InputError, match="distribution has no driver on Rocky Linux 9.6"):
        planned(machine("rhel9"), source="distribution")


# Everything else


def test_an_existing_driver_is_left_alone() -> None:
    facts = machine("debian12", "pascal", kernel="whatever")
    facts["system"].update(id="gentoo", version="", name="Gentoo")
    found = planned(facts, source="existing", branch="620")
    assert (found.source, found.install, found.remove, found.preferences) == ("existing", [], [], "")


@pytest.mark.parametrize(("system", "version"), [("debian", "11"), ("ubuntu", "22.10"), ("fedora", "43"), ("rocky", "8.10")])
def test_other_systems_are_refused(system: str, version: str) -> None:
    facts = machine("debian12")
    facts["system"].update(id=system, version=version, name=f"{system} {version}")
    with pytest.raises(InputError, match=rf"No driver can be installed on {system} {version}: this is for Debian 12 and 13.*existing"):
        planned(facts)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(InputError, match="No driver can be installed on ppc64le"):
        planned(machine("ubuntu2204", architecture="ppc64le"))


def test_every_plan_has_its_repository_in_the_lock() -> None:
    lock = yaml.safe_load((ROOT / "roles/common/vars/lock.yml").read_text())["common_lock"]["nvidia_cuda"]
    variants = lock["versions"][lock["default"]]["repository"]
    for name in ("debian12", "debian13", "ubuntu2204", "ubuntu2404", "rhel9", "rhel10"):
        entry = variants[planned(machine(name, "ada"), source="nvidia").repository]
        assert ("baseurl" in entry) == name.startswith("rhel")
        assert entry["key"].startswith(entry.get("uris") or entry["baseurl"])


def test_the_filter_takes_a_number_for_a_branch_and_names_errors() -> None:
    nvidia_driver_plan = FilterModule().filters()["nvidia_driver_plan"]
    assert nvidia_driver_plan(machine("debian12"), "nvidia", 580)["install"] == planned(machine("debian12")).install
    with pytest.raises(AnsibleFilterError, match="pascal GPUs end with branch 580"):
        nvidia_driver_plan(machine("debian12", "pascal"), branch="590")
