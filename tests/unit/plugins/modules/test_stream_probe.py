# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.modules import stream_probe
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
REFUSED: list[Step] = [reply("401 Unauthorized", {"error": {"message": "No key."}}, "WWW-Authenticate: Bearer")]


def paced(count: int) -> list[Step]:
    script: list[Step] = [START]
    for token in tokens(count):
        script += [0.03, token]
    return [*script, DONE]


HEAP: list[Step] = [START, 0.2, b"".join(tokens(30)), DONE]


@pytest.fixture
def probe(capfd: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    """Run the module as Ansible does; its result, with `rc`."""

    def run(check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"models": ["chat"], "timeout": 30, "api_key": KEY, **options, "_ansible_check_mode": check_mode}
        with patch_module_args(arguments), pytest.raises(SystemExit) as stopped:
            stream_probe.main()
        output = capfd.readouterr().out
        assert KEY not in output
        return {**json.loads(output), "rc": stopped.value.code}

    return run


def test_all_is_well(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(paced(10), paced(9), REFUSED) as server:
        result = probe(url=server.url, models=["chat", "coder"], prompt="Go.", max_tokens=5, expect_unauthorized=True)
    assert result["rc"] == 0
    assert result["changed"] is False
    assert result["unauthorized"] == 401
    assert [(found["model"], found["delivery"], found["events"]) for found in result["probes"]] == [
        ("chat", "one_by_one", 10),
        ("coder", "one_by_one", 9),
    ]
    head, chat, coder, stranger = result["table"]
    assert "first token" in head
    assert chat.split()[0] == "chat"
    assert coder.endswith("one by one")
    assert stranger.endswith("401 Unauthorized")
    first, second, third = server.requests
    assert (first.body["model"], second.body["model"]) == ("chat", "coder")
    assert (first.body["messages"][0]["content"], first.body["max_tokens"]) == ("Go.", 5)
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in third.headers


def test_every_failure_is_named(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    broken: list[Step] = [START, event("a")]
    overloaded: list[Step] = [reply("429 Too Many Requests", {"error": {"message": "Slow down."}})]
    scripts = (paced(8), broken, overloaded, HEAP, HEAP, HEAP, [START, DONE], paced(8))
    with ScriptedStream(*scripts) as server:
        models = ["good", "broken", "overloaded", "heap", "silent"]
        result = probe(url=server.url, models=models, expect_unauthorized=True)
    assert result["rc"] == 1
    message = result["msg"]
    assert message.startswith(f"5 of 6 probes of {server.url} failed. ")
    for words in (
        "broken: ",
        "after 1 tokens, without [DONE]",
        "overloaded: ",
        "429 Too Many Requests: Slow down.",
        "heap: the tokens came in a heap (30 events in 1 arrivals",
        "silent: the answer has no text at all",
        "without a key: ",
        "it must answer 401",
    ):
        assert words in message
    assert "good" not in message
    assert [bool(found["problem"]) for found in result["probes"]] == [False, True, True, True, True]
    assert len(result["table"]) == 7


def test_one_heap_is_no_proof_of_a_buffer(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(HEAP, paced(10)) as server:
        result = probe(url=server.url)
    assert (result["rc"], result["probes"][0]["delivery"], len(server.requests)) == (0, "one_by_one", 2)


def test_a_heap_can_be_accepted(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(HEAP) as server:
        result = probe(url=server.url, require_streaming=False)
    assert result["rc"] == 0
    assert result["probes"][0]["delivery"] == "heap"


def test_another_status_without_a_key_is_a_failure(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(paced(8), [reply("500 Oops", {"error": "no idea"})]) as server:
        result = probe(url=server.url, expect_unauthorized=True)
    assert result["rc"] == 1
    assert "answered 500 Oops: no idea; it must answer 401" in result["msg"]
    assert result["unauthorized"] == 500


def test_nothing_answers(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(HEAP) as gone:
        url = gone.url
    failed = probe(url=url)
    assert failed["rc"] == 1
    assert f"Nothing answers at {url}" in failed["msg"]
    skipped = probe(url=url, check_mode=True)
    assert skipped["rc"] == 0
    assert skipped["skipped"] is True
    assert f"Nothing answers at {url}" in skipped["msg"]


def test_check_mode_warns_of_what_does_not_work_yet(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream([reply("404 Not Found", {"error": {"message": "no such model"}})]) as server:
        result = probe(url=server.url, check_mode=True)
    assert result["rc"] == 0
    assert "skipped" not in result
    assert "no such model" in json.dumps(result["warnings"])


def test_a_wrong_address_is_an_input_error(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    result = probe(url="127.0.0.1:443", check_mode=True)
    assert result["rc"] == 1
    assert "is no address of a service" in result["msg"]
