# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import threading
import typing as t
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import Api, ApiError, UnreachableError, hashed

KEY = "sk-" + "a" * 64


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: t.ClassVar[list[tuple[str, str | None, bytes]]] = []
    answers: t.ClassVar[list[tuple[int, bytes]]] = []

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((f"{self.command} {self.path}", self.headers["Authorization"], body))
        status, text = self.answers.pop(0)
        if not status:  # hangs up
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_arguments: t.Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Handler.seen.clear()
    yield Api(f"http://127.0.0.1:{server.server_port}", "sk-master")
    server.shutdown()
    server.server_close()


def test_lists_come_in_pages(api: Api) -> None:
    Handler.answers[:] = [(200, json.dumps({"keys": [{"token": str(page)}], "total_pages": 2}).encode()) for page in (1, 2)]
    assert api.pages("/key/list", "keys", "size", return_full_object="true") == [{"token": "1"}, {"token": "2"}]
    assert [seen[:2] for seen in Handler.seen] == [(f"GET /key/list?page={page}&size=100&return_full_object=true", "Bearer sk-master") for page in (1, 2)]


def test_what_is_posted(api: Api) -> None:
    Handler.answers[:] = [(200, b"{}")]
    assert api.post("/key/update", {"key": hashed(KEY)}) == {}
    assert Handler.seen[0][2] == json.dumps({"key": hashed(KEY)}).encode()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"error": {"message": f"No {KEY} here, hash {hashed(KEY)}"}}),
        json.dumps({"detail": {"error": f"No {KEY} here, hash {hashed(KEY)}"}}),
        json.dumps({"detail": f"No {KEY} here, hash {hashed(KEY)}"}),
        f"No {KEY} here, hash {hashed(KEY)}",
    ],
)
def test_an_error_has_neither_keys_nor_hashes(api: Api, text: str) -> None:
    Handler.answers[:] = [(400, text.encode())]
    with pytest.raises(ApiError, match=r"^LiteLLM refused /key/generate with 400: No \(key\) here, hash \(hash\)$"):
        api.post("/key/generate", {"key": KEY})


def test_a_master_key_that_it_does_not_know(api: Api) -> None:
    Handler.answers[:] = [(401, json.dumps({"error": {"message": f"Received API Key = sk-...{KEY[-4:]}"}}).encode())]
    with pytest.raises(ApiError, match="llm_master_key, or .* is not the one that it runs with") as refused:
        api.get("/team/list")
    assert KEY[-4:] not in str(refused.value)


def test_a_connection_that_broke(api: Api) -> None:
    Handler.answers[:] = [(200, b"{}"), (0, b""), (200, b"{}")]
    api.get("/a")
    assert api.get("/b") == {}
    Handler.answers[:] = [(0, b"")]
    with pytest.raises(ApiError, match="broke off at /key/generate: .*it goes on where it was"):
        api.post("/key/generate", {})
    Handler.answers[:] = [(200, b"<html>")]
    with pytest.raises(ApiError, match="it is no JSON"):
        api.get("/a")


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="LiteLLM does not answer at http://127.0.0.1:1: look at systemctl status llm-litellm"):
        Api("http://127.0.0.1:1", "x").get("/a")
    with pytest.raises(InputError, match="url is 'https://x'"):
        Api("https://x", "x")


def test_the_hash_is_litellms() -> None:
    assert hashed("sk-1234") == "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
