# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The address of LiteLLM's database, as Prisma reads it."""

from __future__ import annotations

import typing as t
from urllib.parse import quote, urlencode

SOCKETS = "/var/run/postgresql"
NAME = "litellm"
#: Where the role postgresql keeps the authority's certificate of somebody else's server.
AUTHORITY = "/etc/llm/postgresql/ca.crt"
_TLS = {"verify-full": {"sslmode": "require", "sslaccept": "strict"}, "require": {"sslmode": "require"}, "disable": {"sslmode": "disable"}}


def database_url(external: t.Mapping[str, t.Any], password: str = "", port: int = 5432) -> str:
    """Of our own server, through its socket and without a password, or of ``external``: host, port, tls and ca, as in ``postgresql_external``."""
    if not external:
        # Prisma takes the socket's directory from the question, and LiteLLM, where it connects without Prisma, from the place of the host.
        return f"postgresql://{NAME}@{quote(SOCKETS, safe='')}:{port}/{NAME}?host={SOCKETS}"
    words = dict(_TLS[external.get("tls") or "verify-full"])
    if external.get("ca") and "sslaccept" in words:
        words["sslcert"] = AUTHORITY
    host = f"[{external['host']}]" if ":" in external["host"] else external["host"]
    return f"postgresql://{NAME}:{quote(password, safe='')}@{host}:{external.get('port') or 5432}/{NAME}?{urlencode(words, safe='/')}"
