# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""When certbot is asked for a certificate, and what is said when it gets none. The real one asks a real authority in Molecule's scenario acme."""

from __future__ import annotations

import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _certbot
from ansible_collections.baremetal.llm.plugins.module_utils._certbot import LETS_ENCRYPT, Wish, present
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

RENEWAL = """# renew_before_expiry = 30 days
version = 2.1.0
cert = /etc/letsencrypt/live/x/cert.pem

# Options used in the renewal process
[renewalparams]
account = 0123456789abcdef
authenticator = {authenticator}
server = {server}
{further}
[[webroot_map]]
authenticator = not this one
"""
DNS_FAILS = """
Certbot failed to authenticate some domains (authenticator: standalone). The Certificate Authority reported these problems:
  Domain: b.example.org
  Type:   dns
  Detail: DNS problem: NXDOMAIN looking up A for b.example.org

Hint: The Certificate Authority failed to download the challenge files from the temporary standalone webserver.

Some challenges have failed.
"""
PORT_TAKEN = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for a.example.org
Could not bind TCP port 80 because it is already in use by another process on this system (such as a web server).
Ask for help or search for solutions at https://community.letsencrypt.org.
"""


class Certbot:
    """Keeps what it is told as certbot does, and renews what it is forced to."""

    def __init__(self, place: Path, deployed: Path) -> None:
        self.place, self.deployed = place, deployed
        self.names: list[str] = []
        self.calls: list[list[str]] = []
        self.refuses, self.hook_works, self.number = "", True, 0

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[0] != "certbot":
            return self.hook()
        if command[1] == "certificates":
            return 0, f"Found the following certs:\n  Certificate Name: x\n    Domains: {' '.join(self.names)}\n", ""
        self.calls.append(command)
        if self.refuses:
            return 1, "", self.refuses
        names = [command[number + 1] for number, word in enumerate(command) if word == "--domain"]
        if names == self.names and "--force-renewal" not in command:
            return 0, "Certificate not yet due for renewal; no action taken.\n", ""
        self.names, self.number = names, self.number + 1
        self.remember(command)
        self.hook()
        return 0, "Successfully received certificate.\n", ""

    def remember(self, command: list[str]) -> None:
        given = dict(zip(command, command[1:]))
        webroot, port = given.get("--webroot-path"), given.get("--http-01-port")
        further = f"webroot_path = {webroot},\n" if webroot else f"http01_port = {port}\n" if port != "80" else ""
        for name in ("live/x", "renewal"):
            (self.place / name).mkdir(parents=True, exist_ok=True)
        text = RENEWAL.format(authenticator="webroot" if webroot else "standalone", server=given["--server"], further=further)
        (self.place / "renewal/x.conf").write_text(text)
        (self.place / "live/x/fullchain.pem").write_text(f"certificate {self.number}")

    def hook(self) -> tuple[int, str, str]:
        if not self.hook_works:
            return 1, "", "no such group"
        self.deployed.write_text((self.place / "live/x/fullchain.pem").read_text())
        return 0, "", ""


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    return Wish("x", ("a.example.org",), "ops@example.org", "/hook", tmp_path / "acme.crt")


@pytest.fixture
def certbot(tmp_path: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> Certbot:
    monkeypatch.setattr(_certbot, "DIRECTORY", tmp_path / "letsencrypt")
    return Certbot(tmp_path / "letsencrypt", wish.deployed)


def told(wish: Wish, certbot: Certbot) -> Difference:
    """Check mode says the same, and asks nobody."""
    before = len(certbot.calls)
    checked = present(wish, certbot, check=True)
    assert len(certbot.calls) == before
    found = present(wish, certbot, check=False)
    assert checked.changed == found.changed
    return found


def test_asked_for_once(wish: Wish, certbot: Certbot) -> None:
    assert told(wish, certbot).as_dict() == {"before": "certificate for: (absent)\n", "after": "certificate for: a.example.org, new\n"}
    assert wish.deployed.read_text() == "certificate 1"
    assert not told(wish, certbot).changed
    assert certbot.number == 1
    assert certbot.calls[0][-7:] == ["--server", LETS_ENCRYPT, "--standalone", "--http-01-port", "80", "--domain", "a.example.org"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ("a.example.org", "b.example.org")}, "certificate for"),
        ({"server": "https://ca.example.org/directory"}, "authority: https://ca.example.org/directory"),
        ({"webroot": "/srv/www"}, "proven by: the web server of /srv/www"),
        ({"port": 8402}, "proven by: standalone on port 8402"),
    ],
)
def test_asked_for_anew_for_what_its_timer_has_to_know(wish: Wish, certbot: Certbot, change: dict[str, t.Any], said: str) -> None:
    present(wish, certbot, check=False)
    other = replace(wish, **change)
    assert said in told(other, certbot).as_dict()["after"]
    assert certbot.number == 2
    assert not told(other, certbot).changed
    assert told(wish, certbot).changed, "and back again"
    assert not told(wish, certbot).changed


def test_nginx_gets_what_it_lacks(wish: Wish, certbot: Certbot) -> None:
    present(wish, certbot, check=False)
    wish.deployed.write_text("an older one")
    assert told(wish, certbot).as_dict()["after"] == f"{wish.deployed}: the newest\n"
    assert wish.deployed.read_text() == "certificate 1"
    wish.deployed.unlink()
    certbot.hook_works = False
    with pytest.raises(LLMError, match="/hook could not put the new certificate in place: no such group"):
        present(wish, certbot, check=False)


def test_a_refusal_names_the_name_and_the_remedy(wish: Wish, certbot: Certbot) -> None:
    present(wish, certbot, check=False)
    certbot.refuses = DNS_FAILS
    with pytest.raises(LLMError) as refused:
        present(replace(wish, names=("a.example.org", "b.example.org")), certbot, check=False)
    assert str(refused.value).startswith(
        f"{LETS_ENCRYPT} gives no certificate for a.example.org, b.example.org: b.example.org: DNS problem: NXDOMAIN looking up A for b.example.org. "
        "Each name of nginx_server_names"
    )
    assert "certbot on port 80 under it" in str(refused.value)
    assert wish.deployed.read_text() == "certificate 1"


@pytest.mark.parametrize(
    ("said", "because"),
    [
        (PORT_TAKEN, "a.example.org: Could not bind TCP port 80 because it is already in use by another process"),
        (DNS_FAILS.partition("  Domain")[0] + "Some challenges have failed.\n", "(authenticator: standalone). Some challenges have failed. Each name"),
        ("Saving debug log to /var/log/letsencrypt/letsencrypt.log\n", "certbot does not say why"),
    ],
)
def test_another_failure_is_told_in_certbots_words(wish: Wish, certbot: Certbot, said: str, because: str) -> None:
    certbot.refuses = said
    with pytest.raises(LLMError) as refused:
        present(replace(wish, webroot="/srv/www"), certbot, check=False)
    assert because in str(refused.value)
    assert "the web server that has /srv/www" in str(refused.value)
    assert "community.letsencrypt.org" not in str(refused.value)


def test_what_certbot_loses_is_read_in_its_log(wish: Wish, certbot: Certbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "urn:ietf:params:acme:error:rateLimited :: There were too many requests of a given type :: retry after 2026-11-23"
    log = tmp_path / "letsencrypt.log"
    log.write_text(f"acme.messages.Error: an older one\nTraceback\nacme.messages.Error: {said}\n\nAttributeError: can't set attribute\n")
    monkeypatch.setattr(_certbot, "LOG", log)
    certbot.refuses = "An unexpected error occurred:\nAttributeError: can't set attribute\n"
    with pytest.raises(LLMError, match="too many requests of a given type :: retry after 2026-11-23"):
        present(wish, certbot, check=False)
