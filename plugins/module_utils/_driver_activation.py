# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From installed packages to a loaded driver: modules for every kernel with headers, boot images without nouveau, the module itself."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import MODPROBE, DriverState
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, compare, write

Find = t.Callable[[str], str]


NOUVEAU = FileSpec(
    Path("/", MODPROBE),
    """\
# Managed by the Ansible collection baremetal.llm. nova_core is the kernel's other driver for NVIDIA's GPUs.
blacklist nouveau
blacklist nova_core
options nouveau modeset=0
""",
)


class ActivationError(LLMError):
    """A command refused; the message carries what it said."""


def activate(read: t.Callable[[], DriverState], run: Runner, find: Find, block_nouveau: bool, check: bool) -> Difference:
    """Do what is still to be done, and say what that was; ``read`` gives the state as it is at the moment.

    A module that cannot be loaded is not an error here: the verdict tells.
    """
    difference = Difference()
    if block_nouveau and compare(NOUVEAU, difference) and not check:
        write([NOUVEAU], {NOUVEAU.path}, run)
    state = read()
    if _build(state, run, find, difference, check) and not check:
        state = _all_built(state, read())
    _renew_boot_images(state, run, find, difference, check)
    if state.loadable and find("modprobe"):
        difference.add("module nvidia", "not loaded", "loaded")
        if not check:
            run([find("modprobe"), "nvidia"])
    return difference


def _build(state: DriverState, run: Runner, find: Find, difference: Difference, check: bool) -> bool:
    """DKMS builds at installation for the running kernel and the newest one; a kernel whose headers come later may be left out."""
    dkms = find("dkms")
    if not dkms or not any("dkms" in name for name in state.packages):
        return False
    for kernel in state.unbuilt:
        difference.add(f"driver module for {kernel}", None, "built by DKMS")
        if not check:
            status, out, err = run([dkms, "autoinstall", "--kernelver", kernel])
            if status != 0:
                raise ActivationError(
                    f"DKMS cannot build the driver for the kernel {kernel}: {(err.strip() or out.strip())[-2000:]}\nThe compiler's errors are in"
                    " /var/lib/dkms/nvidia*/*/build/make.log. A kernel that is newer than the driver needs a newer driver."
                )
    return bool(state.unbuilt)


def _all_built(before: DriverState, after: DriverState) -> DriverState:
    missing = [kernel for kernel in before.unbuilt if kernel in after.unbuilt]
    if missing:
        raise ActivationError(f"DKMS built no driver module for {', '.join(missing)}, although the headers are there: `dkms status` says more.")
    return after


def _renew_boot_images(state: DriverState, run: Runner, find: Find, difference: Difference, check: bool) -> None:
    """nouveau may be in the image that the kernel starts from, with modprobe's settings of the day on which it was made."""
    commands = {"update-initramfs": ["-u", "-k", "all"], "dracut": ["--force", "--regenerate-all"]}
    tool = next((name for name in commands if find(name)), "")
    if not state.stale or not tool:
        return
    for image in state.stale:
        difference.add(image, "older than what keeps nouveau out", "renewed")
    if not check:
        status, out, err = run([find(tool), *commands[tool]])
        if status != 0:
            raise ActivationError(f"{tool} cannot renew the boot images: {(err.strip() or out.strip())[-2000:]}")
