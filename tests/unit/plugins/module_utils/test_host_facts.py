# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import subprocess
import sys
import time
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _host_facts
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import Facts, PciDevice, clock_synchronized, gather
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot, snapshot

SILENT = Snapshot(available=False, reason="library", message="no driver")
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def look(root: Path, *paths: str) -> Facts:
    return gather(paths, lambda: SILENT, root, "x86_64")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An Ubuntu machine with one GPU that nouveau has."""
    write(
        tmp_path,
        {
            "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nVERSION_ID="24.04"\n# a comment\n\nID=ubuntu\nID_LIKE=debian\n',
            "proc/sys/kernel/osrelease": "6.8.0-60-generic\n",
            "proc/meminfo": "MemTotal:       65536000 kB\nMemFree:         1000000 kB\nMemAvailable:   60000000 kB\nHugePages_Total:       0\n",
            "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx avx2 f16c fma bmi2 sse4_2\n\nprocessor\t: 1\nflags\t\t: fpu avx\n",
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
            "sys/bus/pci/devices/0000:01:00.0/device": "0x2684\n",
        },
    )
    (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    os.symlink("../../../bus/pci/drivers/nouveau", tmp_path / "sys/bus/pci/devices/0000:01:00.0/driver")
    return tmp_path


def test_a_machine_is_read(root: Path) -> None:
    facts = look(root)
    system = facts.system
    assert (system.id, system.version, system.name, system.like) == ("ubuntu", "24.04", "Ubuntu 24.04.2 LTS", ["debian"])
    assert (system.kernel, system.architecture, system.systemd, system.container) == ("6.8.0-60-generic", "x86_64", True, False)
    assert (facts.cpus, facts.cpu_flags) == (2, ["sse4_2", "avx", "avx2", "bmi2", "f16c", "fma"])
    assert (facts.ram_total, facts.ram_available) == (65536000 * 1024, 60000000 * 1024)
    assert facts.pci == [PciDevice("0000:01:00.0", "2684", "ada", "nouveau")]
    assert (facts.nouveau, facts.nvidia_module, facts.nvidia_library, facts.nvml) == (True, "", "", SILENT)
    json.dumps(facts.as_dict())


def test_an_empty_machine_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    facts = look(tmp_path)
    assert (facts.system.id, facts.cpus, facts.ram_total, facts.pci, facts.listeners) == ("", 0, 0, [], [])
    assert not facts.system.systemd


def test_an_arm_machine_has_other_flags(root: Path) -> None:
    write(root, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd sve\n"})
    assert look(root).cpu_flags == ["asimd", "sve"]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(b"\x06\x00\x00\x00\x01", True), (b"\x06\x00\x00\x00\x00", False), (b"\x06\x00", None), (None, None)],
)
def test_secure_boot_is_the_fifth_byte(root: Path, variable: bytes | None, expected: bool | None) -> None:
    (root / SECURE_BOOT).parent.mkdir(parents=True)
    if variable is not None:
        (root / SECURE_BOOT).write_bytes(variable)
    assert look(root).system.secure_boot is expected


def test_without_efi_there_is_no_secure_boot(root: Path) -> None:
    assert look(root).system.secure_boot is False


def test_module_and_library_have_their_own_versions(root: Path) -> None:
    library = root / "usr/lib/x86_64-linux-gnu"
    write(root, {"sys/module/nvidia/version": "580.82.07\n", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05": ""})
    (library / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    facts = look(root)
    assert (facts.nvidia_module, facts.nvidia_library) == ("580.82.07", "580.95.05")


def test_what_runs_containers(root: Path) -> None:
    assert look(root).containers.programs == []
    write(root, {"usr/bin/docker": "", "usr/bin/podman": "", "usr/bin/nvidia-ctk": "", "run/docker.sock": ""})
    write(root, {"run/cdi/nvidia.yaml": 'cdiVersion: "0.5.0"\nkind: nvidia.com/gpu\n', "etc/cdi/other.json": '{"kind": "example.org/thing"}'})
    for name in ("docker", "nvidia-ctk"):
        (root / "usr/bin" / name).chmod(0o755)
    found = look(root).containers
    assert (found.programs, found.docker_socket, found.toolkit, found.cdi) == (["docker"], True, ["nvidia-ctk"], ["/run/cdi/nvidia.yaml"])


def test_a_pending_reboot_and_a_container_leave_their_marks(root: Path) -> None:
    write(root, {"run/reboot-required": "", "run/.containerenv": ""})
    system = look(root).system
    assert (system.reboot_pending, system.container) == (True, True)


def test_the_disk_of_a_path_that_is_not_there_yet(root: Path) -> None:
    write(root, {"var/lib/llm/models/chat/a.gguf": "x" * 100_000, "var/lib/llm/models/chat/parts/b.gguf": "y" * 5000})
    with (root / "var/lib/llm/models/chat/reserved").open("wb") as handle:
        handle.truncate(10**9)
    (root / "var/lib/llm/models/chat/link").symlink_to("a.gguf")
    chat, coder = look(root, "/var/lib/llm/models/chat", "/var/lib/llm/models/coder").disks
    status = os.statvfs(root)
    assert (chat.path, chat.mount, coder.mount) == ("/var/lib/llm/models/chat", "/", "/")
    assert chat.free == pytest.approx(status.f_bavail * status.f_frsize, rel=0.01)
    assert (chat.present, coder.present) == (105_000, 0)


def test_a_path_on_another_file_system_has_its_mount_point() -> None:
    assert gather(["/proc/not/there"], lambda: SILENT).disks[0].mount == "/proc"


def answering(maximum_error: int, result: int = 0) -> t.Callable[[None], SimpleNamespace]:
    def adjtimex(timex: t.Any) -> int:
        struct.pack_into("@Illl", timex, 0, 0, 0, 0, maximum_error)
        return result

    return lambda _name: SimpleNamespace(adjtimex=adjtimex)


@pytest.mark.parametrize(
    ("maximum_error", "result", "container", "expected"),
    [
        (120_000, 0, False, True),
        (120_000, 5, False, True),  # chrony without rtcsync leaves the kernel's flag alone
        (120_000, 0, True, True),
        (16_000_000, 5, False, False),
        (16_000_000, 5, True, None),
        (0, -1, False, None),
    ],
)
def test_the_kernel_knows_whether_somebody_keeps_its_clock(
    monkeypatch: pytest.MonkeyPatch, maximum_error: int, result: int, container: bool, expected: bool | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", answering(maximum_error, result))
    assert clock_synchronized(container) is expected


def test_a_libc_without_the_question_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace())
    assert clock_synchronized() is None


def test_this_machine_is_read_fast_and_without_root() -> None:
    facts = gather(["/var/lib/llm/models"], snapshot)
    assert facts.cpus == os.cpu_count()
    assert facts.ram_total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (facts.system.kernel, facts.system.architecture) == (os.uname().release, os.uname().machine)
    assert facts.system.glibc == platform.libc_ver()[1]
    begin = time.process_time()  # not the clock on the wall: tests run on busy machines
    gather(["/var/lib/llm/models"], lambda: SILENT)
    assert time.process_time() - begin < 0.2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_nobody_may_look_too(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    code = (
        "import os, sys; from pathlib import Path\n"
        f"from {_host_facts.__name__} import gather\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"facts = gather(['{hidden}/models'], lambda: Snapshot(False))\n"
        "print(os.getuid(), facts.system.kernel, facts.disks[0].present)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["65534", os.uname().release, "0"], done.stderr
