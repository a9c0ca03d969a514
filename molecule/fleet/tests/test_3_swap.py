"""A server's model is exchanged for a larger one and back: `tiny-8b` and `tiny-70b` say different words. Clients ask for `chat` all the time."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from conftest import FIGURES, LLAMA, Answer, Fleet, whole  # type: ignore[import-not-found]

CATALOGUE = "group_vars/all.yml"
WORDS = 16
PATIENCE = 30  # seconds; a client that gets neither an answer nor a refusal by then would call it hanging


def words(fleet: Fleet) -> str:
    answer = fleet.ask("chat", tokens=WORDS, temperature=0)
    assert whole(answer, WORDS), answer
    return str(answer["text"])


@pytest.fixture(scope="module")
def first_words(fleet: Fleet) -> str:
    return words(fleet)


@pytest.mark.parametrize("size", ["70b", "8b"])
def test_the_model_is_exchanged(fleet: Fleet, first_words: str, size: str) -> None:
    before = words(fleet)
    people = fleet.asking(*[("chat", "Hello", WORDS)] * 2, repeat=0.2, temperature=0)
    variables = fleet.read(CATALOGUE)
    variables["llm_models"]["chat"].update(source=f"file:/srv/llm/mirror/tiny-{size}.gguf", sha256=f"{{{{ sums['tiny-{size}.gguf'] }}}}")
    fleet.write(CATALOGUE, variables)
    run = fleet.site()
    answers = sorted(people.answers(), key=lambda answer: float(answer["began"]))

    assert run.rc == 0, run.failed
    assert run.changed_hosts() == {LLAMA}, "neither the gateway nor anybody else"
    after = words(fleet)
    assert (after == first_words) == (size == "8b")
    assert after != before
    outcomes = Counter(outcome(answer) for answer in answers)
    assert set(outcomes) <= {"whole", "503", "cut and told so"}, [answer for answer in answers if outcome(answer) == "wrong"]
    assert max(answer["seconds"] for answer in answers) < PATIENCE
    said = [answer["text"] for answer in answers if outcome(answer) == "whole"]
    assert said == [before] * said.count(before) + [after] * said.count(after), "first the one, then the other, and nothing in between"
    assert after in said
    slowest = max(answer["seconds"] for answer in answers)
    FIGURES.append(f"Model exchanged for {size} in {run.seconds:.0f} s; requests meanwhile: {dict(outcomes)}, the slowest took {slowest:.1f} s")


def outcome(answer: Answer) -> str:
    """llama.cpp does not end what it is saying when it is stopped, so a stream may be cut; but nobody may take that for an answer."""
    if whole(answer, WORDS):
        return "whole"
    error = json.loads(answer["error"]) if answer["error"].startswith("{") else {}
    message = (error.get("error") or error).get("message")
    if answer["status"] == 503 and message:
        return "503"
    return "cut and told so" if answer["status"] == 200 and message and not answer["finish"] else "wrong"
