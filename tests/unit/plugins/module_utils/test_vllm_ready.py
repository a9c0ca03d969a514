# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The wait for a vLLM server and its first requests, against a server that is scripted."""

from __future__ import annotations

import json
import threading
import typing as t
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._vllm_ready import (
    NotReady,
    Server,
    complaints,
    is_warm,
    wait_until_healthy,
    warm_up,
)

KEY = "key-of-the-engine"


class Fake:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.health = [200]
        self.served = 0
        self.asked: list[tuple[str, dict[str, t.Any]]] = []
        self.completion = 200
        self.url = ""


@pytest.fixture
def fake() -> Iterator[Fake]:
    script = Fake()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content.encode())

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(script.health.pop(0) if len(script.health) > 1 else script.health[0], "")
            elif self.path == "/metrics":
                labels = 'engine="0",finished_reason="length",model_name="tiny"'
                self.answer(200, f"# HELP\nvllm:request_success_total{{{labels}}} {script.served:.1f}\nvllm:other 3.0\n")
            elif self.headers["Authorization"] == f"Bearer {KEY}":
                self.answer(200, json.dumps({"data": [{"id": "tiny", "max_model_len": 128}]}))
            else:
                self.answer(401, "Unauthorized")

        def do_POST(self) -> None:
            script.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.answer(script.completion, "{}" if script.completion == 200 else '{"error": "no memory"}')

        def log_message(self, *_arguments: t.Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


def no_sleep(_seconds: float) -> None:
    pass


def test_it_waits_until_the_server_is_healthy(fake: Fake) -> None:
    fake.health = [503, 503, 200]
    slept: list[float] = []
    wait_until_healthy(Server(fake.url, "tiny"), 60, lambda: 0, sleep=slept.append)
    assert len(slept) == 2


def test_nobody_waits_for_a_server_that_died(fake: Fake) -> None:
    fake.health = [503]
    counts = iter([3, 3, 4])
    with pytest.raises(NotReady, match="it died while it started"):
        wait_until_healthy(Server(fake.url, "tiny"), 60, lambda: next(counts), sleep=no_sleep)


def test_the_wait_ends(fake: Fake) -> None:
    fake.health = [503]
    clock = iter([0.0, 5.0, 11.0])
    with pytest.raises(NotReady, match="it was not healthy within 10 s: .* answered 503"):
        wait_until_healthy(Server(fake.url, "tiny"), 10, lambda: 0, lambda: next(clock), no_sleep)


def test_first_prompts_have_the_lengths_that_were_asked_for(fake: Fake) -> None:
    warmed = warm_up(Server(fake.url, "tiny", KEY), [1024, 8, 8], 10)
    assert [warmth.tokens for warmth in warmed] == [8, 126]  # the context less the answer
    assert [(path, len(body["prompt"]), body["model"]) for path, body in fake.asked] == [("/v1/completions", 8, "tiny"), ("/v1/completions", 126, "tiny")]
    assert fake.asked[0][1]["cache_salt"] != fake.asked[1][1]["cache_salt"]


def test_an_embedding_model_gets_its_own_route(fake: Fake) -> None:
    warm_up(Server(fake.url, "tiny", KEY), [4], 10, "pooling")
    assert [(path, len(body["input"])) for path, body in fake.asked] == [("/v1/embeddings", 4)]


def test_a_warm_server_is_known_by_its_metrics(fake: Fake) -> None:
    assert not is_warm(Server(fake.url, "tiny"))
    fake.served = 1
    assert is_warm(Server(fake.url, "tiny"))


def test_a_failed_request_says_why_and_shows_no_key(fake: Fake) -> None:
    fake.completion = 500
    with pytest.raises(NotReady) as caught:
        warm_up(Server(fake.url, "tiny", KEY), [4], 10)
    assert '/v1/completions answered 500: {"error": "no memory"}' in str(caught.value)
    assert KEY not in str(caught.value) + repr(Server(fake.url, "tiny", KEY))
    with pytest.raises(NotReady, match="answered 401"):
        warm_up(Server(fake.url, "tiny", "another"), [4], 10)


LOG = """\
Starting llm-vllm.service - vLLM...
(EngineCore pid=9) ERROR 11-21 16:20:15 [core.py:1] ValueError: of an earlier start
Starting llm-vllm.service - vLLM...
Started llm-vllm.service - vLLM.
  warnings.warn(
(APIServer pid=1) WARNING 11-21 16:20:15 [system_utils.py:255] this can cause `OSError: [Errno 24] Too many open files`.
(Worker pid=3) ERROR 11-21 16:20:16 [x.py:1] Traceback (most recent call last):
(Worker pid=3) ERROR 11-21 16:20:16 [x.py:1] RuntimeError: Insufficient space in /dev/shm
(Worker pid=3) ERROR 11-21 16:20:17 [x.py:1] RuntimeError: Insufficient space in /dev/shm
(EngineCore pid=2) ERROR 11-21 16:20:18 [core.py:1] RuntimeError: Engine core initialization failed.
Starting llm-vllm.service - vLLM...
Started llm-vllm.service - vLLM.
"""


def test_the_log_is_told_from_its_last_complaint_on() -> None:
    assert complaints(LOG) == ["RuntimeError: Insufficient space in /dev/shm", "RuntimeError: Engine core initialization failed."]


def test_a_log_without_errors_is_told_from_its_end() -> None:
    log = "Starting llm-vllm.service - vLLM...\nOperation not permitted (src/thread.cpp:315)\nMain process exited, code=killed, status=6/ABRT\n"
    assert complaints(log) == ["Operation not permitted (src/thread.cpp:315)", "Main process exited, code=killed, status=6/ABRT"]
