# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether LiteLLM's salt key is the one with which its database was written.

What LiteLLM keeps encrypted there could not be read with another. The database remembers a hash of the key beside LiteLLM's own tables, so that a
restored one remembers it too; ``roles/litellm/files/llm_database.py`` writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import typing as t
from urllib.parse import parse_qs, unquote, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import Administrator, connect

Ask = t.Callable[[str], "list[tuple[t.Any, ...]]"]
_FORGET = "DELETE FROM baremetal_llm.facts WHERE name = 'salt'"
_TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
#: What LiteLLM encrypts, as people call it.
_ENCRYPTED = {"credentials": "LiteLLM_CredentialsTable", "models": "LiteLLM_ProxyModelTable", "MCP servers": "LiteLLM_MCPServerTable"}


class SaltError(LLMError):
    """It is another one."""


def check(address: str, salt_key: str) -> bool:
    """Whether the database remembers a key; one that does not takes any. Raises ``SaltError``."""
    with asking(address) as ask:
        if not _there(ask, "baremetal_llm.facts"):
            return False
        kept = ask("SELECT value FROM baremetal_llm.facts WHERE name = 'salt'")
        if not kept or kept[0][0] == fingerprint(salt_key):
            return bool(kept)
        found = {what: _rows(ask, table) for what, table in _ENCRYPTED.items()}
        lost = ", ".join(f"{rows} {what}" for what, rows in found.items() if rows) or "nothing at the moment, but all that is written until somebody notices"
        raise SaltError(
            f"litellm_salt_key is not the one with which this database was written. With another one LiteLLM could not read any more: {lost}. "
            "Keys, budgets and spend would stay. Bring the old one back (.secrets/litellm_salt_key beside the inventory, or llm_salt_key; every backup "
            "has it). If what was encrypted may go, remove it in LiteLLM, then forget the old key as the database's administrator: "
            f"{_FORGET}"
        )


def fingerprint(salt_key: str) -> str:
    """As llm_database.py has it."""
    return hashlib.sha256(f"baremetal.llm {salt_key}".encode()).hexdigest()


@contextlib.contextmanager
def asking(address: str) -> t.Iterator[Ask]:
    """A function that asks the database of an address in Prisma's form."""
    parts = urlsplit(address)
    name = parts.path.lstrip("/")
    host, port = parts.netloc.rpartition("@")[2].rpartition(":")[::2]
    if host.startswith("%2F"):
        administrator = Administrator(int(port))
        with contextlib.closing(administrator):
            yield lambda statement: administrator(name, statement)
        return
    user, _colon, password = parts.netloc.rpartition("@")[0].partition(":")
    words = {"host": host.strip("[]"), "port": port, "dbname": name, "user": unquote(user), "password": unquote(password)}
    with contextlib.closing(connect(**words, **_tls(parts.query))) as connection, connection.cursor() as cursor:

        def ask(statement: str) -> list[tuple[t.Any, ...]]:
            cursor.execute(statement)
            rows: list[tuple[t.Any, ...]] = cursor.fetchall()
            return rows

        yield ask


def _tls(query: str) -> dict[str, str]:
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    if asked.get("sslaccept") == "strict":
        return {"sslmode": "verify-full", "sslrootcert": asked.get("sslcert", _TRUSTED)}
    return {"sslmode": asked.get("sslmode", "prefer")}


def _there(ask: Ask, table: str) -> bool:
    return ask(f"SELECT to_regclass('{table}')")[0][0] is not None


def _rows(ask: Ask, table: str) -> int:
    return int(ask(f'SELECT count(*) FROM "{table}"')[0][0]) if _there(ask, f'"{table}"') else 0  # noqa: S608 - our own words
