"""What Debian's packages made of the machine with a GPU."""

from __future__ import annotations

import typing as t

testinfra_hosts = ["ansible://gpus"]


def test_the_module_is_built_for_debians_kernel(host: t.Any) -> None:
    (line,) = host.check_output("dkms status").splitlines()
    name, kernel, state = line.split(", ", 2)
    assert name.startswith("nvidia-current/535.")
    assert state.endswith(": installed")
    assert host.check_output("modinfo --field=version /lib/modules/%s/updates/dkms/nvidia-current.ko", kernel) == name.partition("/")[2]
    assert host.file(f"/lib/modules/{kernel}/updates/dkms/nvidia-current-uvm.ko").exists


def test_libraries_and_module_are_of_one_version(host: t.Any) -> None:
    versions = {host.package(name).version for name in ("nvidia-kernel-dkms", "libcuda1", "libnvidia-ml1", "nvidia-smi")}
    assert len(versions) == 1
    assert "535." in versions.pop()
    # the program runs; it finds no device, for the GPU is only simulated
    assert "couldn't communicate with the NVIDIA driver" in host.run("nvidia-smi").stdout


def test_the_branch_is_held_and_pinned(host: t.Any) -> None:
    assert {"nvidia-kernel-dkms", "libcuda1", "nvidia-smi"} <= set(host.check_output("apt-mark showhold").split())
    policy = host.check_output("apt-cache policy nvidia-smi")
    assert " 1001\n" in policy
    # neither the container toolkit nor CUDA is meant by it
    assert "1001" not in host.check_output("apt-cache policy nvidia-cuda-toolkit docker.io linux-headers-amd64")
    assert "nvidia-smi" not in host.check_output("apt-get --simulate dist-upgrade")


def test_nothing_for_screens_is_installed(host: t.Any) -> None:
    assert not host.package("xserver-xorg-core").is_installed
    assert not host.package("nvidia-driver").is_installed


def test_nouveau_is_kept_out(host: t.Any) -> None:
    config = host.check_output("modprobe --showconfig")
    assert "blacklist nouveau" in config
    assert "options nouveau modeset=0" in config


def test_the_next_boot_is_prepared(host: t.Any) -> None:
    assert host.package("nvidia-persistenced").version.startswith("535.")
    for unit in ("nvidia-persistenced", "llm-gpu-settings"):
        assert host.service(unit).is_enabled
        assert not host.service(unit).is_running  # its driver is not loaded
