# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The load generator of tests/load against a server that ends its answers in every way there is."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.load.steady_load import BROKEN, HANG, SHORT, TOLD, WHOLE, Load, Request, Shape, Target, summary

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nx-litellm-model-id: chat@one\r\n\r\n"
REFUSAL = json.dumps({"error": {"message": "not now"}})


def chunk(data: str) -> str:
    return f"{len(data):x}\r\n{data}\r\n"


def token(word: str) -> str:
    return chunk("data: " + json.dumps({"choices": [{"delta": {"content": word}}]}) + "\n\n")


TWO = HEAD + token("a") + chunk(": ping\n\n") + token("b")
DONE = chunk("data: [DONE]\n\n") + "0\r\n\r\n"


class Server:
    """Sends what it was given to everybody, then hangs up; or holds the line, or resets it."""

    def __init__(self, answer: str, ending: str = "close") -> None:
        self.answer, self.ending, self.seen = answer, ending, b""
        self.open: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _address = self.listener.accept()
            except OSError:
                return
            self.seen = client.recv(65536)
            client.sendall(self.answer.encode())
            if self.ending == "hold":
                self.open.append(client)
                continue
            if self.ending == "reset":
                time.sleep(0.1)  # a reset overtakes what was sent before it
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()


def one(answer: str, ending: str = "close", **target: t.Any) -> tuple[Request, Server]:
    server = Server(answer, ending)
    with Load(Target("127.0.0.1", server.port, "chat", "sk-x", **target), Shape(rate=1, patience=0.3)) as load:
        time.sleep(0.05)
    server.listener.close()
    (request,) = load.requests
    return request, server


@pytest.mark.parametrize(
    ("answer", "ending", "outcome", "detail", "tokens"),
    [
        (TWO + DONE, "close", WHOLE, "", 2),
        (TWO + chunk(f"data: {REFUSAL}\n\n") + DONE, "close", TOLD, "error event: not now", 2),
        (f"HTTP/1.1 503 No\r\nContent-Length: {len(REFUSAL)}\r\n\r\n{REFUSAL}", "close", TOLD, "503 not now", 0),
        (TWO, "close", BROKEN, "IncompleteReadError", 2),
        (TWO, "reset", BROKEN, "ConnectionResetError", 2),
        ("", "close", BROKEN, "IncompleteReadError", 0),
        (TWO + "0\r\n\r\n", "close", SHORT, "ended without [DONE]", 2),
        (TWO, "hold", HANG, "silent for 0.3 s", 2),
    ],
)
def test_how_an_answer_ends(answer: str, ending: str, outcome: str, detail: str, tokens: int) -> None:
    request, _server = one(answer, ending)
    assert (request.outcome, request.detail, request.tokens) == (outcome, detail, tokens)
    assert request.lost == (tokens == 0)
    assert request.cut == (outcome != WHOLE and tokens > 0)
    assert request.end is not None


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with Load(Target("127.0.0.1", port, "chat", "sk-x"), Shape(rate=1)) as load:
        time.sleep(0.05)
    assert (load.requests[0].outcome, load.requests[0].lost) == (BROKEN, True)
    assert summary(load.requests) == "1 requests, 1 broken\n  1 broken: ConnectionRefusedError"


def test_what_is_asked_and_who_answered() -> None:
    request, server = one(TWO + DONE)
    assert b"Authorization: Bearer sk-x\r\n" in server.seen
    assert b'"messages"' in server.seen
    assert request.server == "chat@one"
    _request, server = one(TWO + DONE, path="/v1/completions")
    assert server.seen.startswith(b"POST /v1/completions ")
    assert b'"prompt"' in server.seen


def test_the_rate_holds_until_all_clients_are_busy() -> None:
    server = Server(TWO + DONE)
    with Load(Target("127.0.0.1", server.port, "chat", "sk-x"), Shape(rate=50)) as load:
        time.sleep(0.5)
    assert 15 <= len(load.requests) <= 30
    assert {request.outcome for request in load.requests} == {WHOLE}
    held = Server(TWO, "hold")
    with Load(Target("127.0.0.1", held.port, "chat", "sk-x"), Shape(rate=50, clients=3, patience=0.4)) as load:
        time.sleep(0.3)
    assert len(load.requests) in (3, 4)  # the fourth had been waiting for a place when the end came
    server.listener.close()
    held.listener.close()
