# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Boards and hosts, and what a preflight says of them."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._host_facts import Containers, Disk, Facts, PciDevice, System
from ansible_collections.baremetal.llm.plugins.module_utils._host_findings import (
    DiskWant,
    EngineWant,
    Finding,
    PortWant,
    Wants,
    findings,
    messages,
    table,
)
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Gpu, Memory, Snapshot

GIB = 2**30
FLAGS = ["sse4_2", "avx", "avx2", "avx512f", "bmi2", "f16c", "fma"]
DEVICES = {"pascal": "1b06", "turing": "1e07", "ampere": "2204", "ada": "2684", "hopper": "2330", "blackwell": "2b85"}
NO_DRIVER = Snapshot(False, "library", "libnvidia-ml.so.1 is not there: no NVIDIA driver is installed.")

DEBIAN = System(
    id="debian",
    version="12",
    name="Debian GNU/Linux 12 (bookworm)",
    like=[],
    kernel="6.1.0-40-amd64",
    architecture="x86_64",
    glibc="2.36",
    systemd=True,
    container=False,
    reboot_pending=False,
    clock_synchronized=True,
    secure_boot=False,
)
UBUNTU = replace(DEBIAN, id="ubuntu", version="24.04", name="Ubuntu 24.04.3 LTS", like=["debian"], glibc="2.39")
# What inventories/single wants of its host, with a llama.cpp that is built there: Debian 12 is too old for upstream's CUDA build.
LLAMA = Wants(engines=(EngineWant("llama_router", "source"),), gpus=(0,), ports=(PortWant(8081, "llm-llama-router"),))
VLLM = Wants(engines=(EngineWant("vllm", backend="cuda"),), gpus=(0,))
ON_CPU = Wants(engines=(EngineWant("llama_router"),))
IF_ANY = Wants(engines=(EngineWant("llama_router", "source"),))  # takes a GPU if there is one


def card(index: int = 0, name: str = "NVIDIA GeForce RTX 4090", generation: str = "ada", capability: str = "8.9", vram: int = 24, **more: t.Any) -> Gpu:
    memory = Memory(vram * GIB, GIB // 2, 0, vram * GIB - GIB // 2)
    values = {"memory": memory, "mig": False, "display": False, "uuid": f"GPU-{index}", **more}
    return Gpu(index, name=name, generation=generation, compute_capability=capability, pci_address=address(index), **values)


def address(index: int) -> str:
    return f"0000:{index + 1:02x}:00.0"


def on_bus(generation: str, count: int = 1, driver: str = "nvidia") -> list[PciDevice]:
    return [PciDevice(address(index), DEVICES[generation], generation, driver) for index in range(count)]


def answer(*gpus: Gpu, driver: str = "580.105.08") -> Snapshot:
    return Snapshot(True, driver=driver, nvml=f"13.{driver}", cuda="13.0", gpus=list(gpus))


def host(system: System = DEBIAN, nvml: Snapshot = NO_DRIVER, pci: t.Sequence[PciDevice] = (), **more: t.Any) -> Facts:
    driver = nvml.driver or ""
    facts = Facts(
        system=system,
        cpus=16,
        cpu_flags=FLAGS,
        ram_total=64 * GIB,
        ram_available=60 * GIB,
        disks=[],
        pci=list(pci),
        nvml=nvml,
        nouveau=False,
        nvidia_module=driver,
        nvidia_library=driver,
        containers=Containers([], False, [], []),
        listeners=[],
    )
    return replace(facts, **more)


def rtx4090(system: System = DEBIAN, **more: t.Any) -> Facts:
    return host(system, answer(card()), on_bus("ada"), **more)


def h100(count: int = 8, **more: t.Any) -> list[Gpu]:
    return [card(index, "NVIDIA H100 80GB HBM3", "hopper", "9.0", 80, **more) for index in range(count)]


def problems(facts: Facts, wants: Wants) -> dict[tuple[str, str], str]:
    """Failures and warnings by severity and check."""
    found = [finding for finding in findings(facts, wants) if finding.severity in ("failure", "warning")]
    for finding in found:
        assert re.search(r": .+\.$", finding.message), f"a finding has its remedy after a colon: {finding.message}"
    return {(finding.severity, finding.check): finding.message for finding in found}


def lines(facts: Facts, wants: Wants) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings(facts, wants)}


@pytest.mark.parametrize(
    ("facts", "wants"),
    [
        (rtx4090(), LLAMA),
        (rtx4090(), VLLM),
        (rtx4090(UBUNTU), replace(LLAMA, engines=(EngineWant("llama_router", "archive"),))),
        (host(nvml=answer(card(0, "A", "ampere", "8.6"), card(1, "A", "ampere", "8.6")), pci=on_bus("ampere", 2)), replace(VLLM, gpus=(0, 1))),
        (host(nvml=answer(*h100()), pci=on_bus("hopper", 8)), replace(VLLM, gpus=tuple(range(8)))),
        (host(nvml=answer(card(0, "NVIDIA GeForce RTX 3050 Ti Laptop GPU", "ampere", "8.6", 4, power=None)), pci=on_bus("ampere")), LLAMA),
        (host(), ON_CPU),
        (host(), Wants()),
    ],
    ids=["4090", "4090-vllm", "4090-archive", "3090-pair", "8xH100", "laptop", "cpu", "gateway"],
)
def test_what_fits_has_no_findings(facts: Facts, wants: Wants) -> None:
    assert problems(facts, wants) == {}


def test_without_a_gpu_and_without_a_wish_for_one_nothing_is_said_of_gpus() -> None:
    checks = {finding.check for finding in findings(host(), ON_CPU)}
    assert checks == {"os", "architecture", "systemd", "cpu", "ram", "clock"}


def test_a_gpu_that_nothing_uses_may_be_in_any_state() -> None:
    facts = host(pci=on_bus("pascal", driver="nouveau"), nouveau=True, system=replace(DEBIAN, secure_boot=True))
    assert problems(facts, Wants(engines=(EngineWant("llama_router", "source", "cpu"),))) == {}


def test_the_gpus_are_listed() -> None:
    assert lines(rtx4090(), LLAMA)["gpus"].message == "0: NVIDIA GeForce RTX 4090, 24.0 GiB"
    assert lines(rtx4090(), LLAMA)["driver"].message == "580.105.08, CUDA 13.0"


def test_a_gpu_is_needed_but_there_is_none() -> None:
    found = problems(host(), VLLM)
    assert list(found) == [("failure", "gpus")]
    assert "none is on the PCI bus" in found["failure", "gpus"]
    assert ("failure", "gpus") in problems(host(), Wants(engines=(EngineWant("llama_router", "source", "cuda"),)))


def test_the_placement_names_a_gpu_too_many() -> None:
    two = host(nvml=answer(card(0), card(1)), pci=on_bus("ada", 2))
    found = problems(two, replace(VLLM, gpus=(1, 2)))
    assert found == {("failure", "gpus"): "llm_serve uses GPU 2, but this host has 2 GPUs, 0 to 1: correct gpus in its llm_serve."}
    assert "1 GPU, 0:" in problems(rtx4090(), replace(VLLM, gpus=(1,)))["failure", "gpus"]


def test_a_gpu_of_a_virtual_machine_does_not_count() -> None:
    pci = [*on_bus("ada", 1), PciDevice(address(1), DEVICES["ada"], "ada", "vfio-pci")]
    facts = host(nvml=answer(card(0)), pci=pci)
    assert problems(facts, VLLM) == {}
    assert ("failure", "gpus") in problems(facts, replace(VLLM, gpus=(1,)))


@pytest.mark.parametrize(
    ("wants", "severity", "remedy"),
    [
        (VLLM, "failure", "install branch 580, or let role nvidia_driver do it."),
        (replace(VLLM, driver_managed=True), "warning", "role nvidia_driver installs and loads it."),
        (IF_ANY, "warning", "install it, or set the backend to cpu."),
    ],
    ids=["needed", "managed", "auto"],
)
def test_no_driver(wants: Wants, severity: str, remedy: str) -> None:
    found = problems(host(pci=on_bus("ada", driver="")), wants)
    assert list(found) == [(severity, "driver")]
    assert found[severity, "driver"].endswith(remedy)


def test_an_installed_driver_that_is_not_loaded_is_told_from_none() -> None:
    driver = Snapshot(False, "driver", "The NVIDIA kernel module is not loaded: load it, or reboot after an installation.")
    found = problems(host(pci=on_bus("ada", driver=""), nvml=driver, nvidia_library="580.95.05"), VLLM)
    assert "not loaded (its libraries are there, 580.95.05)" in found["failure", "driver"]


def test_a_driver_that_does_not_answer_says_why() -> None:
    broken = Snapshot(False, "error", "NVML cannot be initialised: Insufficient Permissions.")
    found = problems(host(pci=on_bus("ada"), nvml=broken, nvidia_module="580.95.05"), VLLM)
    assert list(found) == [("failure", "driver")]
    assert "580.95.05 is loaded, but does not answer. NVML cannot be initialised: Insufficient Permissions." in found["failure", "driver"]


@pytest.mark.parametrize(
    ("nvml", "library"),
    [
        (Snapshot(False, "mismatch", "different versions"), "580.105.08"),
        (Snapshot(False, "mismatch", "different versions"), ""),
        (Snapshot(False, "python", "no nvidia-ml-py"), "580.105.08"),
    ],
)
def test_a_driver_that_was_replaced_without_a_reboot(nvml: Snapshot, library: str) -> None:
    facts = host(pci=on_bus("ada"), nvml=nvml, nvidia_module="580.82.07", nvidia_library=library)
    assert "reboot" in problems(facts, VLLM)["failure", "driver"]
    assert "reboot" in problems(facts, replace(VLLM, driver_managed=True))["warning", "driver"]


def test_before_the_tools_are_there_the_kernel_module_tells_the_branch() -> None:
    nvml = Snapshot(False, "python", "no nvidia-ml-py")
    new = host(pci=on_bus("ada"), nvml=nvml, nvidia_module="580.95.05", nvidia_library="580.95.05")
    old = replace(new, nvidia_module="550.54.14", nvidia_library="550.54.14")
    assert problems(new, VLLM) == {}
    assert lines(new, VLLM)["vram"].severity == "unknown"
    assert "550.54.14 is too old for vllm" in problems(old, VLLM)["failure", "driver"]
    assert "vram" not in lines(replace(new, nvidia_module="", nvidia_library=""), VLLM), "that there is no driver says enough"


def test_an_old_branch_is_a_failure_where_the_engine_needs_a_newer_one_and_a_warning_elsewhere() -> None:
    old = host(nvml=answer(card(), driver="535.247.01"), pci=on_bus("ada"))
    found = problems(old, VLLM)
    assert list(found) == [("failure", "driver")]
    assert "535.247.01 is too old for vllm, which needs 580, because CUDA 13 needs it" in found["failure", "driver"]
    assert list(problems(old, replace(VLLM, driver_managed=True))) == [("warning", "driver")]
    assert "branch 535 gets no more corrections, its long-term support ended in June 2026" in problems(old, LLAMA)["warning", "driver"]


@pytest.mark.parametrize("branch", ["470", "525", "550", "565", "570", "575"])
def test_branches_that_have_ended(branch: str) -> None:
    assert ("warning", "driver") in problems(host(nvml=answer(card(), driver=f"{branch}.10"), pci=on_bus("ada")), LLAMA)


@pytest.mark.parametrize("branch", ["580", "590", "595", "610"])
def test_branches_that_are_kept(branch: str) -> None:
    assert problems(host(nvml=answer(card(), driver=f"{branch}.10.02"), pci=on_bus("ada")), VLLM) == {}


def test_pascal_ends_with_580() -> None:
    wants = replace(LLAMA, gpus=())
    wants = replace(wants, engines=(EngineWant("llama_router", "source", "cuda"),))
    facts = host(nvml=Snapshot(True, driver="590.48.01", cuda="13.1"), pci=on_bus("pascal"), nvidia_module="590.48.01", nvidia_library="590.48.01")
    found = problems(facts, wants)
    assert list(found) == [("failure", "driver")], "that NVML does not list it follows from this"
    assert "590.48.01 does not drive every GPU: pascal GPUs end with branch 580" in found["failure", "driver"]
    old = host(nvml=answer(card(generation="pascal", capability="6.1")), pci=on_bus("pascal"))
    assert problems(old, wants) == {}


def test_blackwell_begins_with_570() -> None:
    facts = host(pci=on_bus("blackwell"), nvidia_module="550.1", nvidia_library="550.1", nvml=Snapshot(True, driver="550.1"))
    assert "blackwell GPUs begin with branch 570" in problems(facts, LLAMA)["failure", "driver"]


def test_a_gpu_that_is_too_old_for_the_engine() -> None:
    pascal = host(nvml=answer(card(name="GTX 1080 Ti", generation="pascal", capability="6.1")), pci=on_bus("pascal"), system=UBUNTU)
    assert "GPU 0 (GTX 1080 Ti) has compute capability 6.1, but vllm needs 7.5" in problems(pascal, VLLM)["failure", "capability"]
    archive = problems(pascal, replace(LLAMA, engines=(EngineWant("llama_router", "archive"),)))["failure", "capability"]
    assert archive.endswith("set llama_router_method to source and install the CUDA 12 toolkit, or llama_router_backend to cpu.")
    without_driver = host(pci=on_bus("pascal", driver=""))
    assert f"the GPU at {address(0)} (pascal) has compute capability 6.2, but vllm" in problems(without_driver, VLLM)["failure", "capability"]
    assert list(problems(replace(pascal, cpu_flags=FLAGS), ON_CPU)) == [("warning", "capability")], "it can compute without"
    turing = host(nvml=answer(card(generation="turing", capability="7.5")), pci=on_bus("turing"))
    assert problems(turing, VLLM) == {}


def test_only_the_gpus_of_the_placement_have_to_fit() -> None:
    mixed = host(nvml=answer(card(0, "1080", "pascal", "6.1"), card(1)), pci=[*on_bus("pascal", 1), PciDevice(address(1), "2684", "ada", "nvidia")])
    assert problems(mixed, replace(VLLM, gpus=(1,))) == {}
    assert ("failure", "capability") in problems(mixed, replace(VLLM, gpus=(0, 1)))


def test_a_gpu_that_has_fallen_off_the_bus() -> None:
    silent = Gpu(1, unavailable={"gpu": "GPU is lost"})
    facts = host(nvml=answer(card(0), silent), pci=on_bus("ada", 2))
    assert problems(facts, replace(VLLM, gpus=(0, 1)))["failure", "lost"].startswith("GPU 1 does not answer (GPU is lost): reboot")
    assert list(problems(facts, VLLM)) == [("warning", "lost")], "the placement does not use it"


def test_a_gpu_that_the_driver_does_not_have() -> None:
    facts = host(nvml=answer(*h100(7)), pci=on_bus("hopper", 8))
    found = problems(facts, replace(VLLM, gpus=tuple(range(8))))
    assert list(found) == [("failure", "lost")]
    assert f"the GPU at {address(7)} is on the PCI bus, but the driver does not have it" in found["failure", "lost"]
    assert list(problems(facts, IF_ANY)) == [("warning", "lost")]


def test_a_sliced_gpu_is_not_a_whole_one() -> None:
    facts = host(nvml=answer(*h100(1, mig=True)), pci=on_bus("hopper"))
    assert "'nvidia-smi -i 0 -mig 0' makes it whole" in problems(facts, VLLM)["failure", "mig"]
    assert list(problems(facts, Wants(engines=(EngineWant("vllm", backend="cuda"),)))) == [("warning", "mig")]


def test_a_screen_and_unknown_vram() -> None:
    facts = host(nvml=answer(card(0, display=True, memory=None, unavailable={"memory": "Not Supported"})), pci=on_bus("ada"))
    found = problems(facts, VLLM)
    assert set(found) == {("warning", "display"), ("warning", "vram")}
    assert "(Not Supported)" in found["warning", "vram"]


def test_nouveau_is_in_the_way() -> None:
    facts = host(pci=on_bus("ada", driver="nouveau"), nouveau=True)
    assert "blacklist nouveau" in problems(facts, VLLM)["failure", "nouveau"]
    assert "role nvidia_driver keeps it from loading" in problems(facts, replace(VLLM, driver_managed=True))["warning", "nouveau"]
    assert ("warning", "nouveau") not in problems(rtx4090(nouveau=True), VLLM), "it has another card"


@pytest.mark.parametrize(
    ("system", "key"),
    [
        (UBUNTU, "/var/lib/shim-signed/mok/MOK.der"),
        (DEBIAN, "/var/lib/dkms/mok.pub"),
        (replace(DEBIAN, id="rocky", version="9.6"), "/var/lib/dkms/mok.pub"),
    ],
    ids=["ubuntu", "debian", "rocky"],
)
def test_secure_boot_is_told_how_to_stay_on(system: System, key: str) -> None:
    on = host(replace(system, secure_boot=True), pci=on_bus("ada", driver=""))
    message = problems(on, replace(VLLM, driver_managed=True))["warning", "secure_boot"]
    assert f"mokutil --import {key}" in message
    assert "console" in message
    assert ("linux-modules-nvidia-580-server-open-generic" in message) == (system is UBUNTU)
    assert not re.search(r"disabl|switch|turn .*off", message)
    assert problems(rtx4090(replace(system, secure_boot=True)), VLLM) == {}, "the driver is loaded, so its module is signed"


def test_secure_boot_that_cannot_be_read_is_not_known() -> None:
    facts = host(replace(DEBIAN, secure_boot=None), pci=on_bus("ada", driver=""))
    assert lines(facts, VLLM)["secure_boot"].severity == "unknown"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (replace(DEBIAN, version="11"), "failure"),
        (replace(DEBIAN, version="13"), None),
        (replace(DEBIAN, version="14"), "warning"),
        (replace(DEBIAN, version=""), "warning"),
        (replace(UBUNTU, version="20.04"), "failure"),
        (replace(UBUNTU, version="22.04"), None),
        (replace(UBUNTU, version="23.10"), "warning"),
        (replace(DEBIAN, id="rhel", version="9.6"), None),
        (replace(DEBIAN, id="almalinux", version="10.0"), None),
        (replace(DEBIAN, id="rocky", version="8.10"), "failure"),
        (replace(UBUNTU, id="linuxmint", version="22", like=["ubuntu", "debian"]), "warning"),
        (replace(DEBIAN, id="arch", version="", name="Arch Linux"), "failure"),
        (replace(DEBIAN, id="", version="", name=""), "failure"),
    ],
    ids=lambda value: f"{value.id}-{value.version}" if isinstance(value, System) else str(value),
)
def test_operating_systems(system: System, expected: str | None) -> None:
    assert [key[0] for key in problems(host(system), ON_CPU) if key[1] == "os"] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("architecture", "engine", "expected"),
    [
        ("aarch64", EngineWant("llama_router"), False),
        ("aarch64", EngineWant("vllm", backend="cuda"), False),
        ("aarch64", EngineWant("llama_router", "archive", "cuda"), True),
        ("riscv64", EngineWant("llama_router", "source"), True),
    ],
)
def test_architectures(architecture: str, engine: EngineWant, expected: bool) -> None:
    facts = host(replace(UBUNTU, architecture=architecture), answer(card()), on_bus("ada") if engine.backend == "cuda" else [], cpu_flags=["asimd"])
    facts = facts if engine.backend == "cuda" else replace(facts, nvml=NO_DRIVER)
    assert (("failure", "architecture") in problems(facts, Wants(engines=(engine,)))) == expected


def test_upstreams_builds_want_a_new_c_library() -> None:
    archive = replace(LLAMA, engines=(EngineWant("llama_router"),))
    message = problems(rtx4090(), archive)["failure", "glibc"]
    assert message.startswith("this system has 2.36, but llama_router (archive) needs 2.39, because upstream's CUDA build is made on Ubuntu 24.04:")
    assert "set llama_router_method to source" in message
    assert problems(host(), ON_CPU) == {}, "the build for processors is older"
    assert ("failure", "glibc") in problems(host(replace(DEBIAN, id="rocky", version="9.6", glibc="2.34")), ON_CPU)


def test_processors() -> None:
    old = host(cpu_flags=["sse4_2", "avx"])
    assert "lacks avx2 bmi2 f16c fma: llama_router would end" in problems(old, Wants(engines=(EngineWant("llama_router", "source"),)))["failure", "cpu"]
    assert "lacks avx2 f16c fma" in problems(old, ON_CPU)["warning", "cpu"]
    assert "lacks avx512f" in problems(host(cpu_flags=["avx2"]), Wants(engines=(EngineWant("vllm", backend="cpu"),)))["warning", "cpu"]
    assert problems(old, Wants()) == {}


def test_a_method_that_an_engine_does_not_have() -> None:
    with pytest.raises(InputError, match="vllm cannot be installed by the method 'archive' .there is: an empty one, container"):
        findings(host(), Wants(engines=(EngineWant("vllm", "archive"),)))
    with pytest.raises(InputError, match="by the method 'wheel' .there is: archive, source, package, container"):
        findings(host(), Wants(engines=(EngineWant("llama_router", "wheel"),)))


def test_systemd_memory_clock_and_reboot() -> None:
    system = replace(DEBIAN, systemd=False, clock_synchronized=False, reboot_pending=True)
    found = problems(host(system, ram_total=16 * GIB), Wants(ram=32 * GIB))
    assert set(found) == {("failure", "systemd"), ("failure", "ram"), ("warning", "clock"), ("warning", "reboot")}
    assert found["failure", "ram"].startswith("16.0 GiB, but 32.0 GiB are needed")
    assert problems(host(ram_total=32 * GIB), Wants(ram=32 * GIB)) == {}


def test_in_a_container_the_clock_is_not_known() -> None:
    facts = host(replace(DEBIAN, container=True, clock_synchronized=None))
    assert lines(facts, Wants())["clock"] == Finding("unknown", "clock", "is not known to be kept in time, this is a container")


def test_what_is_already_there_needs_no_room() -> None:
    models = [Disk("/m/chat", "/m", 10 * GIB, 4 * GIB), Disk("/m/coder", "/m", 10 * GIB, 0), Disk("/v", "/", GIB, 0)]
    fits = Wants(disk=(DiskWant("/m/chat", 5 * GIB), DiskWant("/m/coder", 9 * GIB), DiskWant("/v")))
    short = Wants(disk=(DiskWant("/m/chat", 5 * GIB), DiskWant("/m/coder", 10 * GIB), DiskWant("/v")))
    assert problems(host(disks=models), fits) == {}
    assert problems(host(disks=models), short) == {
        ("failure", "disk"): "/m has 10.0 GiB free, but 11.0 GiB more are to come into /m/chat, /m/coder: make room, or mount a larger disk there."
    }


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        (Listener(8081, "llama-server", 40, "llm-llama-router"), None),
        (Listener(8080, "java", 41, "tomcat"), None),
        (Listener(8081, "java", 41, "tomcat"), ("failure", "ports")),
        (Listener(8081, "python3", 42), ("failure", "ports")),
        (Listener(8081, user="www-data"), ("warning", "ports")),
        (Listener(8081, user="llm-llama-router"), None),
    ],
    ids=["own", "another port", "another service", "a program", "nobody knows", "our user's"],
)
def test_ports(listener: Listener, expected: tuple[str, str] | None) -> None:
    found = problems(rtx4090(listeners=[listener]), LLAMA)
    assert list(found) == ([expected] if expected else [])
    if listener.unit == "tomcat" and expected:
        assert "port 8081 for llm-llama-router is taken by java (process 41 of tomcat.service)" in found[expected]


def test_the_port_of_a_standby_is_held_by_the_user_of_what_it_stands_by() -> None:
    wants = Wants(ports=(PortWant(4000, "llm-litellm"), PortWant(4001, "llm-litellm-standby")))
    unseen = [Listener(port, user="llm-litellm") for port in (4000, 4001)]
    assert problems(host(listeners=unseen), wants) == {}
    exchanged = [Listener(4000, "litellm", 5, "llm-litellm", "llm-litellm"), Listener(4001, "litellm", 5, "llm-litellm", "llm-litellm")]
    assert list(problems(host(listeners=exchanged), wants)) == [("failure", "ports")]


def test_a_port_without_a_unit_must_be_free() -> None:
    facts = host(listeners=[Listener(80, "nginx", 3, "nginx")])
    assert ("failure", "ports") in problems(facts, Wants(ports=(PortWant(80),)))


def test_containers() -> None:
    wants = replace(VLLM, containers=True)
    assert "no Docker engine" in problems(rtx4090(), wants)["warning", "containers"]
    engine = Containers(["docker", "dockerd"], True, [], [])
    assert "Toolkit is not installed" in problems(rtx4090(containers=engine), wants)["warning", "containers"]
    assert "no CDI" in problems(rtx4090(containers=replace(engine, toolkit=["nvidia-ctk"])), wants)["warning", "containers"]
    whole = replace(engine, toolkit=["nvidia-ctk"], cdi=["/run/cdi/nvidia.yaml"])
    assert problems(rtx4090(containers=whole), wants) == {}
    assert problems(host(containers=engine), Wants(containers=True)) == {}


def test_the_table_is_aligned_and_the_messages_name_the_host() -> None:
    found = [Finding("ok", "os", "Debian"), Finding("failure", "secure_boot", "is on: do it."), Finding("unknown", "clock", "who knows")]
    assert table(found) == ["ok   os           Debian", "FAIL secure_boot  is on: do it.", "?    clock        who knows"]
    assert messages(found, "failure", "gpu01") == [{"check": "secure_boot", "message": "gpu01: is on: do it."}]
    assert table([]) == []
