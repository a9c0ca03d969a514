# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for an OpenAI-compatible service: a real socket that plays a script, packet by packet."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import threading
import typing as t
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Step = t.Union[bytes, float]  # a packet to send, or seconds to wait

DONE = b"data: [DONE]\n\n"
START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Request(t.NamedTuple):
    line: str
    headers: dict[str, str]
    body: dict[str, t.Any]


def event(text: str | None, **more: t.Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}], **more}).encode() + b"\n\n"


def tokens(count: int) -> list[bytes]:
    return [event(f" {number}") for number in range(count)]


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def reply(status: str, content: t.Any, *headers: str) -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class ScriptedStream:
    """Plays the given scripts, one per connection; the last one again when there are more connections."""

    def __init__(self, *scripts: t.Sequence[Step], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._scripts = list(scripts)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> ScriptedStream:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _peer = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._play(self._tls.wrap_socket(connection, server_side=True) if self._tls else connection)
                except OSError:
                    continue  # the client left, or does not trust us; the test looks at the client

    def _play(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            line = reader.readline().decode("latin-1").strip()
            headers = {}
            while raw := reader.readline().decode("latin-1").strip():
                name, _colon, value = raw.partition(":")
                headers[name.lower()] = value.strip()
            body = json.loads(reader.read(int(headers.get("content-length", 0))) or "{}")
            script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
            self.requests.append(Request(line, headers, body))
            for step in script:
                if isinstance(step, bytes):
                    connection.sendall(step)
                else:
                    self._stop.wait(step)


class Authority(t.NamedTuple):
    """A private authority, and a server's TLS context with a certificate that it signed."""

    path: Path
    server: ssl.SSLContext


def make_authority(directory: Path, server_name: str) -> Authority:
    """The certificate stands for `server_name` and not for the address 127.0.0.1."""
    key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A private authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, server_name)])
    names = x509.SubjectAlternativeName([x509.DNSName(server_name), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))])
    authority = _certificate(issuer, issuer, key.public_key(), [x509.BasicConstraints(True, None)], key)
    server = _certificate(subject, issuer, server_key.public_key(), [x509.BasicConstraints(False, None), names], key)
    pem = serialization.Encoding.PEM
    for name, data in {
        "ca.crt": authority.public_bytes(pem),
        "server.crt": server.public_bytes(pem),
        "server.key": server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    }.items():
        Path(directory, name).write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    return Authority(directory / "ca.crt", context)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    extensions: t.Sequence[x509.ExtensionType],
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signer, hashes.SHA256())
