# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What clients see of routes and of engines that fail: the real LiteLLM, configured by ``_routes.py``, before stand-ins for engines that answer,
refuse, break off and vanish on demand.

    tests/bench/routing.py --litellm /opt/llm/litellm/current/bin/litellm
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._routes import litellm_routes, route_errors  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._stream import Endpoint, HTTPStatusError, Question, stream  # noqa: E402
from ansible_collections.baremetal.llm.plugins.module_utils._topology import litellm_models  # noqa: E402

KEY = "sk-" + "0" * 32
ROUTES: dict[str, dict[str, t.Any]] = {
    "auto": {"models": [{"model": "small", "up_to": 1000}, {"model": "large"}]},
    "once": {"models": [{"model": "large"}], "retries": 0},
}
REFUSAL = "request (5010 tokens) exceeds the available context size (4096 tokens), try increasing it"
SHORT, LONG, TOO_LONG = 5, 3000, 40000  # words, about as many tokens


class Engine(ThreadingHTTPServer):
    """A stand-in for an engine.

    ``mood``: ok, refuse (the prompt), fail (500), cut (the stream, after three tokens), early (the same before the first), quiet (it ends after
    three tokens as if that were all, as llama.cpp's router does when the process of a model dies).
    """

    daemon_threads = True
    mood = "ok"
    asked = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """LiteLLM hangs up now and then; that is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        if self.server.mood == "refuse":
            self.answer(400, {"error": {"code": 400, "message": REFUSAL, "type": "exceed_context_size_error"}})
        elif self.server.mood == "fail":
            self.answer(500, {"error": {"code": 500, "message": "out of order", "type": "server_error"}})
        else:
            self.stream(asked["model"])

    def answer(self, status: int, content: t.Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model}
        for number in range(8):
            if (self.server.mood, number) in (("cut", 3), ("early", 0)):
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if (self.server.mood, number) == ("quiet", 3):
                self.wfile.write(b"0\r\n\r\n")
                return
            self.event({**head, "choices": [{"index": 0, "delta": {"content": f"{model} "}, "finish_reason": None}]})
            time.sleep(0.02)
        self.event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, content: t.Any) -> None:
        line = f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def log_message(self, format: str, *args: t.Any) -> None:
        pass


class BlackHole:
    """A port that swallows packets: its queue of connections is full, and nobody takes one."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.server_port = self.listener.getsockname()[1]
        self.waiting = [socket.socket() for _number in range(3)]
        for one in self.waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", self.server_port))


class Saw(t.NamedTuple):
    seconds: float
    what: str


def ask(port: int, model: str, words: int = SHORT) -> Saw:
    """What a client saw, and after how long: the model that answered, or the error."""
    begun = time.monotonic()
    try:
        answer = stream(Endpoint(f"http://127.0.0.1:{port}", api_key=KEY), Question(model, "word " * words, 16))
        what = answer.text.split()[0]
    except HTTPStatusError as exc:
        what = f"{exc.status} {exc.message}"
    except LLMError as exc:
        what = str(exc)
    return Saw(time.monotonic() - begun, " ".join(what.replace("litellm.", "").split())[:110])


def endpoint(model: str, port: int, context: int) -> dict[str, t.Any]:
    url = f"http://127.0.0.1:{port}"
    return {"model": model, "host": "here", "port": port, "mode": "chat", "url": url, "max_input_tokens": context}


def configuration(endpoints: list[dict[str, t.Any]], given: argparse.Namespace) -> dict[str, t.Any]:
    """As the role litellm writes it."""
    if wrong := route_errors(ROUTES, endpoints):
        raise SystemExit("\n".join(wrong))
    routed = litellm_routes(ROUTES, endpoints)
    return {
        "model_list": [*litellm_models(endpoints), *routed["models"]],
        "litellm_settings": {"drop_params": True, "request_timeout": 3600, "callbacks": ["llm_gateway.gateway"] if given.hook else []},
        "router_settings": {
            "routing_strategy": "least-busy",
            "num_retries": 2,
            "allowed_fails": given.allowed_fails,
            **({"allowed_fails_policy": {"InternalServerErrorAllowedFails": given.allowed_fails}} if given.policy else {}),
            "cooldown_time": given.cooldown,
            "enable_pre_call_checks": True,
            **routed["router_settings"],
        },
        "general_settings": {"master_key": KEY},
        "credential_list": [{"credential_name": "engine", "credential_info": {}, "credential_values": {"api_key": "x"}}],
    }


@contextlib.contextmanager
def litellm(config: dict[str, t.Any], given: argparse.Namespace) -> t.Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as place:
        Path(place, "config.yaml").write_text(json.dumps(config))
        shutil.copy(ROOT / "roles/litellm/files/llm_gateway.py", place)
        command = [given.litellm, "--config", f"{place}/config.yaml", "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "DISABLE_ADMIN_UI": "True", "NO_DOCS": "True"}
        with Path(place, "log").open("w") as log:
            process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=place)
        try:
            for _second in range(180):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/readiness", timeout=5):
                    break
                if process.poll() is not None:
                    raise SystemExit(Path(place, "log").read_text()[-3000:])
                time.sleep(1)
            yield port
        finally:
            process.terminate()
            process.wait()


def trips(port: int, model: str, engine: Engine | None) -> tuple[int, Saw, Saw]:
    """Requests that fail until the breaker lets none through, the first of them, and the first that it refuses."""
    first = ask(port, model)
    for number in range(2, 40):
        before = engine.asked if engine else 0
        saw = ask(port, model)
        if (engine.asked == before) if engine else saw.seconds < 1:
            return number - 1, first, saw
    raise SystemExit(f"The breaker of {model} never trips.")


def measure(port: int, engines: dict[str, Engine], spare: Engine) -> t.Iterator[tuple[str, Saw]]:
    ask(port, "small")
    yield "short prompt", ask(port, "auto", SHORT)
    yield "long prompt", ask(port, "auto", LONG)
    yield "longer than any context", ask(port, "auto", TOO_LONG)
    engines["small"].mood = "refuse"
    yield "short prompt, which the engine finds too long", ask(port, "auto", SHORT)
    engines["small"].mood = "cut"
    yield "engine killed in the stream", ask(port, "small")
    engines["small"].mood = "quiet"
    yield "  and what stands before it ends the stream", ask(port, "small")
    engines["small"].mood = "early"
    yield "engine killed before the first token, no other", ask(port, "small")
    spare.mood = "early"
    yield "  one of two, whichever", ask(port, "twins")
    yield "  again", ask(port, "twins")
    spare.mood = "ok"
    engines["small"].mood = "fail"
    yield "short prompt, its engine fails", ask(port, "auto", SHORT)
    engines["small"].mood = "ok"
    engines["large"].mood = "fail"
    before = engines["large"].asked
    once = ask(port, "once")
    yield f"engine fails on a route with retries 0: attempts {engines['large'].asked - before}", once
    failed, first, refused = trips(port, "large", engines["large"])
    yield "single deployment fails: first request", first
    yield f"  refused by the breaker after {failed} failed requests", refused
    for _request in range(6):
        saw = ask(port, "auto", LONG)
    yield "  long prompt while its only deployment rests", saw
    engines["large"].mood = "ok"
    begun = time.monotonic()
    while (saw := ask(port, "large")).what != "large":
        time.sleep(0.25)
    yield "  engine is back: seconds until the breaker closes", Saw(time.monotonic() - begun, saw.what)
    yield "one of two swallows packets: first request", ask(port, "pair")
    yield "  slowest of the next 20", max(ask(port, "pair") for _request in range(20))
    failed, first, refused = trips(port, "hole", None)
    yield "the only one swallows packets: first request", first
    yield f"  refused by the breaker after {failed} failed requests", refused


def main() -> int:
    parser = argparse.ArgumentParser(description="What clients see of routes and of engines that fail.")
    parser.add_argument("--litellm", default="/opt/llm/litellm/current/bin/litellm")
    parser.add_argument("--cooldown", type=int, default=30)
    parser.add_argument("--allowed-fails", type=int, default=1)
    parser.add_argument("--no-policy", dest="policy", action="store_false", help="leave out allowed_fails_policy")
    parser.add_argument("--no-hook", dest="hook", action="store_false", help="leave out llm_gateway.py")
    given = parser.parse_args()
    engines = {"small": Engine(), "large": Engine()}
    pair, spare, hole = Engine(), Engine(), BlackHole()
    endpoints = [
        endpoint("small", engines["small"].server_port, 8192),
        endpoint("large", engines["large"].server_port, 32768),
        endpoint("pair", hole.server_port, 8192),
        endpoint("pair", pair.server_port, 8192),
        endpoint("hole", hole.server_port, 8192),
        endpoint("twins", spare.server_port, 8192),
        endpoint("twins", pair.server_port, 8192),
    ]
    with litellm(configuration(endpoints, given), given) as port:
        for name, saw in measure(port, engines, spare):
            print(f"{name:<58}{saw.seconds:>7.2f} s  {saw.what}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
