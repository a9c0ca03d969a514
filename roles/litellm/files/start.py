# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts LiteLLM once its database is there. Written by the Ansible collection baremetal.llm.

LiteLLM itself would start without, say that it is ready, and refuse valid keys until somebody starts it again. It would also compare the tables
with its own at every start, and for that hand the database's address, password included, to a program as an argument, for everybody on the machine to read.

Its query engines listen where nobody else reaches them (llm_engines.py), in each of its processes: those that it starts read this file, too.

While it runs, it is watched. If it has lost its database although the database answers, its query engine is ended, which it starts again by itself, and no
stream is cut. If that is no help it is ended itself, and systemd starts it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import llm_database
import llm_engines

PATIENCE = 60  # seconds for a database to come
PAUSE = 15  # seconds between two attempts where it is there, but not as it must be
INTERVAL = 10  # seconds between two looks
LOST = 4  # looks in a row after which the database is taken for lost, and as many for the first remedy to help
PARTING = 60  # seconds to end what it is doing: without a database it may not come to an end at all


def wait_for_database(url: str) -> None:
    try:
        with llm_database.connection(url, PATIENCE) as connection:
            llm_database.check_salt(connection, llm_database.salt())
            if missing := llm_database.missing(connection, llm_database.own_migrations()):
                raise llm_database.Unready(f"The database lacks {len(missing)} migrations: journalctl --unit=llm-litellm-migrate says why.")
    except llm_database.Unready as exc:
        tell(str(exc))
        time.sleep(PAUSE)
        sys.exit(1)


def wait_for_guard() -> None:
    try:
        llm_engines.wait(PATIENCE)
    except llm_engines.Unguarded as exc:
        sys.exit(str(exc))


def readiness(url: str) -> str:
    """What LiteLLM says of its database; empty if it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=INTERVAL) as answer:
            return str(json.load(answer).get("db"))
    except urllib.error.HTTPError as refused:
        return str(refused.code)
    except (OSError, ValueError):
        return ""


def has_lost(said: str, database: str) -> bool:
    """Whether it does without a database that answers. No answer is no reason: it may just start, or end what it is doing."""
    if said in ("", "connected"):
        return False
    try:
        llm_database.connect(database).close()
    except Exception:  # whatever it is: the database is not there, and LiteLLM says so
        return False
    return True


def end_engines() -> None:
    """Those of this instance: the standby has the same user, but a control group of its own."""
    own = Path("/proc/self/cgroup").read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (process / "cgroup").read_bytes() == own and b"query-engine" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def watch(url: str, database: str) -> None:
    looks = 0
    while looks < 2 * LOST:
        time.sleep(INTERVAL)
        if not llm_engines.guarded():
            tell("The rules that keep everybody else from LiteLLM's tables are not in force: systemctl restart llm-litellm-guard")
        said = readiness(url)
        looks = looks + 1 if has_lost(said, database) else 0
        if looks == LOST:
            tell(f"The database answers, but LiteLLM has had none for {LOST * INTERVAL} s ({said}): its query engine is started again.")
            end_engines()
    tell("It still has none: LiteLLM is started again.")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PARTING)
    os._exit(1)


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    database = llm_database.address()
    wait_for_guard()
    wait_for_database(database)
    # Not in the environment that systemd shows to everybody.
    os.environ["LITELLM_SALT_KEY"] = llm_database.salt()
    from litellm import run_server  # noqa: PLC0415 - it reads the environment
    from litellm.proxy.db import check_migration  # noqa: PLC0415

    check_migration.check_prisma_schema_diff = lambda db_url=None: None
    url = f"http://{option('--host')}:{option('--port')}/health/readiness"
    threading.Thread(target=watch, args=(url, database), daemon=True).start()
    run_server()


if __name__ in ("__main__", "__mp_main__"):  # the second is a worker, which multiprocessing has started
    llm_engines.install()
if __name__ == "__main__":
    main()
