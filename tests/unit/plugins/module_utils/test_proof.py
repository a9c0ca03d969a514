# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is asked, in which order, and what the answers count for. Real sockets; the scripts say what a server sends."""

from __future__ import annotations

import socket
import threading
import time
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _proof
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._proof import (
    EmptyAnswerError,
    Finding,
    HeapError,
    OpenDoorError,
    Target,
    prove,
)
from ansible_collections.baremetal.llm.plugins.module_utils._proof_advice import Advice, advise, kind_of
from ansible_collections.baremetal.llm.plugins.module_utils._proof_report import problems, summary, table
from ansible_collections.baremetal.llm.plugins.module_utils._stream import (
    BrokenStreamError,
    Endpoint,
    HTTPStatusError,
    HungUpError,
    TimedOutError,
    TLSError,
    UnreachableError,
    WrongKindError,
)
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.scripted_stream import (
    DONE,
    START,
    ScriptedStream,
    Step,
    event,
    reply,
    tokens,
)

KEY = "sk-very-secret-0123456789"
REFUSED: list[Step] = [reply("401 Unauthorized", {"error": {"message": "No key."}})]
HEAP: list[Step] = [START, 0.2, b"".join(tokens(30)), DONE]


def paced(count: int = 10, **headers: str) -> list[Step]:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    script: list[Step] = [START[:-2] + more + b"\r\n"]
    for token in tokens(count):
        script += [0.02, token]
    return [*script, DONE]


def served_by(deployment: str, count: int = 10) -> list[Step]:
    return paced(count, **{"x-litellm-model-id": deployment})


def json_reply(content: t.Any, status: str = "200 OK", *headers: str) -> list[Step]:
    return [reply(status, content, "Content-Type: application/json", *headers)]


def engine(server: ScriptedStream, model: str = "chat", host: str = "gpu01", mode: str = "chat") -> Target:
    return Target(model, mode, Endpoint(server.url, KEY, timeout=30), host)


def ask(*targets: Target) -> list[Finding]:
    return prove(targets, "Go.", 16).findings


def nobody() -> Target:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Target("chat", "chat", Endpoint(f"http://127.0.0.1:{port}", KEY), "gpu09")


def test_engines_and_the_front_door() -> None:
    scripts = served_by("chat@gpu02:8081"), served_by("auto/chat@gpu01:8081"), REFUSED
    with ScriptedStream(paced(12), REFUSED) as one, ScriptedStream(paced(), REFUSED) as two, ScriptedStream(*scripts) as door:
        targets = [engine(one), engine(two, host="gpu02"), engine(door, host=""), engine(door, "auto", host="")]
        proof = prove(targets, "Go.", 16)
    assert [finding.state for finding in proof.findings] == ["served"] * 4
    assert proof.unauthorized == 401
    assert [request.body["model"] for request in door.requests] == ["chat", "auto", "auto"]
    assert ["authorization" in request.headers for request in one.requests] == [True, False]
    head, first, *_between, last = table(proof.findings)
    assert head.split() == ["model", "asked", "answered", "by", "first", "token", "tokens/s", "tokens", "total", "result"]
    assert first.split()[:4] == ["chat", "gpu01", one.url[len("http://") :], "-"]
    assert first.endswith("one by one")
    assert last.split()[:5] == ["auto", "front", "door", "chat", "on"]
    assert summary(proof.findings, proof.unauthorized) == "All 4 are served. Without a key the front door answers 401."


def test_hosts_at_the_same_time_and_models_of_one_host_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, float]] = []
    together = threading.Barrier(2, timeout=10)

    def slowly(target: Target, _prompt: str, _max_tokens: int) -> Finding:
        seen.append((target.model, "begin", time.monotonic()))
        if target.model in ("a", "c"):
            together.wait()  # fails unless both are being asked
        seen.append((target.model, "end", time.monotonic()))
        return Finding(target, words="well")

    monkeypatch.setattr(_proof, "_ask", slowly)
    here, there = Endpoint("http://127.0.0.1:1"), Endpoint("http://127.0.0.1:2")
    found = ask(*(Target(model, "chat", at, host) for model, at, host in [("d", here, ""), ("a", here, "x"), ("b", here, "x"), ("c", there, "y")]))
    order = [(model, what) for model, what, _when in seen]
    assert order.index(("a", "end")) < order.index(("b", "begin"))
    assert order[-2:] == [("d", "begin"), ("d", "end")]  # the front door when all engines are done
    assert [finding.target.model for finding in found] == ["d", "a", "b", "c"]


RESTING: list[Step] = json_reply({"error": {"message": "No server of this model answers at the moment."}}, "503 Service Unavailable")


def test_a_front_door_that_lets_an_engine_rest_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proof, "RETRY", 0.1)
    with ScriptedStream(paced(), REFUSED) as one, ScriptedStream(RESTING, RESTING, paced(), REFUSED) as door:
        proof = prove([engine(one), engine(door, host="")], "Go.", 16, rest=30)
    assert [finding.state for finding in proof.findings] == ["served"] * 2
    assert len(door.requests) == 4


def test_a_front_door_that_rests_for_longer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proof, "RETRY", 0.1)
    with ScriptedStream(paced(), REFUSED) as one, ScriptedStream(RESTING) as door:
        proof = prove([engine(one), engine(door, host="")], "Go.", 16, rest=0.5)
    assert [finding.state for finding in proof.findings] == ["served", "failed"]
    assert len(door.requests) > 2


def test_a_front_door_without_its_engines_is_asked_once() -> None:
    with ScriptedStream(RESTING) as door:
        proof = prove([nobody(), engine(door, host="")], "Go.", 16, rest=30)
    assert [finding.state for finding in proof.findings] == ["failed"] * 2
    assert len(door.requests) == 1


def test_where_nothing_answers_the_rest_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def silent(target: Target, _prompt: str, _max_tokens: int) -> Finding:
        asked.append(target.model)
        return Finding(target, error=UnreachableError("Nothing.", "silent"))

    monkeypatch.setattr(_proof, "_ask", silent)
    gone, other = Endpoint("http://192.0.2.1:8081"), Endpoint("http://192.0.2.1:8082")
    found = ask(Target("a", "chat", gone, "x"), Target("b", "chat", gone, "x"), Target("c", "chat", other, "x"))
    assert asked == ["a", "c"]
    assert [finding.state for finding in found] == ["failed"] * 3
    first, second = problems(found)
    assert first.startswith("a, b at x, asked directly: no connection. Nothing.\n")
    assert second.startswith("c at x, ")


def test_a_drained_server_is_shown_and_not_asked() -> None:
    with ScriptedStream(paced(), REFUSED) as server:
        found = ask(engine(server), engine(server, host="gpu02")._replace(drained=True))
    assert len(server.requests) == 2
    assert table(found)[2].endswith("drained")
    assert summary(found, None) == "All 1 are served. 1 not asked, because the servers are drained."
    assert problems(found) == []


def test_embeddings_and_rerank_take_one_request_each() -> None:
    vectors = json_reply({"data": [{"embedding": [0.1, 0.2, 0.3]}]})
    scores = json_reply({"results": [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]})
    with ScriptedStream(vectors, scores) as server:
        found = ask(engine(server, "embed", mode="embedding"), engine(server, "rank", mode="rerank"))
    assert [(finding.state, finding.words) for finding in found] == [("served", "3 numbers"), ("served", "2 scores")]
    first, second = server.requests
    assert (first.line, second.line) == ("POST /v1/embeddings HTTP/1.1", "POST /v1/rerank HTTP/1.1")
    assert first.body["model"] == "embed"
    assert second.body["documents"] == _proof.TEXTS
    assert first.headers["authorization"] == f"Bearer {KEY}"


def test_an_engine_may_send_several_tokens_at_once() -> None:
    with ScriptedStream(HEAP, HEAP, HEAP, REFUSED) as server:
        (found,) = ask(engine(server))
    assert found.state == "served"
    assert "in a heap" in found.words


def test_whoever_is_too_busy_is_asked_once_more() -> None:
    busy = [reply("429 Too Many Requests", {}, "Retry-After: 1")]
    with ScriptedStream(busy, paced(), REFUSED) as server:
        assert ask(engine(server))[0].state == "served"
    with ScriptedStream(busy, busy, REFUSED) as server:
        assert kind(ask(engine(server))) == "too busy"
    with ScriptedStream([reply("429 Too Many Requests", {}, "Retry-After: 3600")], paced()) as server:
        assert kind(ask(engine(server))) == "too busy"
        assert len(server.requests) == 1


def kind(found: list[Finding]) -> str:
    error = found[0].error
    assert error
    return advise(found[0].target, error).word


@pytest.mark.parametrize(
    ("script", "mode", "word"),
    [
        (REFUSED, "chat", "key refused"),
        ([reply("404 Not Found", {"error": {"message": "The model `x` does not exist."}})], "chat", "unknown model"),
        ([reply("400 Bad Request", {"error": "Invalid model name passed in model=x."})], "chat", "unknown model"),
        ([reply("400 Bad Request", {"error": {"code": 400, "message": "model 'x' not found"}})], "chat", "unknown model"),
        ([reply("400 Bad Request", {"error": "no idea"})], "chat", "wrong answer"),
        ([reply("500 Oops", {"error": "out of memory"})], "chat", "server error"),
        ([reply("504 Gateway Timeout", {})], "chat", "timed out"),
        ([START, *tokens(3)], "chat", "cut"),
        ([b""], "chat", "hung up"),
        ([START, DONE], "chat", "empty"),
        (HEAP, "chat", "in a heap"),
        (json_reply({"choices": []}), "chat", "wrong answer"),
        (json_reply({"data": []}), "embedding", "empty"),
        (json_reply([]), "embedding", "wrong answer"),
        ([START, DONE], "embedding", "wrong answer"),
        (json_reply({"results": [{"index": 0}]}), "rerank", "empty"),
    ],
)
def test_kinds_of_failure(script: list[Step], mode: str, word: str) -> None:
    with ScriptedStream(script) as server:
        found = ask(engine(server, host="", mode=mode))
    assert kind(found) == word
    assert table(found)[1].endswith(f"FAILED: {word}")
    assert KEY not in "\n".join(problems(found))


def test_a_refused_connection() -> None:
    found = ask(nobody())
    assert kind(found) == "refused"
    assert "systemctl status 'llm-*'" in problems(found)[0]
    assert "on gpu09" in problems(found)[0]


def test_an_answer_that_does_not_come_in_time() -> None:
    with ScriptedStream([START, event("a"), 5.0]) as server:
        found = ask(engine(server)._replace(endpoint=Endpoint(server.url, timeout=0.3)))
    assert kind(found) == "timed out"
    assert "llm_prove_timeout" in problems(found)[0]


def test_an_open_door_is_a_failure() -> None:
    with ScriptedStream(paced()) as server:
        proof = prove([engine(server)], "Go.", 16)
    assert [finding.state for finding in proof.findings] == ["served", "failed"]
    assert proof.unauthorized is None
    assert table(proof.findings)[2].startswith("without a key")
    assert "can use it without a key" in problems(proof.findings)[0]


@pytest.mark.parametrize(
    "error",
    [
        *(UnreachableError("x", why) for why in ("refused", "silent", "unknown name", "no way")),
        *(HTTPStatusError("x", status, "", None) for status in (400, 401, 403, 404, 408, 422, 429, 500, 503)),
        *(cls("x") for cls in (TLSError, HungUpError, WrongKindError, BrokenStreamError, TimedOutError, EmptyAnswerError, HeapError, OpenDoorError, LLMError)),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'why', '') or getattr(error, 'status', '')}",
)
def test_every_kind_has_a_meaning_and_a_remedy(error: LLMError) -> None:
    assert kind_of(error)
    for host in ("gpu01", ""):
        advice = advise(Target("chat", "chat", Endpoint("http://127.0.0.1"), host), error)
        assert all(advice)
        assert isinstance(advice, Advice)
        assert "{host}" not in advice.remedy
        assert not advice.remedy.endswith(".")


def test_nothing_to_ask() -> None:
    assert prove([], "Go.", 16) == ([], None)
