# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""TCP ports of this host that only given addresses may reach, as one table of nftables that is ours alone.

Other tables, their policies and every other port stay as they are. Only the beginning of a connection is looked at, before destination NAT, so
published ports of containers are guarded too; what already runs is not cut, and answers to this host's own connections always come in.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import tempfile
import typing as t
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils import _systemd
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner

Ports = tuple[int, int]  # the first and the last
Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

NFT = Path("/usr/sbin/nft")
RULES = Path("/etc/llm/firewall/llm.nft")
UNIT = "llm-firewall"
TABLE = ("inet", "llm")
SSH = 22
_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NAME = f"table {' '.join(TABLE)}"
_HEAD = f"""\
# Managed by the Ansible collection baremetal.llm. All of it comes into force at once; no other table is touched.
{_NAME} {{}}
delete {_NAME}
{_NAME} {{
    chain guard {{
        # before destination NAT, which would hide the ports that containers publish
        type filter hook prerouting priority raw; policy accept;
        iif lo accept
        # only the first packet of a connection from outside is judged
        tcp flags & (syn | ack) != syn accept
        fib daddr type != local accept
"""


class NftablesError(LLMError):
    """nft refused; the message carries what it said."""


@dataclass(frozen=True)
class Rule:
    """``ports`` are closed to everybody but ``sources``: addresses, networks, or names, which this host looks up. Rules for the same port add up.

    A range such as ``32768-60999`` is like one more port; a port in it that has a rule goes by that rule alone.
    """

    ports: tuple[int | str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    changed: bool
    diff: dict[str, str]


def present(rules: Sequence[Rule], unit: str, run: Runner, check: bool) -> Outcome:
    """Write the rules and the unit that loads them at boot, and let the kernel have exactly them.

    What the kernel has is compared with what nft makes of the rules in an empty network namespace, so both are in nft's own words, and whatever
    somebody flushed or added in our table is a difference.
    """
    text = render(rules)
    difference = Difference()
    if NFT.exists():
        wanted = _made_of(text, run)
        difference.add(f"{_NAME} in the kernel", _live(run), wanted)
    elif check:
        wanted = text  # the first run has not installed nft yet
        difference.add(f"{_NAME} in the kernel", None, wanted)
    else:
        raise NftablesError(f"{NFT} is not there: install nftables first (role firewall).")
    app = _systemd.App(
        UNIT,
        unit,
        files=(FileSpec(RULES, text, validate=(str(NFT), "--check", "--file", "%s")),),
        reloadable=frozenset({RULES}),
    )
    service = _systemd.present(app, run, check)
    if not check and _live(run) != wanted:
        _nft(run, "--file", str(RULES))
        if _live(run) != wanted:
            raise NftablesError(f"{_NAME} is not as {RULES} says although nft has read it: does another program write into that table?")
    return _outcome(difference, service)


def absent(run: Runner, check: bool) -> Outcome:
    """Take the table out of the kernel, and the unit and its file away."""
    difference = Difference()
    live = _live(run) if NFT.exists() else None
    difference.add(f"{_NAME} in the kernel", live, None)
    exists = difference.add(str(RULES), "present" if RULES.exists() else None, None)
    service = _systemd.absent(UNIT, run, check)
    if not check:
        if live is not None:
            _nft(run, "delete", "table", *TABLE)
        if exists:
            RULES.unlink()
            if not any(RULES.parent.iterdir()):
                RULES.parent.rmdir()
    return _outcome(difference, service)


def render(rules: Sequence[Rule]) -> str:
    """The file for ``nft --file``. Ports with the same sources share a line, and ranges come last."""
    lines = []
    for sources, target in _targets(_by_port(rules)):
        for family, version in (("ip", 4), ("ip6", 6)):
            if mine := [_short(network) for network in sources if network.version == version]:
                lines.append(f"        {target} {family} saddr {_set(mine)} accept\n")
        lines.append(f"        {target} reject with tcp reset\n")
    return f"{_HEAD}{''.join(lines)}    }}\n}}\n"


def _targets(ports: dict[Ports, tuple[Network, ...]]) -> Iterator[tuple[tuple[Network, ...], str]]:
    groups: dict[tuple[Network, ...], list[str]] = {}
    for (first, last), sources in sorted(ports.items()):
        if first == last:
            groups.setdefault(sources, []).append(str(first))
    for sources, single in groups.items():
        yield sources, f"tcp dport {_set(single)}"
    for (first, last), sources in sorted(ports.items()):
        if first != last:
            yield sources, f"tcp dport {first}-{last}"


def _by_port(rules: Sequence[Rule]) -> dict[Ports, tuple[Network, ...]]:
    found: dict[Ports, list[Network]] = {}
    for number, rule in enumerate(rules):
        where = f"rules[{number}]"
        sources = [network for source in rule.sources for network in _networks(where, source)]
        for port in rule.ports:
            found.setdefault(_ports(where, port), []).extend(sources)
    return {ports: _collapsed(sources) for ports, sources in found.items()}


def _ports(where: str, port: int | str) -> Ports:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", str(port))
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise InputError(f"{where}: {port} is no TCP port: it must be a number from 1 to 65535, or a range of them such as 32768-60999.")
    if first <= SSH <= last:
        raise InputError(f"{where}: port {SSH} is how this host is reached and is not ours to guard: take it out.")
    return first, last


def _networks(where: str, source: str) -> list[Network]:
    try:
        network: Network = ipaddress.ip_network(source)
    except ValueError:
        return _looked_up(where, source)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return [network if mapped is None else ipaddress.ip_network((mapped, network.prefixlen - 96))]


def _looked_up(where: str, source: str) -> list[Network]:
    """What a name stands for on this host at the moment."""
    if not _HOST_NAME.fullmatch(source):
        try:
            near = f": did you mean {ipaddress.ip_network(source, strict=False)}?"
        except ValueError:
            near = "."
        raise InputError(f"{where}: source {source!r} is no IP address, no network and no name{near}")
    try:
        found = socket.getaddrinfo(source, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise InputError(f"{where}: this host does not know the name {source} ({exc}): give the address (in an inventory llm_address of {source}).") from exc
    return [ipaddress.ip_network(str(answer[4][0]).partition("%")[0]) for answer in found]


def _collapsed(networks: Iterable[Network]) -> tuple[Network, ...]:
    """nft refuses a set whose elements overlap."""
    given = list(networks)
    four = [network for network in given if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in given if isinstance(network, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))


def _short(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _set(elements: Iterable[str]) -> str:
    return f"{{ {', '.join(elements)} }}"


def _live(run: Runner) -> str | None:
    """Our table as the kernel has it; ``None`` if there is none."""
    if _NAME not in _nft(run, "list", "tables").splitlines():
        return None
    return _nft(run, "--stateless", "list", "table", *TABLE)


def _made_of(text: str, run: Runner) -> str:
    script = 'exec 2>&1; "$1" --file "$2" && exec "$1" --stateless list table "$3" "$4"'
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, RULES.name)
        file.write_text(text)
        status, out, err = run(["unshare", "--net", "sh", "-c", script, "sh", str(NFT), str(file), *TABLE])
    if status != 0:
        raise NftablesError(f"nft refuses the rules, so nothing was changed: {(out + err).strip()[-2000:]}")
    return out


def _nft(run: Runner, *arguments: str) -> str:
    status, out, err = run([str(NFT), *arguments])
    if status != 0:
        raise NftablesError(f"nft {' '.join(arguments)} failed: {err.strip() or out.strip()}")
    return out


def _outcome(difference: Difference, service: _systemd.Outcome) -> Outcome:
    own = difference.as_dict()
    return Outcome(
        difference.changed or service.changed,
        {side: own[side] + service.diff.get(side, "") for side in ("before", "after")},
    )
