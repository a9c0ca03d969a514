"""The front door of a machine under test, as its clients see it: another machine, the CA's certificate, a key."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._stream import Answer, Endpoint, Question, stream


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: t.Any


@dataclass(frozen=True)
class FrontDoor:
    """``name`` stands in the certificate, ``address`` is where the packets go."""

    name: str
    address: str
    secrets: Path
    port: int = 443
    context: ssl.SSLContext = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "context", ssl.create_default_context(cafile=str(self.ca)))

    @property
    def ca(self) -> Path:
        return self.secrets / "tls/ca.crt"

    def key(self, client: str) -> str:
        return (self.secrets / "keys" / client).read_text().strip()

    def ask(self, method: str, path: str, key: str = "", body: t.Any = None, **headers: str) -> Reply:
        """One request on a connection of its own; the path goes out as it is written."""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPSConnection(self.name, self.port, context=self.context, timeout=60)
        plain = socket.create_connection((self.address, self.port), timeout=60)
        connection.sock = self.context.wrap_socket(plain, server_hostname=self.name)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, json.loads(response.read() or "null"))
        finally:
            connection.close()

    def chat(self, client: str, max_tokens: int = 1) -> Reply:
        body = {"model": self.model(), "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens}
        return self.ask("POST", "/v1/chat/completions", self.key(client), body)

    def stream(self, client: str, max_tokens: int, on_token: t.Callable[[str], None] | None = None) -> Answer:
        endpoint = Endpoint(
            f"https://{self.address}:{self.port}",
            api_key=self.key(client),
            ca_file=str(self.ca),
            server_name=self.name,
        )
        return stream(endpoint, Question(self.model(), "Tell me a story.", max_tokens), on_token)

    def model(self) -> str:
        """The first model on offer."""
        return str(self.ask("GET", "/v1/models", self.key("laptop")).body["data"][0]["id"])
