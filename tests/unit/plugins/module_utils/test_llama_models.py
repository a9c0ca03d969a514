# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The wait for a router's models, against a scripted HTTP conversation."""

from __future__ import annotations

import json
import threading
import typing as t
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._llama_models import (
    ModelFailed,
    Router,
    RouterError,
    complaints,
    wait_until_loaded,
)

FAILED = {"value": "unloaded", "failed": True, "exit_code": 1, "args": ["llama-server", "--port", "4711"]}


class Script:
    """Answers GET /models with one status after another (the last one for ever), and writes down what it was asked."""

    def __init__(self) -> None:
        self.answers: list[t.Any] = []
        self.load_status = 200
        self.requests: list[tuple[str, str, t.Any]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                self._reply(answer if isinstance(answer, int) else 200, answer, None)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._reply(script.load_status, {}, body)

            def _reply(self, status: int, answer: t.Any, body: t.Any) -> None:
                script.requests.append((self.path, self.headers.get("Authorization", ""), body))
                entries = [{"id": name, "status": state} for name, state in answer.items()] if status == 200 else []
                payload = json.dumps({"data": entries}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: t.Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def loads(self) -> list[t.Any]:
        return [body["model"] for path, _key, body in self.requests if path == "/models/load"]


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    yield server
    server.close()


def wait(script: Script, *names: str, timeout: float = 600) -> list[str]:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return wait_until_loaded(Router(script.url, "k" * 32), names, timeout, clock=lambda: now[0], sleep=sleep)


def status(value: str) -> dict[str, str]:
    return {"value": value}


def test_loaded_and_sleeping_models_need_nothing(script: Script) -> None:
    script.answers = [{"a": status("loaded"), "b": status("sleeping"), "c": FAILED}]
    assert wait(script, "a", "b") == []
    assert script.requests == [("/models", f"Bearer {'k' * 32}", None)]


def test_it_waits_while_the_router_starts_and_loads(script: Script) -> None:
    script.answers = [503, {"a": status("unloaded")}, {"a": status("loading")}, {"a": status("loaded")}]
    assert wait(script, "a") == []
    assert script.loads == []
    assert len(script.requests) == 4


def test_a_model_that_failed_is_asked_for_once(script: Script) -> None:
    script.answers = [{"a": FAILED}, {"a": status("loading")}, {"a": status("loaded")}]
    assert wait(script, "a") == ["a"]
    assert script.loads == ["a"]


def test_the_second_failure_names_the_model(script: Script) -> None:
    script.answers = [{"a": FAILED, "b": status("loading")}]
    with pytest.raises(ModelFailed, match="the model a cannot be loaded: its process ended with exit code 1") as caught:
        wait(script, "b", "a")
    assert caught.value.port == "4711"
    assert script.loads == ["a"]


def test_a_model_that_made_room_is_loaded_again_after_a_moment(script: Script) -> None:
    script.answers = [{"a": status("unloaded")}] * 20 + [{"a": status("loaded")}]
    assert wait(script, "a") == ["a"]
    assert script.loads == ["a"]


def test_a_model_that_begins_by_itself_meanwhile_is_no_error(script: Script) -> None:
    script.load_status = 400
    script.answers = [{"a": FAILED}, {"a": status("loaded")}]
    assert wait(script, "a") == ["a"]


def test_a_refused_load_is_an_error(script: Script) -> None:
    script.load_status = 500
    script.answers = [{"a": FAILED}]
    with pytest.raises(RouterError, match="answers 500 to loading the model a"):
        wait(script, "a")


def test_a_wrong_key_is_said_at_once(script: Script) -> None:
    script.answers = [401]
    with pytest.raises(RouterError, match="answers 401 .*API key"):
        wait(script, "a")
    assert len(script.requests) == 1


def test_an_unknown_model_is_named_with_the_known_ones(script: Script) -> None:
    script.answers = [{"b": status("loaded")}]
    with pytest.raises(RouterError, match="does not know the model a; it knows: b"):
        wait(script, "a")


def test_the_wait_has_an_end(script: Script) -> None:
    script.answers = [{"a": status("loading"), "b": status("loaded")}]
    with pytest.raises(RouterError, match=r"did not load all models within 5 s: not loaded yet: a \(loading\)"):
        wait(script, "a", "b", timeout=5)


def test_a_router_that_never_answers_is_given_up_early(script: Script) -> None:
    script.close()
    with pytest.raises(RouterError, match="the router does not run: no answer"):
        wait(script, "a")


def test_complaints_are_those_of_one_process() -> None:
    log = (
        "0.00.565.646 I srv          load:   three\n"
        '[4711] error while handling argument "--cache-type-v": Unsupported cache type: q9\n'
        "[4711] usage:\n"
        "[4711] 0.00.009.766 E gguf_init_from_file: failed to open GGUF file\n"
        "[4711] 0.00.009.767 I something else\n"
        "[4712] 0.00.009.768 E another model\n"
        "[4711] 0.00.009.855 E gguf_init_from_file: failed to open GGUF file\n"
    )
    assert complaints(log, "4711") == [
        'error while handling argument "--cache-type-v": Unsupported cache type: q9',
        "gguf_init_from_file: failed to open GGUF file",
    ]
