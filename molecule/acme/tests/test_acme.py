"""Certificates of an authority: the first one, a renewal by the clock, other names, other ways to prove them, and a refusal."""

from __future__ import annotations

import json
import socket
import threading
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, Question, stream
from conftest import DOOR, FrontDoor, converge, shell, until  # type: ignore[import-not-found]
from cryptography import x509

TWO = ["llm.acme.test", "two.acme.test"]
RENEWAL = "/etc/letsencrypt/renewal/llm-nginx.conf"


def served(front_door: FrontDoor) -> x509.Certificate:
    plain = socket.create_connection((front_door.address, front_door.port), timeout=30)
    with front_door.context.wrap_socket(plain, server_hostname=front_door.name) as door:
        return x509.load_der_x509_certificate(door.getpeercert(binary_form=True) or b"")


def names(certificate: x509.Certificate) -> list[str]:
    return sorted(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))


def checked(**variables: t.Any) -> None:
    """Check mode says that something changes, and changes nothing."""
    before = shell(DOOR, f"cat {RENEWAL}")
    assert converge("--check", **variables).changed > 0
    assert shell(DOOR, f"cat {RENEWAL}") == before


def told(**variables: t.Any) -> None:
    """A run changes it, and another one finds nothing to do."""
    run = converge(**variables)
    assert run.rc == 0, run.said[-3000:]
    again = converge(**variables)
    assert (again.rc, again.changed) == (0, 0), again.said[-3000:]


def test_nginx_has_the_authoritys_certificate(front_door: FrontDoor) -> None:
    certificate = served(front_door)
    assert names(certificate) == ["llm.acme.test"]
    assert certificate.issuer.rfc4514_string() == "CN=Authority of the tests"
    assert front_door.ask("GET", "/health").status == 200
    assert shell(DOOR, "stat --format='%a %U:%G' /etc/llm/nginx/acme.key").strip() == "640 root:llm-nginx"


def test_the_clock_renews_it_under_a_running_stream(front_door: FrontDoor) -> None:
    old = served(front_door).serial_number
    running = Stream(front_door, events=150, pause=0.1)
    shell(DOOR, f"sed -i '1i renew_before_expiry = 100 days' {RENEWAL}")  # so it is due
    soon = "[Timer]\\nOnCalendar=\\nOnActiveSec=1s\\nAccuracySec=1s\\nRandomizedDelaySec=0\\n"
    shell(DOOR, f"mkdir -p /run/systemd/system/certbot.timer.d && printf '{soon}' >/run/systemd/system/certbot.timer.d/soon.conf")
    try:
        shell(DOOR, "systemctl daemon-reload && systemctl restart certbot.timer")
        until(lambda: served(front_door).serial_number != old, 15, "Nginx has another certificate")
    finally:
        shell(DOOR, f"rm -r /run/systemd/system/certbot.timer.d && systemctl daemon-reload && sed -i '/^renew_before_expiry/d' {RENEWAL}")
    assert running.thread.is_alive(), "the stream was to be longer than that"
    running.finish()


def test_a_name_that_leads_nowhere_changes_nothing(front_door: FrontDoor) -> None:
    look = f"find /etc/llm/nginx /etc/letsencrypt/live {RENEWAL} -type f -o -type l | sort | xargs sha256sum"
    before, old = shell(DOOR, look), served(front_door).serial_number
    run = converge(nginx_server_names=["llm.acme.test", "nobody.acme.test"])
    assert run.rc != 0
    for said in ("gives no certificate for llm.acme.test, nobody.acme.test: ", "Some challenges have failed", "nginx_server_names", "Nothing was replaced"):
        assert said in run.said, run.said[-3000:]
    assert shell(DOOR, look) == before
    assert served(front_door).serial_number == old


def test_an_authority_that_is_not_there(front_door: FrontDoor) -> None:
    old = served(front_door).serial_number
    run = converge(nginx_acme={"email": "ops@acme.test", "server": "https://10.85.28.20:14001/directory"})
    assert run.rc != 0
    assert "https://10.85.28.20:14001/directory gives no certificate for llm.acme.test" in run.said
    assert "refused" in run.said, run.said[-3000:]
    assert served(front_door).serial_number == old


def test_another_name(front_door: FrontDoor) -> None:
    checked(nginx_server_names=TWO)
    told(nginx_server_names=TWO)
    until(lambda: names(served(front_door)) == TWO, 5, "both names are served")


def test_a_web_server_that_is_there_answers(front_door: FrontDoor, acme: dict[str, t.Any]) -> None:
    old = served(front_door).serial_number
    shell(DOOR, "mkdir -p /srv/www && systemd-run --collect --unit=web python3 -m http.server 80 --bind :: --directory /srv/www")
    try:
        run = converge(nginx_server_names=["llm.acme.test"])  # certbot would answer by itself
        assert run.rc != 0
        assert "Could not bind TCP port 80 because it is already in use" in run.said, run.said[-3000:]
        checked(nginx_server_names=TWO, nginx_acme={**acme, "webroot": "/srv/www"})
        told(nginx_server_names=TWO, nginx_acme={**acme, "webroot": "/srv/www"})
        assert served(front_door).serial_number != old
        shell(DOOR, "certbot renew --cert-name llm-nginx --force-renewal --no-random-sleep-on-renew --quiet")  # what the timer does
    finally:
        shell(DOOR, "systemctl stop web")


def test_another_port(front_door: FrontDoor, acme: dict[str, t.Any]) -> None:
    """Something on port 80 passes it on."""
    passing = "/lib/systemd/systemd-socket-proxyd 127.0.0.1:8402"
    shell(DOOR, f"systemd-run --collect --unit=passing --socket-property=ListenStream=80 {passing}")
    try:
        told(nginx_server_names=TWO, nginx_acme={**acme, "port": 8402})
    finally:
        shell(DOOR, "systemctl stop passing.socket; systemctl stop passing || true")
    assert names(served(front_door)) == TWO


@pytest.fixture
def acme() -> dict[str, t.Any]:
    return {"email": "ops@acme.test", "server": "https://10.85.28.20:14000/directory"}


class Stream:
    """A long answer of what stands behind the door. ``finish`` says whether it came whole."""

    def __init__(self, front_door: FrontDoor, events: int, pause: float) -> None:
        self.events, self.tokens, self.ended = events, 0, ""
        url = f"https://{front_door.address}:{front_door.port}"
        self.endpoint = Endpoint(url, api_key=front_door.key("laptop"), ca_file=str(front_door.ca), server_name=front_door.name)
        self.question = Question("double", json.dumps({"pause": pause}), events)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        until(lambda: self.tokens > 3, 20, "tokens")

    def run(self) -> None:
        try:
            self.ended = str(stream(self.endpoint, self.question, self.count).finish_reason)
        except LLMError as exc:
            self.ended = str(exc)

    def count(self, _token: str) -> None:
        self.tokens += 1

    def finish(self) -> None:
        self.thread.join(60)
        assert (self.ended, self.tokens) == ("stop", self.events)
