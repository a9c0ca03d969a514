# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the process of one host of a vLLM server over several hosts, and holds the hosts together.

vLLM's own launch (``--nnodes``) brings them up, but nobody notices when one goes: a head without its workers stays healthy until somebody
asks it something, and workers stay for ever without their head. So each worker keeps one connection to its head. Nothing is started before
all are there and have the same configuration; when one goes, all go, and the service manager brings them up again. A worker that is told to
stop tells the head, which lets running answers end first.

    llm_nodes.py --nodes HEAD,WORKER[,WORKER] --rank N --port PORT --same DIGEST -- COMMAND...
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import ipaddress
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

RETRY = 1.0  # seconds
HELLO = 5.0  # a worker that connects has so long to say who it is
POLL = 0.5
ENDING = 10.0  # the server has so long to end its streams with an error once its engine is gone
# A host that vanishes without a word is noticed after two seconds of silence and three unanswered questions.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))

Links = dict[str, socket.socket]  # the other side's address -> the connection


class Options(t.NamedTuple):
    nodes: list[str]
    rank: int
    port: int
    same: str
    command: list[str]


def main(arguments: t.Sequence[str]) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_ignored: sys.exit(0))  # nothing runs yet
    links = gathered(options) if options.rank == 0 else joined(options)
    say("all hosts are there")
    # A session of its own, so that all of it can be ended.
    child = subprocess.Popen(options.command, env={**network(options.nodes[options.rank]), **os.environ}, start_new_session=True)
    return held(child, links, options.rank == 0)


def parsed(arguments: t.Sequence[str]) -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", required=True, type=lambda text: [str(ipaddress.ip_address(node)) for node in text.split(",")])
    parser.add_argument("--rank", required=True, type=int)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--same", required=True)
    parser.add_argument("command", nargs="+")
    return Options(**vars(parser.parse_args(arguments)))


def gathered(options: Options) -> Links:
    """The head waits until every worker is there, and lets all begin."""
    links: Links = {}
    missing = options.nodes[1:]
    with listening(options.nodes[0], options.port) as server:
        while missing:
            say(f"waits for {', '.join(missing)}")
            connection, (address, *_rest) = server.accept()
            link = greeted(connection, options) if address in options.nodes[1:] else None
            if link is None:
                connection.close()
            else:
                links[address] = link
            links = {node: one for node, one in links.items() if not is_gone(one)}
            missing = [node for node in options.nodes[1:] if node not in links]
        for one in links.values():
            one.sendall(b"go\n")
    return links


def greeted(connection: socket.socket, options: Options) -> socket.socket | None:
    """A worker says what it would run; another configuration would wait for the others for ever, or worse."""
    connection.settimeout(HELLO)
    try:
        hello = connection.recv(200).decode(errors="replace").strip()
        if hello == options.same:
            return kept(connection)
        connection.sendall(b"other\n")
    except OSError as exc:
        say(f"a worker said nothing: {exc}")
    return None


def joined(options: Options) -> Links:
    """A worker comes back to its head until that lets it begin."""
    head = options.nodes[0]
    reason = ""
    while True:
        try:
            link = kept(socket.create_connection((head, options.port), timeout=HELLO, source_address=(options.nodes[options.rank], 0)))
            link.sendall(f"{options.same}\n".encode())
            answer = link.recv(20)
            if answer == b"go\n":
                return {head: link}
            link.close()
            said = "has another configuration; it is told ours by its next run of the playbook" if answer else "began anew"
        except OSError as exc:
            said = f"does not answer ({exc})"
        if said != reason:
            say(f"waits for {head}, port {options.port}: it {said}")
        reason = said
        time.sleep(RETRY)


def held(child: subprocess.Popen[bytes], links: Links, head: bool) -> int:
    """Until the process ends, or one of the others goes."""

    def stop(*_ignored: t.Any) -> None:
        if head:
            child.terminate()
        else:
            say("is told to stop: the head ends its answers first")
            for link in links.values():
                link.sendall(b"stop\n")

    signal.signal(signal.SIGTERM, stop)
    with selectors.DefaultSelector() as selector:
        for node, link in links.items():
            link.setblocking(False)
            selector.register(link, selectors.EVENT_READ, node)
        while child.poll() is None:
            for key, _events in selector.select(POLL):
                said = heard(t.cast(socket.socket, key.fileobj))
                if said == b"":
                    say(f"{key.data} is gone: ends too")
                    ended(child, head)
                    return 1
                if said and head:
                    say(f"{key.data} is told to stop: ends what runs")
                    child.terminate()
    return child.returncode


def heard(link: socket.socket) -> bytes | None:
    """What the other side says, if it does; nothing at all: it is gone."""
    try:
        return link.recv(20)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def ended(child: subprocess.Popen[bytes], head: bool) -> None:
    """Without its engine vLLM's server tells its clients so and ends by itself; a worker has no clients."""
    for process in children(child.pid) if head else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(ENDING if head else 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def children(process: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()]
    except OSError:  # it has just ended
        return []


def is_gone(link: socket.socket) -> bool:
    link.setblocking(False)
    return heard(link) == b""


def kept(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        link.setsockopt(socket.IPPROTO_TCP, option, value)
    return link


def listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def network(address: str) -> dict[str, str]:
    """vLLM, Gloo and NCCL talk to the other hosts over this address alone. The latter two want the name of its interface."""
    psutil = importlib.import_module("psutil")  # of vLLM's environment
    wanted = ipaddress.ip_address(address)
    for name, found in psutil.net_if_addrs().items():
        for one in found:
            if one.family in (socket.AF_INET, socket.AF_INET6) and ipaddress.ip_address(one.address.partition("%")[0]) == wanted:
                return {"VLLM_HOST_IP": address, "GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    raise SystemExit(f"No interface of this host has the address {address}.")


def say(text: str) -> None:
    print(f"llm_nodes: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
