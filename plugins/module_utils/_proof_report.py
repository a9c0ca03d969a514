# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof as lines to print: one table, and below it every failure with what it means and what to do."""

from __future__ import annotations

import typing as t
from collections.abc import Sequence
from urllib.parse import urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._pace import ONE_BY_ONE, milliseconds
from ansible_collections.baremetal.llm.plugins.module_utils._proof import Finding
from ansible_collections.baremetal.llm.plugins.module_utils._proof_advice import Advice, advise

HEADER = ("model", "asked", "answered by", "first token", "tokens/s", "tokens", "total", "result")
RIGHT = range(3, 7)  # columns of figures
DOOR = "front door"


def table(findings: Sequence[Finding]) -> list[str]:
    rows = [HEADER, *map(_row, findings)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(_cell(number, text, widths[number]) for number, text in enumerate(row)).rstrip() for row in rows]


def problems(findings: Sequence[Finding]) -> list[str]:
    """Every failure; models of one service that fail in the same way are named together."""
    same: dict[tuple[str, str, Advice], list[Finding]] = {}
    for finding in findings:
        if finding.error:
            advice = advise(finding.target, finding.error)
            same.setdefault((finding.target.host, finding.target.endpoint.url, advice), []).append(finding)
    return [_problem(alike, advice) for (_host, _url, advice), alike in same.items()]


def summary(findings: Sequence[Finding], unauthorized: int | None) -> str:
    states = [finding.state for finding in findings]
    failed, drained = states.count("failed"), states.count("drained")
    asked = len(states) - drained
    rest = f" {drained} not asked, because the servers are drained." if drained else ""
    stranger = f" Without a key the front door answers {unauthorized}." if unauthorized else ""
    return (f"{failed} of {asked} failed." if failed else f"All {asked} are served.") + rest + stranger


def figures(finding: Finding) -> dict[str, t.Any]:
    target, pace = finding.target, finding.pace
    word, meaning, remedy = advise(target, finding.error) if finding.error else ("", "", "")
    return {
        "model": target.model,
        "mode": target.mode,
        "host": target.host,
        "url": target.endpoint.url,
        "state": finding.state,
        "served_by": finding.served_by,
        "first_token": pace.first_token if pace else None,
        "tokens_per_second": pace.tokens_per_second if pace else None,
        "tokens": pace.tokens if pace else None,
        "total": pace.total if pace else finding.seconds,
        "kind": word,
        "problem": str(finding.error or ""),
        "meaning": meaning,
        "remedy": remedy,
    }


def _problem(alike: Sequence[Finding], advice: Advice) -> str:
    first = alike[0]
    models = ", ".join(finding.target.model for finding in alike)
    where = f"{first.target.host}, asked directly" if first.target.at_engine else f"the {DOOR}"
    said = dict.fromkeys(str(finding.error) for finding in alike)
    return f"{models} at {where}: {advice.word}. {' '.join(said)}\n  {advice.meaning}\n  Remedy: {advice.remedy}."


def _row(finding: Finding) -> tuple[str, ...]:
    target, pace = finding.target, finding.pace
    asked = f"{target.host} {urlsplit(target.endpoint.url).netloc}" if target.at_engine else DOOR
    first, speed, count = "-", "-", "-"
    if pace:
        first, count = milliseconds(pace.first_token), str(pace.tokens)
        if pace.tokens_per_second is not None and pace.delivery == ONE_BY_ONE:
            speed = f"{pace.tokens_per_second:.1f}"
    total = milliseconds(pace.total if pace else finding.seconds)
    result = f"FAILED: {advise(target, finding.error).word}" if finding.error else "drained" if target.drained else finding.words
    return (target.model, asked, _answered_by(finding), first, speed, count, total, result)


def _answered_by(finding: Finding) -> str:
    """Of LiteLLM's id, which is route/model@host:port: the host, and the model if another name was asked for."""
    if finding.target.at_engine or not finding.served_by:
        return "-"
    model, _at, service = finding.served_by.rpartition("@")
    model = model.rpartition("/")[2]
    host = service.rpartition(":")[0] or service
    return host if model == finding.target.model else f"{model} on {host}"


def _cell(number: int, text: str, width: int) -> str:
    return text.rjust(width) if number in RIGHT else text.ljust(width)
