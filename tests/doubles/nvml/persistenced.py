#!/bin/sh
# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# Stand-in for nvidia-persistenced, for machines without a GPU: the real one speaks to the kernel module, this one to the stand-in NVML.
#
# It takes the real one's options, goes to the background like it, writes the same process id file, turns persistence mode on (or off) for all
# GPUs, and turns it off again when it is ended. It stays root: the stand-in NVML lets nobody else set anything.
#
# The next line is for the shell, a string to Python: ansible-test's list of first lines has none that finds python3.
"exec" "python3" "$0" "$@"  # fmt: skip

from __future__ import annotations

import argparse
import ctypes
import grp
import os
import pwd
import shutil
import signal
import sys
import syslog
from pathlib import Path

RUN = Path("/var/run/nvidia-persistenced")
READY = b"1"


def main() -> int:
    options = parse()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return 0 if os.read(reader, 1) == READY else 1
    os.setsid()
    os.chdir("/")
    serve(options, writer)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nvidia-persistenced")
    parser.add_argument("-V", "--verbose", action="store_true")
    parser.add_argument("-u", "--user", type=pwd.getpwnam)
    parser.add_argument("-g", "--group", type=grp.getgrnam)
    parser.add_argument("--persistence-mode", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--uvm-persistence-mode", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--nvidia-cfg-path")
    return parser.parse_args()


def serve(options: argparse.Namespace, writer: int) -> None:
    syslog.openlog("nvidia-persistenced", syslog.LOG_PID, syslog.LOG_DAEMON)
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    count = ctypes.c_uint()
    if nvml.nvmlInitWithFlags(0) or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
        sys.exit("nvidia-persistenced: Failed to query NVIDIA devices.")
    identify(options)
    for index in range(count.value):
        set_mode(nvml, index, options.persistence_mode, options.verbose)
    syslog.syslog(f"Started ({os.getpid()})")
    os.write(writer, READY)
    silence = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(silence, standard)
    signal.sigwait((signal.SIGTERM, signal.SIGINT))
    for index in range(count.value):
        set_mode(nvml, index, False, options.verbose)
    nvml.nvmlShutdown()
    shutil.rmtree(RUN, ignore_errors=True)
    syslog.syslog(f"Shutdown ({os.getpid()})")


def identify(options: argparse.Namespace) -> None:
    """The run directory, which belongs to the user, and the process id in it."""
    RUN.mkdir(exist_ok=True)
    group = options.group.gr_gid if options.group else options.user.pw_gid if options.user else -1
    os.chown(RUN, options.user.pw_uid if options.user else -1, group)
    (RUN / "nvidia-persistenced.pid").write_text(f"{os.getpid()}\n")


def set_mode(nvml: ctypes.CDLL, index: int, mode: bool, verbose: bool) -> None:
    device = ctypes.c_void_p()
    error = nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) or nvml.nvmlDeviceSetPersistenceMode(device, int(mode))
    if error:
        syslog.syslog(syslog.LOG_ERR, f"device {index} - failed to set persistence mode, NVML error {error}")
    elif verbose:
        syslog.syslog(f"device {index} - persistence mode {'enabled' if mode else 'disabled'}")


if __name__ == "__main__":
    sys.exit(main())
