# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A certificate by certbot: asked for at the first time and again with other names, another authority or another way to prove them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner

DIRECTORY = Path("/etc/letsencrypt")
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LOG = Path("/var/log/letsencrypt/letsencrypt.log")
_NOT_DUE = "not yet due for renewal"
_PROBLEM = re.compile(r"^\s*(?:Domain|Identifier): (?P<name>\S+)\n\s*Type: .*\n\s*Detail: (?P<detail>.+)$", re.MULTILINE)
_NAMES = re.compile(r"^\s*(?:Domains|Identifiers): (?P<names>.+)$", re.MULTILINE)
# certbot 2.1 with Python 3.11 loses what the authority has said on its way to the user.
_LOST = "AttributeError: can't set attribute"
_ANSWERED = re.compile(r"^acme\.messages\.Error: (?P<said>.+)$", re.MULTILINE)
# What certbot says around what matters.
_REPORTED = " The Certificate Authority reported these problems:"  # of which some authorities report none
_AROUND = re.compile(r"Saving debug log|Requesting a|Renewing an|Account registered|Ask for help|See the logfile|Hint:|An unexpected error|^$")


@dataclass(frozen=True)
class Wish:
    """``name`` is certbot's own for the certificate. Without a ``webroot`` certbot answers on ``port`` by itself. ``hook`` puts it at ``deployed``."""

    name: str
    names: tuple[str, ...]
    email: str
    hook: str
    deployed: Path
    server: str = LETS_ENCRYPT
    webroot: str = ""
    port: int = 80


def present(wish: Wish, run: Runner, check: bool) -> Difference:
    """What certbot is told at the first time it remembers for its timer, so a change of that is a new certificate too."""
    difference = Difference()
    remembered = _remembered(wish)
    ways_differ = remembered is not None and _compare(wish, remembered, difference)
    if check:
        names = _names(wish, run) if remembered is not None else None
        difference.add("certificate for", names, ", ".join(sorted(wish.names)))
        difference.add(str(wish.deployed), "the newest" if _is_deployed(wish) else None, "the newest")
        return difference
    status, out, err = run(_command(wish, ways_differ))
    if status != 0:
        raise LLMError(_refusal(wish, f"{out}\n{err}"))
    if _NOT_DUE not in f"{out}{err}":
        difference.add("certificate for", None if remembered is None else "as it was", f"{', '.join(sorted(wish.names))}, new")
    if not _is_deployed(wish):  # it was there before Nginx was, or the hook has failed, which certbot only mentions
        difference.add(str(wish.deployed), None, "the newest")
        status, out, err = run([wish.hook])
        if status != 0:
            raise LLMError(f"{wish.hook} could not put the new certificate in place: {err.strip() or out.strip()}")
    return difference


def _command(wish: Wish, anew: bool) -> list[str]:
    command = ["certbot", "certonly", "--non-interactive", "--agree-tos", "--email", wish.email, "--cert-name", wish.name, "--key-type", "ecdsa"]
    command += ["--force-renewal" if anew else "--keep-until-expiring", "--renew-with-new-domains", "--deploy-hook", wish.hook, "--server", wish.server]
    command += ["--webroot", "--webroot-path", wish.webroot] if wish.webroot else ["--standalone", "--http-01-port", str(wish.port)]
    for name in wish.names:
        command += ["--domain", name]
    return command


def _remembered(wish: Wish) -> dict[str, str] | None:
    """certbot's own settings for this certificate; nothing if it has none."""
    try:
        text = (DIRECTORY / "renewal" / f"{wish.name}.conf").read_text()
    except FileNotFoundError:
        return None
    _before, _header, after = text.partition("[renewalparams]\n")
    lines = after.partition("\n[[")[0].splitlines()
    return {name.strip(): value.strip().rstrip(",") for name, found, value in (line.partition("=") for line in lines) if found}


def _compare(wish: Wish, remembered: dict[str, str], difference: Difference) -> bool:
    before = _way(remembered.get("authenticator", ""), remembered.get("webroot_path", ""), remembered.get("http01_port", "80"))
    after = _way("webroot" if wish.webroot else "standalone", wish.webroot, str(wish.port))
    way = difference.add("proven by", before, after)
    return difference.add("authority", remembered.get("server", LETS_ENCRYPT), wish.server) or way


def _way(authenticator: str, webroot: str, port: str) -> str:
    return f"the web server of {webroot}" if authenticator == "webroot" else f"{authenticator} on port {port}"


def _names(wish: Wish, run: Runner) -> str | None:
    _status, out, _err = run(["certbot", "certificates", "--cert-name", wish.name])
    found = _NAMES.search(out)
    return ", ".join(sorted(found["names"].split())) if found else None


def _is_deployed(wish: Wish) -> bool:
    try:
        return wish.deployed.read_bytes() == (DIRECTORY / "live" / wish.name / "fullchain.pem").read_bytes()
    except FileNotFoundError:
        return False


def _refusal(wish: Wish, said: str) -> str:
    reached = f"the web server that has {wish.webroot}" if wish.webroot else f"certbot on port {wish.port}"
    return (
        f"{wish.server} gives no certificate for {', '.join(wish.names)}: {'; '.join(_problems(said))}. "
        f"Each name of nginx_server_names and nginx_admin_names must lead to this host, and the authority must reach {reached} under it, at its port 80. "
        f"Nothing was replaced. More is in {LOG}."
    )


def _problems(said: str) -> Iterator[str]:
    found = list(_PROBLEM.finditer(said))
    for problem in found:
        yield f"{problem['name']}: {problem['detail'].strip()}"
    answered = _ANSWERED.findall(LOG.read_text(errors="replace")) if _LOST in said and LOG.exists() else []
    if answered:
        yield answered[-1]
    elif not found:
        words = " ".join(line.strip() for line in said.splitlines() if not _AROUND.search(line))
        yield words.replace(_REPORTED, "").rstrip(".")[-600:] or "certbot does not say why"
