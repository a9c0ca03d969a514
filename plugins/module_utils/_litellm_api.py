# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""LiteLLM's management API, asked on the machine on which it runs. The standard library is all it needs.

Keys are named by their SHA-256 wherever LiteLLM takes that, so a key travels once: when it is made.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
import typing as t
from urllib.parse import urlencode, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError

Json = t.Any
_KEY = re.compile(r"sk-[A-Za-z0-9_-]{8,}")
_HASH = re.compile(r"\b[0-9a-f]{64}\b")
_PAGE = 100  # LiteLLM's largest
_SAID = 300


class ApiError(LLMError):
    """LiteLLM did not do what it was asked."""


class UnreachableError(ApiError):
    """Nothing answers there."""


def hashed(key: str) -> str:
    """What LiteLLM keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Api:
    """May be used from several threads, each of which gets a connection of its own."""

    def __init__(self, url: str, master_key: str, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InputError(f"url is {url!r}: it must be LiteLLM's address on this machine, such as http://127.0.0.1:4000.")
        self._address, self._url, self._timeout = (parts.hostname, parts.port or 80), url, timeout
        self._headers = {"Authorization": f"Bearer {master_key}", "Content-Type": "application/json"}
        self._local = threading.local()

    def get(self, path: str, **query: t.Any) -> Json:
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def post(self, path: str, body: t.Mapping[str, t.Any]) -> Json:
        return self._ask("POST", path, json.dumps(body).encode())

    def pages(self, path: str, field: str, size_name: str, **query: t.Any) -> list[dict[str, t.Any]]:
        """All items of a list that comes in pages."""
        found: list[dict[str, t.Any]] = []
        page = 1
        while True:
            answer = self.get(path, page=page, **{size_name: _PAGE}, **query)
            found += answer[field]
            if page >= int(answer.get("total_pages") or 0):
                return found
            page += 1

    def _ask(self, method: str, path: str, body: bytes | None) -> Json:
        where = path.partition("?")[0]
        for attempt in (1, 2):
            kept = getattr(self._local, "connection", None)
            connection = kept or http.client.HTTPConnection(*self._address, timeout=self._timeout)
            self._local.connection = connection
            try:
                connection.request(method, path, body, self._headers)
                response = connection.getresponse()
                text = response.read()
            except ConnectionRefusedError:
                self._local.connection = None
                raise UnreachableError(f"LiteLLM does not answer at {self._url}: look at systemctl status llm-litellm, or run playbooks/gateway.yml.") from None
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                self._local.connection = None
                # A kept connection may have been closed while nobody looked. What was asked for is looked at again by the next run in any case.
                if kept and attempt == 1 and method == "GET":
                    continue
                raise ApiError(f"LiteLLM broke off at {where}: {type(exc).__name__}. Run this again: it goes on where it was.") from None
            if response.status == 401:
                raise ApiError(
                    f"LiteLLM at {self._url} does not know the master key: llm_master_key, or <inventory>/.secrets/litellm_master_key, is not the one "
                    "that it runs with. Run playbooks/gateway.yml, which gives it this one, or put the old one back."
                )
            if response.status >= 400:
                raise ApiError(f"LiteLLM refused {where} with {response.status}: {_said(text)}")
            try:
                return json.loads(text)
            except ValueError:
                raise ApiError(f"LiteLLM's answer to {where} cannot be read: it is no JSON.") from None
        raise AssertionError("unreachable")


def _said(text: bytes) -> str:
    """What LiteLLM said, without anything that is or gives away a key."""
    said: t.Any = text.decode(errors="replace")
    try:
        content = json.loads(said)
        inner = content.get("error", content.get("detail", content))
        said = inner.get("message", inner.get("error", inner)) if isinstance(inner, dict) else inner
        if isinstance(said, dict):
            said = said.get("error", said)
    except (ValueError, AttributeError):
        pass
    return _HASH.sub("(hash)", _KEY.sub("(key)", str(said)))[:_SAID]
