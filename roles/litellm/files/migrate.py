# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings the database to the tables of this version of LiteLLM. Written by the Ansible collection baremetal.llm; llm-litellm-migrate.service runs it.

It is run before every start of an instance, and has nothing to do but once for a version, or for a database that was restored from an older one.
"""

from __future__ import annotations

import os
import sys

import llm_database

PATIENCE = 30  # seconds for a database that starts at the same time


def main() -> None:
    try:
        with llm_database.connection(llm_database.address(), PATIENCE) as connection:
            llm_database.check_salt(connection, llm_database.salt())
            if not (missing := llm_database.missing(connection, llm_database.own_migrations())):
                llm_database.remember_salt(connection, llm_database.salt())
                return
    except llm_database.Unready as exc:
        sys.exit(str(exc))
    print(f"{len(missing)} migrations, from {missing[0]} to {missing[-1]}.", flush=True)
    os.environ["LITELLM_SALT_KEY"] = llm_database.salt()
    os.environ["DISABLE_SCHEMA_UPDATE"] = "False"
    _migrate()
    with llm_database.connection(llm_database.address(), PATIENCE) as connection:
        if left := llm_database.missing(connection, llm_database.own_migrations()):
            sys.exit(f"LiteLLM left out {len(left)} migrations, the first is {left[0]}.")
        llm_database.remember_salt(connection, llm_database.salt())


def _migrate() -> None:
    from litellm import run_server  # noqa: PLC0415 - seconds, which only this way needs

    sys.argv = ["litellm", "--config", str(llm_database.HERE / "config.yaml"), "--skip_server_startup"]
    try:
        run_server()
    except SystemExit as exc:
        if exc.code not in (None, 0):
            raise


if __name__ == "__main__":
    main()
