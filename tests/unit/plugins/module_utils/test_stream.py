# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import socket
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._pace import HEAP, ONE_BY_ONE
from ansible_collections.baremetal.llm.plugins.module_utils._stream import (
    Answer,
    BrokenStreamError,
    Endpoint,
    Event,
    EventParser,
    HTTPStatusError,
    Question,
    TimedOutError,
    TLSError,
    UnreachableError,
    refusal,
    stream,
)
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.scripted_stream import (
    DONE,
    START,
    Authority,
    ScriptedStream,
    Step,
    chunked,
    event,
    make_authority,
    reply,
    tokens,
)

KEY = "sk-very-secret-0123456789"
QUESTION = Question("tiny", "Count.", 16)
GENEROUS = 30.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"), "llm.example.com")


def ask(script: t.Sequence[Step], timeout: float = GENEROUS, on_token: t.Callable[[str], None] | None = None) -> Answer:
    with ScriptedStream(script) as server:
        return stream(Endpoint(server.url, api_key=KEY, timeout=timeout), QUESTION, on_token)


# The parser, on its own.

EVENTS = b": ping\r\n\r\ndata: one\r\n\r\nevent: error\ndata: two\ndata:  lines\nid: 7\n\ndata:\n\r: x\rdata: \xc3\xa9\r\r"
EXPECTED = [Event("message", "one"), Event("error", "two\n lines"), Event("message", ""), Event("message", "é")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, len(EVENTS)])
def test_events_are_the_same_however_they_are_cut(size: int) -> None:
    parser = EventParser()
    events = [found for at in range(0, len(EVENTS), size) for found in parser.feed(EVENTS[at : at + size])]
    assert events == EXPECTED


def test_an_event_comes_with_the_byte_that_completes_it() -> None:
    parser = EventParser()
    assert parser.feed(b"data: one\n") == []
    assert parser.feed(b"\n") == [Event("message", "one")]


# The conversation.


def test_a_question_is_an_openai_request() -> None:
    with ScriptedStream([START, *tokens(2), DONE]) as server:
        stream(Endpoint(server.url + "/base/", api_key=KEY), QUESTION)
        stream(Endpoint(server.url + "/v1", server_name="llm.example.com"), QUESTION)
    first, second = server.requests
    assert first.line == "POST /base/v1/chat/completions HTTP/1.1"
    assert second.line == "POST /v1/chat/completions HTTP/1.1"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second.headers
    assert (first.headers["host"], second.headers["host"]) == (server.url[len("http://") :], "llm.example.com")
    assert first.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_answer_with_everything() -> None:
    said: list[str] = []
    thought = b'data: {"choices": [{"delta": {"role": "assistant", "content": null, "reasoning_content": "hm"}}]}\n\n'
    finish = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 5}}\n\n'
    packets = [START, b": ping\n\n", thought, event(" \u00e9t\u00e9", usage=None), finish, usage, DONE]
    answer = ask(packets, on_token=said.append)
    assert said == ["hm", " \u00e9t\u00e9"]
    assert (answer.text, answer.finish_reason) == ("hm \u00e9t\u00e9", "length")
    assert (answer.pace.tokens, answer.pace.events) == (5, 2)


def test_events_one_by_one() -> None:
    script: list[Step] = [START]
    for token in tokens(12):
        script += [0.03, token]
    pace = ask([*script, DONE]).pace
    assert pace.delivery == ONE_BY_ONE
    assert pace.tokens == pace.events == 12
    assert 0.03 <= (pace.first_token or 0) < pace.total


@pytest.mark.parametrize("secure", [False, True], ids=["packets", "TLS records"])
def test_what_was_held_back_and_let_go_is_a_heap(authority: Authority, secure: bool) -> None:
    """Sixty events, each in a packet of its own, are all there before the reader comes back for the second one."""
    script: list[Step] = [START, event("first"), 0.3, *tokens(60), DONE]
    with ScriptedStream(script, tls=authority.server if secure else None) as server:
        endpoint = Endpoint(server.url, verify=False, timeout=GENEROUS)
        pace = stream(endpoint, QUESTION, lambda text: time.sleep(1.5) if text == "first" else None).pace
    assert pace.delivery == HEAP
    assert pace.arrivals == 2
    assert pace.tokens_per_second is None


@pytest.mark.parametrize("size", [1, 3, 50])
def test_events_split_across_packets(size: int) -> None:
    head = START.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    body = chunked(*tokens(4), DONE, b"")
    answer = ask([head, *(body[at : at + size] for at in range(0, len(body), size))])
    assert answer.text == " 0 1 2 3"


def test_a_slow_first_token_is_seen() -> None:
    pace = ask([START, 0.5, *tokens(3), DONE]).pace
    assert 0.5 <= (pace.first_token or 0) < 0.5 + GENEROUS


# What can go wrong.


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ([], "after 3 tokens, without [DONE]"),
        ([b'data: {"error": {"message": "the engine ran out of memory", "code": 500}}\n\n'], "ran out of memory"),
        ([b'event: error\ndata: {"message": "the engine is gone"}\n\n'], "the engine is gone"),
        ([b"event: error\ndata: plain words\n\n"], "plain words"),
        ([b"data: not json\n\n"], "not json"),
        ([b'data: {"error": "wrong key %s"}\n\n' % KEY.encode()], "wrong key (the key)"),
    ],
)
def test_a_stream_that_does_not_end_well_is_broken(ending: list[bytes], words: str) -> None:
    with pytest.raises(BrokenStreamError) as caught:
        ask([START, *tokens(3), *ending])
    assert words in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_chunked_stream_that_is_cut_is_broken() -> None:
    head = START.replace(b"Connection: close", b"Transfer-Encoding: chunked")
    with pytest.raises(BrokenStreamError, match="after 3 tokens"):
        ask([head, chunked(*tokens(3))])


def test_an_answer_that_is_no_stream_is_broken() -> None:
    with pytest.raises(BrokenStreamError, match="answered with application/json"):
        ask([reply("200 OK", {"choices": []}, "Content-Type: application/json")])


def test_a_server_that_hangs_up_at_once() -> None:
    with pytest.raises(BrokenStreamError, match="hung up before it answered"):
        ask([b""])


@pytest.mark.parametrize(
    ("answer", "status", "retry_after", "sentence"),
    [
        (
            reply("401 Unauthorized", {"error": {"message": f"No such key:\n {KEY}"}}),
            401,
            None,
            "answered 401 Unauthorized: No such key: (the key)",
        ),
        (
            reply("429 Too Many Requests", {"error": {"message": "Slow down."}}, "Retry-After: 7"),
            429,
            "7",
            "answered 429 Too Many Requests (retry after 7 s): Slow down.",
        ),
        (reply("404 Not Found", {"detail": "no such route"}), 404, None, "404 Not Found: no such route"),
        (reply("502 Bad Gateway", b"<html>a page</html>"), 502, None, "answered 502 Bad Gateway."),
        (reply("500 Oops", b"x" * 1000), 500, None, "x" * 300 + "..."),
    ],
)
def test_a_status_carries_the_servers_message(answer: bytes, status: int, retry_after: str | None, sentence: str) -> None:
    with pytest.raises(HTTPStatusError) as caught:
        ask([answer])
    assert (caught.value.status, caught.value.retry_after) == (status, retry_after)
    assert str(caught.value).endswith(sentence)
    assert KEY not in str(caught.value)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"Nothing answers at http://127.0.0.1:{port} .Connection refused."):
        stream(Endpoint(f"http://127.0.0.1:{port}"), QUESTION)


@pytest.mark.parametrize("script", [[GENEROUS], [START, *tokens(2), GENEROUS], [START, *[b": ping\n\n", 0.05] * 600]])
def test_an_answer_that_takes_too_long(script: list[Step]) -> None:
    with pytest.raises(TimedOutError, match=r"no complete answer of tiny within 0\.5 s"):
        ask(script, timeout=0.5)


# TLS.


def test_tls_with_a_private_authority(authority: Authority) -> None:
    with ScriptedStream([START, *tokens(2), DONE], tls=authority.server) as server:
        for endpoint in (
            Endpoint(server.url, ca_file=str(authority.path), server_name="llm.example.com"),
            Endpoint(server.url, ca_pem=authority.path.read_text(), server_name="192.0.2.1"),
            Endpoint(server.url, ca_file=str(authority.path.with_name("server.crt")), server_name="llm.example.com"),
            Endpoint(server.url, verify=False),
        ):
            assert stream(endpoint, QUESTION).text == " 0 1"


@pytest.mark.parametrize(
    ("trusted", "server_name", "words"),
    [(True, None, "does not pass for 127.0.0.1"), (False, "llm.example.com", "does not pass for llm.example.com")],
)
def test_a_certificate_that_does_not_pass(authority: Authority, trusted: bool, server_name: str | None, words: str) -> None:
    with ScriptedStream([START, DONE], tls=authority.server) as server:
        endpoint = Endpoint(server.url, ca_file=str(authority.path) if trusted else None, server_name=server_name)
        with pytest.raises(TLSError, match=words):
            stream(endpoint, QUESTION)
    assert server.requests == []


def test_a_server_without_tls() -> None:
    with ScriptedStream([START, DONE]) as server, pytest.raises(TLSError, match="speaks no TLS"):
        stream(Endpoint(server.url.replace("http:", "https:"), timeout=0.5), QUESTION)


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.crt")
    with pytest.raises(TLSError, match=r"missing\.crt"):
        stream(Endpoint("https://127.0.0.1:1", ca_file=missing), QUESTION)
    with pytest.raises(TLSError, match="the text given for it"):
        stream(Endpoint("https://127.0.0.1:1", ca_pem="no certificate"), QUESTION)


# Keys.


def test_refusal_asks_without_the_key() -> None:
    with ScriptedStream([reply("401 Unauthorized", {})], [START, *tokens(1), DONE]) as server:
        endpoint = Endpoint(server.url, api_key=KEY)
        refused = refusal(endpoint, QUESTION)
        served = refusal(endpoint, QUESTION)
    assert refused is not None
    assert refused.status == 401
    assert served is None
    assert all("authorization" not in request.headers for request in server.requests)


def test_the_key_does_not_show() -> None:
    assert KEY not in repr(Endpoint("http://127.0.0.1", api_key=KEY))
    with pytest.raises(InputError) as caught:
        Endpoint("http://127.0.0.1", api_key=KEY + "\n")
    assert KEY not in str(caught.value)
    with pytest.raises(InputError) as caught:
        Endpoint(f"http://user:{KEY}@127.0.0.1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "https://", "http://host:99999", "http://host:0"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a service"):
        Endpoint(url)
