# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.modules import fleet_probe
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.scripted_stream import (
    DONE,
    START,
    ScriptedStream,
    Step,
    reply,
    tokens,
)

ENGINE_KEY, CLIENT_KEY = "engine-key-0123456789-very-secret", "client-key-0123456789-very-secret"
GOOD: list[Step] = [START, *(step for token in tokens(9) for step in (0.02, token)), DONE]
REFUSED: list[Step] = [reply("401 Unauthorized", {"error": {"message": "No key."}})]


@pytest.fixture
def probe(capfd: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    """Run the module as Ansible does; its result, with `rc`."""

    def run(check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"engine_key": ENGINE_KEY, "timeout": 30, **options, "_ansible_check_mode": check_mode}
        with patch_module_args(arguments), pytest.raises(SystemExit) as stopped:
            fleet_probe.main()
        output = capfd.readouterr().out
        assert ENGINE_KEY not in output
        assert CLIENT_KEY not in output
        return {**json.loads(output), "rc": stopped.value.code}

    return run


def door(server: ScriptedStream) -> dict[str, str]:
    return {"url": server.url, "api_key": CLIENT_KEY}


def test_each_is_asked_with_its_own_key(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(GOOD, REFUSED) as engine, ScriptedStream(GOOD, REFUSED) as front:
        targets = [{"model": "chat", "host": "gpu01", "url": engine.url}, {"model": "chat"}]
        result = probe(targets=targets, front_door=door(front), prompt="Go.", max_tokens=9)
    assert (result["rc"], result["changed"], result["failures"]) == (0, False, [])
    assert [(found["host"], found["state"], found["tokens"]) for found in result["targets"]] == [("gpu01", "served", 9), ("", "served", 9)]
    assert result["unauthorized"] == 401
    assert engine.requests[0].headers["authorization"] == f"Bearer {ENGINE_KEY}"
    assert front.requests[0].headers["authorization"] == f"Bearer {CLIENT_KEY}"
    assert (front.requests[0].body["messages"][0]["content"], front.requests[0].body["max_tokens"]) == ("Go.", 9)
    assert result["summary"] in result["lines"]


def test_failures_are_told_and_are_no_failure_of_the_task(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    leaky: list[Step] = [reply("401 Unauthorized", {"error": {"message": f"No such key: {CLIENT_KEY}"}})]
    with ScriptedStream(GOOD) as gone:
        url = gone.url
    with ScriptedStream(leaky) as front:
        targets = [{"model": "chat", "host": "gpu01", "url": url}, {"model": "chat"}, {"model": "other", "drained": True}]
        result = probe(targets=targets, front_door=door(front))
    assert result["rc"] == 0
    assert [found["kind"] for found in result["targets"]] == ["refused", "key refused", ""]
    assert all(found["meaning"] and found["remedy"] for found in result["targets"][:2])
    assert len(result["failures"]) == 2
    assert result["summary"] == "2 of 2 failed. 1 not asked, because the servers are drained."


def test_check_mode_on_a_bare_machine_is_skipped(probe: t.Callable[..., dict[str, t.Any]]) -> None:
    with ScriptedStream(GOOD) as gone:
        url = gone.url
    targets = [{"model": "chat", "host": "gpu01", "url": url}, {"model": "chat"}]
    assert probe(check_mode=True, targets=targets, front_door={"url": url})["skipped"] is True
    with ScriptedStream(GOOD, REFUSED) as engine:
        mixed = probe(check_mode=True, targets=[{"model": "chat", "host": "gpu02", "url": engine.url}, *targets], front_door={"url": url})
    assert "skipped" not in mixed
    assert len(mixed["failures"]) == 2


@pytest.mark.parametrize(
    ("target", "words"),
    [({"model": "chat"}, "front_door is not given"), ({"model": "chat", "host": "gpu01", "url": "gpu01:8081"}, "is no address of a service")],
)
def test_wrong_input(probe: t.Callable[..., dict[str, t.Any]], target: dict[str, str], words: str) -> None:
    result = probe(targets=[target])
    assert result["rc"] == 1
    assert words in result["msg"]
