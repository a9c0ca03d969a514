"""acme2certifier, a real ACME server, with TLS on port 14000 and a CA that is made at the first start. ``authority.py ADDRESS``, from its own directory."""

from __future__ import annotations

import datetime
import ipaddress
import socketserver
import ssl
import sys
import typing as t
from pathlib import Path
from wsgiref.simple_server import WSGIServer, make_server

from acme2certifier.share import acme2certifier_wsgi  # reads acme_srv.cfg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PORT = 14000
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Authority of the tests")])


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def make_ca(address: str) -> None:
    """ca.crt and ca.key, server.crt and server.key by it, and a place for what else it signs."""
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [rsa.generate_private_key(65537, 2048) for _number in range(2)]
    server_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    for stem, subject, key, is_ca in (("server", server_name, keys[1], False), ("ca", NAME, keys[0], True)):
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(NAME)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        made = made if is_ca else made.add_extension(names, critical=False)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        Path(f"{stem}.key").write_bytes(pem)
        Path(f"{stem}.crt").write_bytes(made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    Path("certs").mkdir()


def main() -> None:
    address = sys.argv[1]
    if not Path("ca.crt").exists():
        make_ca(address)

    def application(environ: dict[str, t.Any], start: t.Any) -> t.Any:
        environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"] = "https"
        return acme2certifier_wsgi.application(environ, start)

    server = make_server(address, PORT, application, server_class=Threaded, handler_class=acme2certifier_wsgi.get_handler_cls())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server.crt", "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
