# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Machines as trees of files, with programs that answer as the real ones do."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _driver_activation
from ansible_collections.baremetal.llm.plugins.module_utils._driver_activation import NOUVEAU, ActivationError, activate
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import MODPROBE, Archive, DriverState, KernelModule, read_state, verdict
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Snapshot

KERNEL = "6.1.0-54-amd64"
OPEN_LICENCE, PROPRIETARY_LICENCE = "Dual MIT/GPL", "NVIDIA"
TARGETS = """\
/etc/apt/sources.list:1|http://mirror.example.org/debian/|bookworm|main|$(SIGNED_BY)
/etc/apt/sources.list:1|http://mirror.example.org/debian/|bookworm|main|$(SIGNED_BY)
/etc/apt/sources.list.d/d.sources:1|http://mirror.example.org/debian-security/|bookworm-security|main|/usr/share/keyrings/debian-archive-keyring.gpg
/etc/apt/sources.list.d/llm-nvidia-driver.sources:2|http://mirror.example.org/debian/|bookworm|non-free|$(SIGNED_BY)
a line of an embedded key
"""


@dataclass
class Machine:
    """A Debian 12 with one Ampere GPU, below ``root``. ``answers``: part of a command -> what it prints."""

    root: Path
    programs: set[str] = field(default_factory=lambda: {"modinfo", "modprobe", "apt-get", "dkms", "update-initramfs"})
    answers: dict[str, str] = field(default_factory=dict)
    fails: str = ""
    done: list[str] = field(default_factory=list)
    builds: bool = True

    def file(self, path: str, content: str | bytes = "") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    def module(self, version: str, licence: str = OPEN_LICENCE, kernel: str = KERNEL, path: str = "updates/dkms/nvidia.ko") -> None:
        """A kernel module; the file holds what modinfo would print of it."""
        self.file(f"lib/modules/{kernel}/{path}", f"filename:       x\nversion:        {version}\nlicense:        {licence}\nversion_magic: y\n")

    def load(self, version: str, opened: bool = True) -> None:
        self.file("sys/module/nvidia/version", f"{version}\n")
        kind = "Open Kernel Module for x86_64" if opened else "x86_64 Kernel Module"
        self.file("proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX {kind}  {version}  Release Build\n")

    def secure_boot(self, enrolled: bool) -> None:
        self.file("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\1")
        self.file("var/lib/dkms/mok.pub", b"0\x82certificate")
        self.file("sys/firmware/efi/mok-variables/MokListRT", b"header" + (b"0\x82certificate" if enrolled else b"others") + b"more")

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        line = " ".join(argv)
        if self.fails and self.fails in line:
            return 1, "", "it failed"
        for part, answer in self.answers.items():
            if part in line:
                return 0, answer, ""
        if argv[0].endswith("modinfo"):
            return 0, Path(argv[-1]).read_text(), ""
        if argv[0].startswith("/bin/"):
            self.done.append(line.removeprefix("/bin/"))
            if argv[0] == "/bin/dkms" and self.builds:
                self.module("535.309.01", PROPRIETARY_LICENCE, argv[-1])
            if argv[0] in ("/bin/update-initramfs", "/bin/dracut"):
                for image in (self.root / "boot").iterdir():
                    image.touch()
        return 0, "", ""

    def find(self, program: str) -> str:
        return f"/bin/{program}" if program in self.programs else ""

    def state(self) -> DriverState:
        return read_state(self.run, self.find, self.root, "x86_64")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    found.file("etc/os-release", 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    found.file("proc/sys/kernel/osrelease", f"{KERNEL}\n")
    for name, value in {"vendor": "0x10de", "class": "0x030000", "device": "0x2204"}.items():
        found.file(f"sys/bus/pci/devices/0000:01:00.0/{name}", f"{value}\n")
    found.file(f"lib/modules/{KERNEL}/kernel/drivers/gpu/drm/nouveau/nouveau.ko")
    found.file(f"lib/modules/{KERNEL}/updates/dkms/nvidia-uvm.ko")
    return found


def nvml(*addresses: str, driver: str = "580.105.08") -> Snapshot:
    gpus = [t.cast(Gpu, type("Gpu", (), {"pci_address": address})()) for address in addresses]
    return Snapshot(available=True, driver=driver, gpus=gpus)


# What is seen


def test_a_fresh_machine(machine: Machine) -> None:
    state = machine.state()
    assert [(gpu.address, gpu.generation) for gpu in state.gpus] == [("0000:01:00.0", "ampere")]
    assert (state.loaded, state.built, state.unbuilt, state.library, state.packages, state.managed) == (None, {}, [], "", {}, False)
    assert (state.system.kernel, state.system.secure_boot, state.enrolled, state.stale) == (KERNEL, False, False, [])


def test_the_module_of_each_kernel_and_what_is_loaded(machine: Machine) -> None:
    machine.module("580.105.08")
    machine.module("580.95.05", kernel="6.1.0-50-amd64", path="kernel/nvidia-580srv-open/nvidia.ko")
    machine.module("535.309.01", PROPRIETARY_LICENCE, "6.1.0-40-amd64", "updates/dkms/nvidia-current.ko.xz")
    machine.file("lib/modules/6.1.0-60-amd64/build/Makefile")
    machine.file("lib/modules/6.1.0-60-rt-amd64/build/Makefile")
    machine.file("lib/modules/6.1.0-61-amd64/modules.dep")
    machine.load("580.105.08")
    state = machine.state()
    assert state.built == {
        KERNEL: KernelModule("580.105.08", True, True),
        "6.1.0-50-amd64": KernelModule("580.95.05", True, False),
        "6.1.0-40-amd64": KernelModule("535.309.01", False, True),
    }
    assert state.unbuilt == ["6.1.0-60-amd64"]  # the driver does not build for real-time kernels
    assert state.loaded == KernelModule("580.105.08", True)


def test_of_two_modules_the_one_counts_that_the_kernel_takes(machine: Machine) -> None:
    machine.module("570.1", path="kernel/nvidia-570/nvidia.ko")
    machine.module("580.1", path="updates/dkms/nvidia.ko")
    assert machine.state().built[KERNEL].version == "580.1"


def test_packages_holds_and_sources_as_apt_has_them(machine: Machine) -> None:
    machine.answers = {
        "dpkg-query": "installed nvidia-smi 535.309.01-0\nconfig-files libcuda1 535.1\ninstalled nvidia-container-toolkit 1.20\ninstalled libc6 2\n",
        "showhold": "nvidia-smi\n",
        f"pkgnames linux-headers-{KERNEL}": f"linux-headers-{KERNEL}\nlinux-headers-{KERNEL}-dbg\n",
        "pkgnames linux-modules-nvidia-": f"linux-modules-nvidia-580-{KERNEL}\nlinux-modules-nvidia-580-generic\n",
        "indextargets": TARGETS,
    }
    state = machine.state()
    assert (state.packages, state.held) == ({"nvidia-smi": "535.309.01-0"}, ["nvidia-smi"])
    assert state.available == [f"linux-headers-{KERNEL}", f"linux-modules-nvidia-580-{KERNEL}"]
    assert state.archives == [
        Archive("http://mirror.example.org/debian/", "bookworm", "main", ""),
        Archive("http://mirror.example.org/debian-security/", "bookworm-security", "main", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    ]


def test_packages_as_rpm_has_them(machine: Machine) -> None:
    machine.programs -= {"apt-get"}
    machine.answers = {"rpm": "nvidia-driver-cuda 580.105.08-1.el9\nbash 5-1\nkmod-nvidia-open-dkms 580.105.08-1.el9\n"}
    assert machine.state().packages == {"kmod-nvidia-open-dkms": "580.105.08-1.el9", "nvidia-driver-cuda": "580.105.08-1.el9"}


@pytest.mark.parametrize(("enrolled", "certificate"), [(True, True), (False, True), (False, False)])
def test_secure_boot_and_the_key(machine: Machine, enrolled: bool, certificate: bool) -> None:
    machine.secure_boot(enrolled)
    if not certificate:
        (machine.root / "var/lib/dkms/mok.pub").unlink()
    assert (machine.state().system.secure_boot, machine.state().enrolled) == (True, enrolled)


# What it means


@pytest.fixture
def working(machine: Machine) -> Machine:
    machine.module("580.105.08")
    machine.load("580.105.08")
    library = machine.file("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.105.08")
    library.with_name("libnvidia-ml.so.1").symlink_to(library.name)
    return machine


def test_a_driver_that_works(working: Machine) -> None:
    found = verdict(working.state(), nvml("0000:01:00.0"))
    assert (found.pending, found.problems, found.reboot) == ([], [], False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda machine: machine.module("580.126.09"), "the module 580.105.08 is loaded and 580.126.09 is installed"),
        (lambda machine: machine.module("580.105.08", PROPRIETARY_LICENCE), "the open module is loaded and the proprietary one is installed"),
        (lambda machine: machine.file("sys/module/nouveau/version"), "nouveau, which cannot compute, holds the GPU"),
        (lambda machine: machine.file("proc/sys/kernel/osrelease", "6.18.1-other\n"), ""),
    ],
)
def test_what_a_reboot_mends(working: Machine, change: t.Callable[[Machine], t.Any], says: str) -> None:
    change(working)
    found = verdict(working.state(), nvml("0000:01:00.0"))
    assert found.reboot == bool(says)
    assert found.problems == []
    assert says in " ".join(found.pending)


def test_a_kernel_without_a_module_names_those_that_have_one(machine: Machine) -> None:
    machine.module("580.105.08", kernel="6.1.0-60-amd64")
    found = verdict(machine.state(), Snapshot(available=False, reason="driver", message="x"))
    assert found.pending == [f"the running kernel {KERNEL} has no driver module; there is one for 6.1.0-60-amd64 (580.105.08). Boot that kernel."]
    assert (found.problems, found.reboot) == ([], True)


@pytest.mark.parametrize("reason", ["driver", "mismatch"])
def test_a_loaded_module_that_nvml_does_not_reach_needs_a_reboot(working: Machine, reason: str) -> None:
    found = verdict(working.state(), Snapshot(available=False, reason=reason, message="NVML says so."))
    assert (found.pending, found.reboot) == (["NVML says so."], True)


def test_a_lost_gpu_is_named_and_one_of_a_virtual_machine_is_not_missed(working: Machine) -> None:
    for address in ("0000:02:00.0", "0000:03:00.0"):
        for name, value in {"vendor": "0x10de", "class": "0x030200", "device": "0x2684"}.items():
            working.file(f"sys/bus/pci/devices/{address}/{name}", value)
    (working.root / "sys/bus/pci/devices/0000:03:00.0/driver").symlink_to("../../../bus/pci/drivers/vfio-pci")
    found = verdict(working.state(), nvml("0000:01:00.0"))
    assert len(found.problems) == 1
    assert "the GPU at 0000:02:00.0 (PCI device 2684, ada) is on the bus but the driver does not see it" in found.problems[0]


@pytest.mark.parametrize(
    ("change", "snapshot", "says"),
    [
        (lambda machine: (machine.load("590.1"), machine.module("590.1")), nvml(), "the kernel module is 590.1 and the libraries are 580.105.08"),
        (lambda _machine: None, Snapshot(available=False, reason="library", message="libnvidia-ml.so.1 is not there."), "libnvidia-ml.so.1 is not there."),
        (lambda machine: (machine.root / "sys/module/nvidia/version").unlink(), nvml(), f"the module for {KERNEL} is there but not loaded"),
    ],
)
def test_what_is_broken(working: Machine, change: t.Callable[[Machine], t.Any], snapshot: Snapshot, says: str) -> None:
    change(working)
    found = verdict(working.state(), snapshot)
    assert len(found.problems) == 1
    assert says in found.problems[0]
    assert (found.pending, found.reboot) == ([], False)


def test_a_build_that_failed_is_a_problem(machine: Machine) -> None:
    found = verdict(machine.state(), Snapshot(available=False))
    assert "no kernel has a driver module" in found.problems[0]
    assert "make.log" in found.problems[0]


@pytest.mark.parametrize("enrolled", [True, False])
def test_secure_boot_is_for_somebody_at_the_console(machine: Machine, enrolled: bool) -> None:
    machine.module("580.105.08")
    machine.secure_boot(enrolled)
    state = machine.state()
    assert state.loadable == enrolled
    found = verdict(state, Snapshot(available=False))
    assert found.reboot is False
    if not enrolled:
        assert "mokutil --import /var/lib/dkms/mok.pub" in found.pending[0]
        assert "console" in found.pending[0]
        assert found.problems == []


def test_signed_modules_of_the_distribution_need_no_key(machine: Machine) -> None:
    machine.module("580.95.05", path="kernel/nvidia-580srv-open/nvidia.ko")
    machine.secure_boot(enrolled=False)
    assert machine.state().loadable


# What is done


@pytest.fixture
def act(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., dict[str, str]]:
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)  # the tests need not be root
    monkeypatch.setattr(_driver_activation, "NOUVEAU", replace(NOUVEAU, path=machine.root / MODPROBE))
    machine.answers = {"dpkg-query": "installed nvidia-kernel-dkms 535.309.01-0\n"}

    def run(block_nouveau: bool = False, check: bool = False) -> dict[str, str]:
        return activate(machine.state, machine.run, machine.find, block_nouveau, check).as_dict()

    return run


def test_nothing_to_do(machine: Machine, act: t.Callable[..., dict[str, str]]) -> None:
    machine.module("535.309.01")
    machine.load("535.309.01")
    assert act() == {"before": "", "after": ""}
    assert machine.done == []


def test_every_kernel_with_headers_gets_its_module(machine: Machine, act: t.Callable[..., dict[str, str]]) -> None:
    for kernel in (KERNEL, "6.1.0-60-amd64"):
        machine.file(f"lib/modules/{kernel}/build/Makefile")
    assert act(check=True)["after"].count("built by DKMS") == 2
    assert machine.done == []
    act()
    # and the one that was built for the running kernel is loaded
    assert machine.done == ["dkms autoinstall --kernelver 6.1.0-54-amd64", "dkms autoinstall --kernelver 6.1.0-60-amd64", "modprobe nvidia"]
    machine.done.clear()
    machine.load("535.309.01", opened=False)
    assert act()["after"] == ""
    assert machine.done == []


def test_a_build_that_fails_says_where_the_errors_are(machine: Machine, act: t.Callable[..., dict[str, str]]) -> None:
    machine.file(f"lib/modules/{KERNEL}/build/Makefile")
    machine.fails = "autoinstall"
    with pytest.raises(ActivationError, match=f"cannot build the driver for the kernel {KERNEL}: it failed"):
        act()
    machine.fails, machine.builds = "", False
    with pytest.raises(ActivationError, match=f"DKMS built no driver module for {KERNEL}, although the headers are there"):
        act()


def test_without_a_driver_of_dkms_nothing_is_built(machine: Machine, act: t.Callable[..., dict[str, str]]) -> None:
    machine.file(f"lib/modules/{KERNEL}/build/Makefile")
    machine.answers = {"dpkg-query": "installed nvidia-utils-580-server 580.1\n"}
    assert act()["after"] == ""
    assert machine.done == []


@pytest.mark.parametrize("tool", ["update-initramfs", "dracut"])
def test_boot_images_without_nouveau(machine: Machine, act: t.Callable[..., dict[str, str]], tool: str) -> None:
    machine.programs = machine.programs - {"update-initramfs"} | {tool}
    for image in ("initrd.img-6.1.0-54-amd64", "initramfs-6.1.0-54-amd64.img", "initramfs-0-rescue-1234.img", "initramfs-5kdump.img"):
        os.utime(machine.file(f"boot/{image}"), (1, 1))
    planned = act(block_nouveau=True, check=True)
    assert "blacklist nouveau\n" in planned["after"]
    assert not (machine.root / MODPROBE).exists()
    done = act(block_nouveau=True)
    assert done["after"].count("renewed") == 2
    assert [line.split()[0] for line in machine.done] == [tool]
    assert "options nouveau modeset=0\n" in (machine.root / MODPROBE).read_text()
    assert machine.state().stale == []
    machine.done.clear()
    assert "boot" not in act(block_nouveau=True)["after"]
    assert machine.done == []


def test_an_interrupted_renewal_is_made_up_for(machine: Machine, act: t.Callable[..., dict[str, str]]) -> None:
    image = machine.file("boot/initrd.img-6.1.0-54-amd64")
    os.utime(image, (1, 1))
    machine.fails = "update-initramfs"
    with pytest.raises(ActivationError, match="update-initramfs cannot renew the boot images: it failed"):
        act(block_nouveau=True)
    machine.fails = ""
    assert act(block_nouveau=True)["after"].endswith("/boot/initrd.img-6.1.0-54-amd64: renewed\n")


@pytest.mark.parametrize("hindrance", ["nouveau", "secure boot", "loaded", "no modprobe"])
def test_the_module_is_loaded_only_where_that_can_work(machine: Machine, act: t.Callable[..., dict[str, str]], hindrance: str) -> None:
    machine.module("535.309.01")
    if hindrance == "nouveau":
        machine.file("sys/module/nouveau/version")
    elif hindrance == "secure boot":
        machine.secure_boot(enrolled=False)
    elif hindrance == "loaded":
        machine.load("535.300.01")
    else:
        machine.programs -= {"modprobe"}
    assert act()["after"] == ""
    assert machine.done == []
