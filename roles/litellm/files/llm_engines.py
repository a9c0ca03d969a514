# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where Prisma's query engines listen. Written by the Ansible collection baremetal.llm; start.py brings it into every process of LiteLLM.

A query engine listens on loopback and asks nobody for a password: whoever reaches it reads and writes every table. So engines get a few ports of
their own, which the rules of llm-litellm-guard.service (engines.nft) keep for LiteLLM's user: nobody else reaches them, and nobody else answers there.
Without those rules none is started.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import os
import random
import socket
import sys
import threading
import time
import typing as t

LOOPBACK = "127.0.0.1"
MODULE = "prisma.engine.utils"
HELD = 30  # seconds that an engine has to take its port


class Unguarded(Exception):
    """No engine must start; the message says why, and what to do."""


def ports() -> range:
    """The first one is nobody's: by it one sees that the rules are in force."""
    first, _dash, last = os.environ["LLM_ENGINE_PORTS"].partition("-")
    return range(int(first), int(last) + 1)


def guarded() -> bool:
    """The rules say of their first port that it is prohibited. Without them it would just be refused."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((LOOPBACK, ports()[0])) == errno.EHOSTUNREACH


def wait(patience: float) -> None:
    deadline = time.monotonic() + patience
    while not guarded():
        if time.monotonic() > deadline:
            raise Unguarded(
                "The rules that keep everybody else from LiteLLM's tables are not in force, so it does not start: "
                "systemctl restart llm-litellm-guard; journalctl --unit=llm-litellm-guard says why if it does not help."
            )
        time.sleep(1)


def claim() -> int:
    """A port for one more engine. Until the engine listens there, a name that only one can have keeps it from the other processes."""
    if not guarded():
        raise Unguarded("The rules that keep everybody else from LiteLLM's tables are not in force: no query engine is started.")
    free = ports()[1:]
    for port in random.sample(free, len(free)):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0llm-litellm-engine-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((LOOPBACK, port))
        except OSError:  # taken
            held.close()
            continue
        timer = threading.Timer(HELD, held.close)
        timer.daemon = True
        timer.start()
        return port
    raise Unguarded(f"None of the ports {free[0]} to {free[-1]} is free for a query engine: litellm_engine_ports names others.")


def patch(utils: t.Any) -> None:
    """prisma-client-py starts an engine on any port that is free; from now on on one of ours."""
    if not hasattr(utils, "get_open_port"):
        raise Unguarded("This prisma-client-py chooses its engine's port in another way, and everybody could reach LiteLLM's tables: it does not start.")
    utils.get_open_port = claim


class Finder(importlib.abc.MetaPathFinder):
    """Patches the module as it is imported: a worker has seconds to say that it is there, and importing Prisma's client takes as many."""

    def find_spec(self, fullname: str, path: t.Any, target: t.Any = None) -> t.Any:
        if fullname != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def patched(module: t.Any) -> None:
                load(module)
                patch(module)

            spec.loader.exec_module = patched  # type: ignore[method-assign]
        return spec


def install() -> None:
    sys.meta_path.insert(0, Finder())
