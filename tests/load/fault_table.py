# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What clients saw of a fault under load, as a row of figures, and the rows as a page."""

from __future__ import annotations

import collections
import dataclasses
import typing as t

from tests.load.steady_load import Request

HEADER = ("fault", "requests", "lost", "cut", "told after", "longest wait", "failures until", "back after", "what clients saw")
PREFACE = """# What clients see of faults

Written by `molecule/faults` (`make molecule SCENARIOS=faults`), with the figures of one run on {machine}. A gateway and two servers
with the same model, llama.cpp's router on each; three short answers in two seconds and four long ones all the time. A server has four places and
the pace of a large model, so that requests wait for a place when only one is left.

- **requests**: open when the fault came, or sent later. **lost**: failed before their first token. **cut**: failed after it.
- **told after**: seconds from the last token of a cut answer until its client knew. **longest wait**: for a first token.
- **failures until**: seconds from the fault to the last failure. **back after**: seconds from the moment when what had failed runs again until it
  answers a client; the breaker lets a server rest for 15.

"""
NOTES = """
Behind it:

- A request without an answer goes to another server, and from a LiteLLM that has gone to the one that stands by.
- A cut answer ends with an error event. A vanished server is noticed after 3 seconds, because the kernel asks it every second whether it is there; a model
  that thinks for minutes is not taken for one.
- A LiteLLM that is killed takes its streams with it: the transfer breaks off. One that is replaced ends them first.
- There is one gateway: while it boots, clients are refused or get a 502 at once.
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """Times in seconds; None where there is nothing to time."""

    fault: str
    requests: int
    lost: int
    cut: int
    told: float | None
    wait: float
    until: float | None
    back: float | None
    saw: tuple[str, ...]
    outcomes: frozenset[str]


def row(fault: str, requests: t.Iterable[Request], began: float, back: float, server: str = "") -> Row:
    """``began`` is when the fault came, ``back`` when what had failed ran again, ``server`` the deployment that it is (empty: any)."""
    seen = [one for one in requests if one.end is None or one.end > began]
    failed = [one for one in seen if one.failed]
    cut = [one for one in failed if one.cut]
    answered = [one.first for one in seen if one.first is not None and one.start >= back and not one.failed and one.server.endswith(server)]
    saw = collections.Counter(_words(one) for one in failed)
    return Row(
        fault=fault,
        requests=len(seen),
        lost=sum(one.lost for one in failed),
        cut=len(cut),
        told=max((one.end - one.latest for one in cut if one.end is not None and one.latest is not None), default=None),
        wait=max((one.first - one.start for one in seen if one.first is not None), default=0),
        until=max((one.end - began for one in failed if one.end is not None), default=None),
        back=min(answered) - back if answered else None,
        saw=tuple(f"{number} x {words}" for words, number in saw.most_common()) or ("nothing",),
        outcomes=frozenset(one.outcome for one in failed),
    )


def page(rows: t.Sequence[Row], machine: str) -> str:
    cells = [
        (one.fault, one.requests, one.lost, one.cut, *(_seconds(value) for value in (one.told, one.wait, one.until, one.back)), "; ".join(one.saw))
        for one in rows
    ]
    lines = [HEADER, ["---"] * len(HEADER), *cells]
    return PREFACE.format(machine=machine) + "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines) + NOTES


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _words(one: Request) -> str:
    """Short, and without what differs from run to run."""
    return f"{one.outcome}: {one.detail.replace('litellm.', '').split(' LiteLLM:')[0][:70].strip()}".replace("|", "/")
