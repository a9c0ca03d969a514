# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An OpenAI-compatible chat client that times every token and says whether the tokens came one by one or in a heap.

The standard library is all it needs, so it also runs on a bare machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import io
import json
import socket
import ssl
import time
import typing as t
from urllib.parse import urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._pace import Pace, Stamp, measure

CONNECT_TIMEOUT = 10.0
SERVED_BY = "x-litellm-model-id"
REFUSED, SILENT, UNKNOWN_NAME, NO_WAY = "refused", "silent", "unknown name", "no way"
_READ_SIZE = 65536
_ERROR_BODY = 65536
_ERROR_TEXT = 300


class UnreachableError(LLMError):
    """Nothing accepts connections at the address. `why` is one of REFUSED, SILENT, UNKNOWN_NAME and NO_WAY."""

    def __init__(self, sentence: str, why: str) -> None:
        super().__init__(sentence)
        self.why = why


class TLSError(LLMError):
    """The connection cannot be made secure: the certificate, its name or the protocol."""


class HTTPStatusError(LLMError):
    """The server answered, and not with 200."""

    def __init__(self, sentence: str, status: int, message: str, retry_after: str | None) -> None:
        super().__init__(sentence)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class BrokenStreamError(LLMError):
    """The stream began and did not end as it must."""


class HungUpError(BrokenStreamError):
    """The server closed the connection instead of answering."""


class WrongKindError(BrokenStreamError):
    """The server answered with something else than what was asked for."""


class TimedOutError(LLMError):
    """The answer was not complete in time."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where the service answers and how to be let in. The key shows in no `repr` and in no error."""

    url: str
    api_key: str | None = dataclasses.field(default=None, repr=False)
    ca_file: str | None = None  # neither file nor text: the system's authorities
    ca_pem: str | None = dataclasses.field(default=None, repr=False)
    server_name: str | None = None  # the name in the certificate, where the URL has another address
    verify: bool = True
    timeout: float = 120.0  # seconds for one whole answer

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.username
        except ValueError:
            usable = False
        if not usable:
            shown = self.url.rpartition("@")[2]
            raise InputError(f"{shown!r} is no address of a service: write it like https://llm.example.com:8443.")
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError("The API key has a line break or a letter outside ASCII, which no HTTP header carries.")

    def path(self, route: str) -> str:
        base = urlsplit(self.url).path.rstrip("/")
        return f"{base if base.endswith('/v1') else base + '/v1'}/{route}"


@dataclasses.dataclass(frozen=True)
class Question:
    model: str
    prompt: str
    max_tokens: int = 64


@dataclasses.dataclass(frozen=True)
class Answer:
    model: str
    text: str
    finish_reason: str | None
    pace: Pace
    served_by: str | None = None  # LiteLLM's id of the deployment that answered


@dataclasses.dataclass(frozen=True)
class Whole:
    """An answer that came in one piece."""

    content: dict[str, t.Any]
    seconds: float
    served_by: str | None = None


class Event(t.NamedTuple):
    type: str
    data: str


class EventParser:
    """Server-sent events out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._line = b""
        self._after_cr = False
        self._type = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        if self._after_cr and piece[:1] == b"\n":  # the second half of a CRLF that was split
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        *lines, self._line = (self._line + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [event for line in lines for event in self._take(line.decode("utf-8", "replace"))]

    def _take(self, line: str) -> t.Iterator[Event]:
        if not line:
            if self._data:
                yield Event(self._type or "message", "\n".join(self._data))
            self._type, self._data = "", []
            return
        name, _colon, value = line.partition(":")  # a comment (keep-alive) has an empty name
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value


def stream(endpoint: Endpoint, question: Question, on_token: t.Callable[[str], None] | None = None) -> Answer:
    """Ask, read the whole streamed answer and time it; `on_token` gets each piece of text as it arrives.

    `on_token` must be quick: what arrives while it works is read together, and looks like a heap.

    Raises UnreachableError, TLSError, HTTPStatusError, BrokenStreamError or TimedOutError.
    """
    body = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with _exchange(endpoint, "chat/completions", body, "text/event-stream") as exchange:
        return _read_answer(exchange, on_token)


def whole(endpoint: Endpoint, route: str, body: dict[str, t.Any]) -> Whole:
    """Ask what is answered in one piece, such as `embeddings`. Raises what `stream` raises."""
    with _exchange(endpoint, route, body, "application/json") as exchange:
        content = _json(_read_all(exchange))
        if not isinstance(content, dict):
            raise WrongKindError(f"{endpoint.url} answered for {exchange.model} with something else than one JSON object.")
        return Whole(content, time.monotonic() - exchange.started, exchange.response.getheader(SERVED_BY))


def refusal(endpoint: Endpoint, question: Question) -> HTTPStatusError | None:
    """How the service turns the same question down when it comes without a key; None if it answers it."""
    try:
        stream(dataclasses.replace(endpoint, api_key=None), dataclasses.replace(question, max_tokens=1))
    except HTTPStatusError as exc:
        return exc
    return None


class _Wire(io.RawIOBase):
    """The socket as http.client reads it; remembers when, and in which read, the latest bytes came."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline
        self.latest = Stamp(0.0, 0)
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        """Wait for bytes, then take all that are there: every TLS record would be a read of its own otherwise."""
        view = memoryview(buffer)
        self._sock.settimeout(max(self.deadline - time.monotonic(), 0.001))
        count = more = self._sock.recv_into(view)
        self.latest = Stamp(time.monotonic(), self.latest.read + 1)
        self._sock.settimeout(0)
        with contextlib.suppress(OSError):  # nothing more yet; a broken connection shows at the next read
            while more and count < len(view):
                more = self._sock.recv_into(view[count:])
                count += more
        return count

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(max(self.deadline - time.monotonic(), 0.001))
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _READ_SIZE)

    def close(self) -> None:
        """http.client closes early; the socket lives until `stream` is done with it."""


class _Exchange(t.NamedTuple):
    endpoint: Endpoint
    model: str
    response: http.client.HTTPResponse
    wire: _Wire
    started: float


@contextlib.contextmanager
def _exchange(endpoint: Endpoint, route: str, body: dict[str, t.Any], kind: str) -> t.Iterator[_Exchange]:
    """One question and the head of its answer, which is a success of the kind that was asked for."""
    started = time.monotonic()
    try:
        with _connected(endpoint) as sock:
            wire = _Wire(sock, started + endpoint.timeout)
            yield _Exchange(endpoint, body["model"], _ask(endpoint, route, body, kind, wire), wire, started)
    except socket.timeout as exc:
        raise TimedOutError(
            f"{endpoint.url} gave no complete answer of {body['model']} within {endpoint.timeout:g} s: "
            "look at the engine's journal, or allow more time."
        ) from exc


def _connected(endpoint: Endpoint) -> socket.socket:
    parts = urlsplit(endpoint.url)
    host, secure = str(parts.hostname), parts.scheme == "https"
    context = _tls_context(endpoint) if secure else None
    address = (host, parts.port or (443 if secure else 80))
    try:
        sock = socket.create_connection(address, min(CONNECT_TIMEOUT, endpoint.timeout))
    except OSError as exc:
        raise UnreachableError(
            f"Nothing answers at {endpoint.url} ({exc.strerror or exc}): is the service running, and is the port open?",
            _why(exc),
        ) from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return sock
    name = endpoint.server_name or host
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except ssl.SSLCertVerificationError as exc:
        sock.close()
        raise TLSError(
            f"The certificate of {endpoint.url} does not pass for {name}: {exc.verify_message.rstrip('.')}. "
            "Give the authority that signed it and a name that stands in it."
        ) from exc
    except OSError as exc:
        sock.close()
        raise TLSError(f"{endpoint.url} speaks no TLS that we understand ({exc.strerror or exc}).") from exc


def _why(exc: OSError) -> str:
    if isinstance(exc, ConnectionRefusedError):
        return REFUSED
    if isinstance(exc, socket.timeout) or exc.errno == errno.EHOSTUNREACH:  # the latter: a host of our own network that is down
        return SILENT
    return UNKNOWN_NAME if isinstance(exc, socket.gaierror) else NO_WAY


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file, cadata=endpoint.ca_pem or None)
    except OSError as exc:
        source = endpoint.ca_file or "the text given for it"
        raise TLSError(f"The certificate authority cannot be read from {source} ({exc.strerror or exc}).") from exc
    if endpoint.ca_file or endpoint.ca_pem:  # what is given is trusted, be it the server's own certificate
        context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0x80000)  # has its name since Python 3.10
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(endpoint: Endpoint, route: str, body: dict[str, t.Any], kind: str, wire: _Wire) -> http.client.HTTPResponse:
    parts = urlsplit(endpoint.url)
    headers = {
        "Host": endpoint.server_name or parts.netloc,
        "Content-Type": "application/json",
        "Accept": kind,
        "Connection": "close",
    }
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    connection = http.client.HTTPConnection(str(parts.hostname))
    connection.sock = wire
    try:
        connection.request("POST", endpoint.path(route), json.dumps(body).encode(), headers)
        response = connection.getresponse()
    except socket.timeout:
        raise
    except (OSError, http.client.HTTPException) as exc:
        raise HungUpError(f"{endpoint.url} hung up before it answered ({type(exc).__name__}).") from exc
    if response.status != 200:
        raise _status_error(endpoint, response)
    given = response.getheader("Content-Type", "nothing")
    if not given.startswith(kind):
        wanted = "a stream of events" if kind == "text/event-stream" else kind
        raise WrongKindError(f"{endpoint.url} was asked for {wanted} and answered with {given}.")
    return response


def _status_error(endpoint: Endpoint, response: http.client.HTTPResponse) -> HTTPStatusError:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = response.read(_ERROR_BODY)
    message = _shown(endpoint, _server_message(body))
    retry_after = response.getheader("Retry-After")
    sentence = f"{endpoint.url} answered {response.status} {response.reason}"
    sentence += f" (retry after {retry_after} s)" if retry_after else ""
    return HTTPStatusError(sentence + (f": {message}" if message else "."), response.status, message, retry_after)


def _server_message(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except ValueError:
        return "" if text.lstrip().startswith("<") else text  # a page for browsers says no more than the status does
    return _error_message(content) if isinstance(content, dict) else text


def _error_message(content: dict[str, t.Any]) -> str:
    """What OpenAI's shape, and its common variations, say."""
    error = content.get("error", content)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or json.dumps(error)
    return str(error)


def _shown(endpoint: Endpoint, text: str) -> str:
    """The server's words, in one line and without the key, should it repeat it."""
    if endpoint.api_key:
        text = text.replace(endpoint.api_key, "(the key)")
    text = " ".join(text.split())
    return text if len(text) <= _ERROR_TEXT else text[:_ERROR_TEXT] + "..."


def _read_answer(exchange: _Exchange, on_token: t.Callable[[str], None] | None) -> Answer:
    endpoint, model, response, wire, started = exchange
    parser = EventParser()
    stamps: list[Stamp] = []
    text: list[str] = []
    tokens: int | None = None
    finish_reason: str | None = None
    while True:
        piece = _read_piece(response)
        if not piece:
            raise BrokenStreamError(
                f"{endpoint.url} broke the answer of {model} off after {len(stamps)} tokens, without [DONE]: "
                "the engine's and the gateway's journals say why."
            )
        for event in parser.feed(piece):
            if event.data == "[DONE]":
                ended = time.monotonic()
                _let_it_finish(response, wire)
                return Answer(model, "".join(text), finish_reason, measure(started, ended, stamps, tokens), response.getheader(SERVED_BY))
            chunk = _chunk(endpoint, model, event)
            usage = chunk.get("usage")
            tokens = usage.get("completion_tokens", tokens) if usage else tokens
            for choice in chunk.get("choices") or []:
                finish_reason = choice.get("finish_reason") or finish_reason
                said = _said(choice.get("delta") or {})
                if said:
                    stamps.append(wire.latest)
                    text.append(said)
                    if on_token:
                        on_token(said)


def _read_piece(response: http.client.HTTPResponse) -> bytes:
    """What has arrived; nothing when the connection has ended, in whatever way."""
    try:
        return response.read1(_READ_SIZE)
    except (ConnectionError, ssl.SSLError, http.client.HTTPException):
        return b""


def _read_all(exchange: _Exchange) -> bytes:
    try:
        return exchange.response.read()
    except (ConnectionError, ssl.SSLError, http.client.HTTPException) as exc:
        raise BrokenStreamError(f"{exchange.endpoint.url} broke the answer of {exchange.model} off ({type(exc).__name__}).") from exc


def _json(text: str | bytes) -> t.Any:
    """None if it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _chunk(endpoint: Endpoint, model: str, event: Event) -> dict[str, t.Any]:
    content = _json(event.data)
    if isinstance(content, dict) and event.type != "error" and not content.get("error"):
        return content
    said = _error_message(content) if isinstance(content, dict) else event.data
    raise BrokenStreamError(f"{endpoint.url} broke the answer of {model} off: {_shown(endpoint, said)}")


def _said(delta: dict[str, t.Any]) -> str:
    """The text of one event; models that think aloud put it into a field of its own."""
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""


def _let_it_finish(response: http.client.HTTPResponse, wire: _Wire) -> None:
    """Read the end of the body, or the server's log says that the client hung up."""
    wire.deadline = time.monotonic() + 1
    with contextlib.suppress(OSError, http.client.HTTPException):
        response.read()
