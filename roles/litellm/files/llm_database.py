# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What LiteLLM's database is like, asked of the database itself. Written by the Ansible collection baremetal.llm; it stands beside config.yaml.

LiteLLM takes a database that does not answer at its start for one that it does not have: it goes on without and refuses valid keys for ever. It also starts
on tables of another version. And with another salt key it reads rubbish where credentials stood. Whoever starts it asks here first.
"""

from __future__ import annotations

import hashlib
import time
import typing as t
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

HERE = Path(__file__).parent
SALT = HERE / "salt"
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
#: Beside LiteLLM's own tables and dumped with them, so that a restored database remembers its salt key too. Of the key it keeps a hash.
_REMEMBER = """
CREATE SCHEMA IF NOT EXISTS baremetal_llm;
CREATE TABLE IF NOT EXISTS baremetal_llm.facts (name text PRIMARY KEY, value text NOT NULL);
INSERT INTO baremetal_llm.facts VALUES ('salt', '{}') ON CONFLICT DO NOTHING
"""


class Unready(Exception):
    """LiteLLM must not start; the message says why, and what to do."""


def address() -> str:
    """As the configuration has it, in Prisma's form."""
    return str(yaml.safe_load((HERE / "secrets.yaml").read_text())["general_settings"]["database_url"])


def salt() -> str:
    return SALT.read_text().strip()


def libpq(url: str) -> dict[str, t.Any]:
    """The same address in libpq's words. Prisma has settings in it that libpq does not know, and names the authority's certificate otherwise."""
    parts = urlsplit(url)
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host, _colon, port = parts.netloc.rpartition("@")[2].partition(":")
    user, _colon, password = parts.netloc.rpartition("@")[0].partition(":")
    words = {
        "host": asked.get("host") or unquote(host),
        "port": port or None,
        "user": unquote(user) or None,
        "password": unquote(password) or None,
        "dbname": unquote(parts.path.lstrip("/")),
    }
    if asked.get("sslmode") in ("require", "verify-ca", "verify-full"):
        strict = asked.get("sslaccept") == "strict"
        words |= {"sslmode": "verify-full", "sslrootcert": asked.get("sslcert", TRUSTED)} if strict else {"sslmode": "require"}
    elif asked.get("sslmode") == "disable":
        words["sslmode"] = "disable"
    return {name: value for name, value in words.items() if value}


def connect(url: str) -> t.Any:
    import psycopg  # noqa: PLC0415 - stands in LiteLLM's own environment, where the tests are not

    return psycopg.connect(**libpq(url), connect_timeout=5, autocommit=True, application_name="baremetal.llm")


def connection(url: str, patience: float) -> t.Any:
    """A connection, as soon as the server lets somebody in. Raises ``Unready`` when that takes too long."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return connect(url)
        except Exception as exc:  # whatever it is, it is asked again
            if time.monotonic() > deadline:
                raise Unready(f"The database does not answer: {str(exc).strip()} LiteLLM starts as soon as it does.") from exc
        time.sleep(1)


def missing(open_connection: t.Any, migrations: Path) -> list[str]:
    """The migrations of this version that the database has not had yet, oldest first."""
    if open_connection.execute("SELECT to_regclass('_prisma_migrations')").fetchone()[0] is None:
        done = set()
    else:
        rows = open_connection.execute("SELECT migration_name FROM _prisma_migrations WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL")
        done = {name for (name,) in rows.fetchall()}
    return sorted(found.parent.name for found in migrations.glob("*/migration.sql") if found.parent.name not in done)


def own_migrations() -> Path:
    import litellm_proxy_extras  # noqa: PLC0415 - as above

    return Path(litellm_proxy_extras.__file__).parent / "migrations"


def fingerprint(key: str) -> str:
    return hashlib.sha256(f"baremetal.llm {key}".encode()).hexdigest()


def check_salt(open_connection: t.Any, key: str) -> None:
    """Raises ``Unready`` if what stands in the database was encrypted with another salt key."""
    if open_connection.execute("SELECT to_regclass('baremetal_llm.facts')").fetchone()[0] is None:
        return
    row = open_connection.execute("SELECT value FROM baremetal_llm.facts WHERE name = 'salt'").fetchone()
    if row and row[0] != fingerprint(key):
        raise Unready(
            "litellm_salt_key is not the one with which this database was written, so credentials and models that stand in it could not be read any more. "
            "Bring the old key back (.secrets/litellm_salt_key beside the inventory; it is in every backup)."
        )


def remember_salt(open_connection: t.Any, key: str) -> None:
    open_connection.execute(_REMEMBER.format(fingerprint(key)))
