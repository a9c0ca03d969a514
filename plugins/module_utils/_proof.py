# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof that a fleet serves: every engine asked directly, then every name at the front door, each answer timed.

Engines of different hosts are asked at the same time and those of one host one after the other, so that no answer slows another one down. The front
door comes last and one name at a time, because behind it are the same engines.
"""

from __future__ import annotations

import dataclasses
import time
import typing as t
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._pace import HEAP, Pace, explain
from ansible_collections.baremetal.llm.plugins.module_utils._stream import (
    Answer,
    Endpoint,
    HTTPStatusError,
    Question,
    UnreachableError,
    Whole,
    refusal,
    stream,
    whole,
)

ATTEMPTS = 3  # at a model whose tokens come in a heap
LANES = 8  # hosts that are asked at the same time
LONGEST_WAIT = 20.0  # seconds that a 429 may ask us to wait
RETRY = 2.0  # seconds between two questions to a front door that answers 503
TURNED_AWAY = (401, 429)  # 429: too many have tried without a key just now
TEXTS = ["A server answers requests.", "A river flows to the sea."]


class Target(t.NamedTuple):
    """A model at one engine, or a name at the front door."""

    model: str
    mode: str  # chat, embedding or rerank
    endpoint: Endpoint
    host: str = ""  # of the engine; empty at the front door
    drained: bool = False

    @property
    def at_engine(self) -> bool:
        return bool(self.host)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one target answered, or why it does not count as served."""

    target: Target
    pace: Pace | None = None  # of a streamed answer
    seconds: float | None = None  # of one that came in one piece
    words: str = ""  # what else there is to say of an answer
    served_by: str = ""  # LiteLLM's id of the deployment that answered
    error: LLMError | None = None

    @property
    def state(self) -> str:
        if self.error:
            return "failed"
        return "drained" if self.target.drained else "served"


class EmptyAnswerError(LLMError):
    """The answer is complete and has nothing in it."""


class HeapError(LLMError):
    """The tokens were held back on the way."""


class OpenDoorError(LLMError):
    """It serves whoever asks, without a key."""


class Proof(t.NamedTuple):
    findings: list[Finding]
    unauthorized: int | None  # the status that the front door gives to those without a key


def prove(targets: Sequence[Target], prompt: str, max_tokens: int, rest: float = 0) -> Proof:
    """Ask every target that is not drained. The findings come in the order of the targets, then those of whoever lets anybody in.

    The front door may let an engine that has just come back rest for `rest` seconds more; that long its 503 is no answer, if all engines do answer.
    """
    lanes: dict[str, list[int]] = {}
    for number, target in enumerate(targets):
        lanes.setdefault(target.host, []).append(number)
    found: dict[int, Finding] = {}
    open_doors: list[Finding] = []
    statuses: list[int | None] = []
    rested = 0.0

    def ask_lane(numbers: list[int]) -> None:
        for number, finding in zip(numbers, _lane([targets[number] for number in numbers], prompt, max_tokens, rested)):
            found[number] = finding

    doors = lanes.pop("", [])
    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(ask_lane, lanes.values()))
    rested = time.monotonic() + (0 if any(finding.error for finding in found.values()) else rest)
    ask_lane(doors)
    for target in _one_of_each_service(found[number] for number in range(len(targets))):
        status, error = without_key(target.endpoint, Question(target.model, prompt, 1))
        statuses += [] if target.at_engine else [status]
        open_doors += [Finding(target._replace(model="without a key"), error=error)] if error else []
    return Proof([*(found[number] for number in range(len(targets))), *open_doors], statuses[0] if statuses else None)


def paced(endpoint: Endpoint, question: Question, again_after_heap: bool = True) -> Answer:
    """The streamed answer. A busy machine may deliver a heap once; what buffers does it every time, so a heap is asked for again."""
    for _attempt in range(ATTEMPTS):
        answer = stream(endpoint, question)
        if not again_after_heap or answer.pace.delivery != HEAP:
            break
    return answer


def without_key(endpoint: Endpoint, question: Question, turned_away: Container[int] = TURNED_AWAY) -> tuple[int | None, LLMError | None]:
    """The status that a request without a key gets, and what is wrong if it is not turned away."""
    try:
        answer = refusal(endpoint, question)
    except LLMError as exc:
        return None, exc
    if answer is None:
        return None, OpenDoorError(f"{endpoint.url} serves whoever asks, without a key; it must answer 401")
    return answer.status, None if answer.status in turned_away else OpenDoorError(f"{answer}; it must answer 401")


def _lane(targets: Iterable[Target], prompt: str, max_tokens: int, rested: float) -> t.Iterator[Finding]:
    """One after the other. Where nothing answers, the next models of the same service are not asked: every attempt may take seconds."""
    gone: dict[str, LLMError] = {}
    for target in targets:
        url = target.endpoint.url
        if target.drained:
            yield Finding(target)
        elif url in gone:
            yield Finding(target, error=gone[url])
        else:
            finding = _ask(target, prompt, max_tokens)
            while _unavailable(finding) and time.monotonic() < rested:
                time.sleep(RETRY)
                finding = _ask(target, prompt, max_tokens)
            if isinstance(finding.error, UnreachableError):
                gone[url] = finding.error
            yield finding


def _ask(target: Target, prompt: str, max_tokens: int) -> Finding:
    try:
        if target.mode == "chat":
            return _patiently(lambda: _chat(target, Question(target.model, prompt, max_tokens)))
        return _patiently(lambda: _embed(target) if target.mode == "embedding" else _rerank(target))
    except LLMError as exc:
        return Finding(target, error=exc)


def _unavailable(finding: Finding) -> bool:
    return isinstance(finding.error, HTTPStatusError) and finding.error.status == 503


def _patiently(ask: Callable[[], Finding]) -> Finding:
    """Whoever answers that it has too much to do, and says until when, is asked once more."""
    try:
        return ask()
    except HTTPStatusError as exc:
        seconds = exc.retry_after or ""
        if exc.status != 429 or not seconds.isdecimal() or int(seconds) > LONGEST_WAIT:
            raise
        time.sleep(int(seconds))
        return ask()


def _chat(target: Target, question: Question) -> Finding:
    answer = paced(target.endpoint, question)
    if not answer.pace.events:
        raise EmptyAnswerError(f"{target.endpoint.url} answered for {target.model} with no text at all")
    if answer.pace.delivery == HEAP and not target.at_engine:  # an engine may send several tokens at once; nothing lies between it and us
        raise HeapError(f"{target.endpoint.url}: the tokens of {target.model} came {explain(answer.pace)}")
    return Finding(target, pace=answer.pace, words=explain(answer.pace), served_by=answer.served_by or "")


def _embed(target: Target) -> Finding:
    answer = whole(target.endpoint, "embeddings", {"model": target.model, "input": TEXTS[0]})
    numbers = (_first(answer.content.get("data")) or {}).get("embedding")
    if not numbers:
        raise EmptyAnswerError(f"{target.endpoint.url} answered for {target.model} with no embedding")
    return _in_one_piece(target, answer, f"{len(numbers)} numbers")


def _rerank(target: Target) -> Finding:
    answer = whole(target.endpoint, "rerank", {"model": target.model, "query": TEXTS[0], "documents": TEXTS})
    scores = answer.content.get("results")
    if not isinstance(scores, list) or len(scores) != len(TEXTS):
        raise EmptyAnswerError(f"{target.endpoint.url} answered for {target.model} without a score for each text")
    return _in_one_piece(target, answer, f"{len(scores)} scores")


def _in_one_piece(target: Target, answer: Whole, words: str) -> Finding:
    return Finding(target, seconds=answer.seconds, words=words, served_by=answer.served_by or "")


def _first(found: t.Any) -> dict[str, t.Any] | None:
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None


def _one_of_each_service(findings: Iterable[Finding]) -> list[Target]:
    """A chat model of each service that has answered: whether it asks for a key is the same for all of its models."""
    services = {finding.target.endpoint.url: finding.target for finding in findings if finding.pace}
    return list(services.values())
