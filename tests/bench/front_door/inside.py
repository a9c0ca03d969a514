# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The measuring part, which runs on the machine itself: what it is told comes as JSON on standard input, its figures leave as JSON on standard output."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from tests.load.held_streams import Held, Pace, flood, half_open, hold, latency, median, percentile, slow_readers
from tests.load.steady_load import Target

Row = dict[str, t.Any]


def figures(requests: t.Sequence[Held], pace: Pace) -> Row:
    first = [one.first - one.start - pace.first for one in requests if one.first is not None]
    delays = [delay for one in requests for delay in one.delays]
    return {
        "streams": len(requests),
        "whole": sum(one.outcome == "whole" and one.tokens == pace.tokens for one in requests),
        "told": sum(one.outcome == "told" for one in requests),
        "silent losses": sum(one.outcome not in ("whole", "told") or (one.outcome == "whole" and one.tokens != pace.tokens) for one in requests),
        "details": sorted({f"{one.outcome}: {one.detail}" for one in requests if one.outcome != "whole"})[:5],
        "first, median": median(first),
        "first, p95": percentile(first, 0.95),
        "first, longest": max(first, default=float("nan")),
        "event, median": median(delays),
        "event, p95": percentile(delays, 0.95),
        "event, longest": max(delays, default=float("nan")),
    }


async def hops(targets: dict[str, Target], streams: t.Sequence[int], rounds: int) -> list[Row]:
    """Each way in turn, round by round, each round beginning with another."""
    rows, names = [], list(targets)
    for name in names:  # the first request of all finds nothing ready
        await hold(targets[name], Pace(4, tokens=2, pause=0), [])
    for number in streams:
        pace = Pace(number, tokens=20, pause=0.1, ramp=0.5 if number > 1 else 0)
        seen: dict[str, list[Held]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                await hold(targets[name], pace, seen[name])
        rows += [{"way": name, "at once": number, **figures(seen[name], pace)} for name in names]
    return rows


async def crowd(target: Target, *, streams: int, seconds: float, pause: float, ramp: float, abuse: bool) -> Row:
    """So many streams held for so long, with or without the worst company."""
    await hold(target, Pace(4, tokens=2, pause=0), [])  # the first request of all finds nothing ready
    before = memory()
    calm = [value for value in await latency(target, "127.0.2.1", 5) if value is not None]
    pace = Pace(streams, tokens=int((ramp + seconds) / pause), pause=pause, ramp=ramp, patience=120)
    requests: list[Held] = []
    held = asyncio.create_task(hold(target, pace, requests))
    asking = asyncio.create_task(latency(target, "127.0.2.1", ramp + seconds))
    await asyncio.sleep(ramp)
    company: list[asyncio.Task[t.Any]] = []
    if abuse:
        wrong = dataclasses.replace(target, key="")
        lazy = Pace(50, tokens=2000, pause=0.02)
        company = [
            asyncio.create_task(flood(wrong, "127.0.2.9", seconds)),
            asyncio.create_task(half_open(wrong, "127.0.2.8", seconds, 500)),
            asyncio.create_task(slow_readers(target, lazy, "127.0.2.7", seconds)),
        ]
    await asyncio.sleep(seconds / 2)
    running = [one for one in requests if one.end is None and one.first is not None]
    during = memory()
    await held
    row: Row = {"streams at half time": len(running), **figures(requests, pace), "ramp": ramp, "pause": pause, "seconds": seconds}
    asked = await asking
    valid = [value for value in asked if value is not None]
    row |= {"calm, median": median(calm), "valid, median": median(valid), "valid, p95": percentile(valid, 0.95), "valid, lost": len(asked) - len(valid)}
    row |= {f"{name}, KiB a stream": (during[name] - before[name]) / max(1, len(running)) for name in before}
    row |= {f"{name}, MiB": during[name] / 1024 for name in before}
    if abuse:
        row |= {"flood": dict(await company[0]), "half-open cut": await company[1], "slow readers served": await company[2]}
    return row


async def silence(target: Target, seconds: float) -> Row:
    pace = Pace(3, tokens=3, pause=0.5, first=seconds, patience=seconds + 60)
    requests: list[Held] = []
    await hold(target, pace, requests)
    return {"seconds": seconds, **figures(requests, pace)}


async def silences(targets: dict[str, Target], seconds: float) -> list[Row]:
    rows = await asyncio.gather(*(silence(target, seconds) for target in targets.values()))
    return [{"way": name, "abuse": False, **row} for name, row in zip(targets, rows)]


def memory() -> dict[str, float]:
    """KiB of all processes of Nginx and of LiteLLM, each page counted once."""
    found = {"Nginx": 0.0, "LiteLLM": 0.0}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            rollup = (process / "smaps_rollup").read_text()
        except OSError:
            continue
        text = b" ".join(command)
        name = "Nginx" if text.startswith(b"nginx:") else "LiteLLM" if b"/opt/llm/litellm/" in text else ""
        if name:
            found[name] += sum(float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return found


def main() -> None:
    given = json.load(sys.stdin)
    with tempfile.NamedTemporaryFile("w", suffix=".crt") as ca:
        ca.write(given["ca"])
        ca.flush()
        targets = {name: Target(**{**way, "ca": ca.name if way.get("ca") else ""}) for name, way in given["ways"].items()}
        began = time.monotonic()
        if given["what"] == "hops":
            result: t.Any = asyncio.run(hops(targets, given["streams"], given["rounds"]))
        elif given["what"] == "crowd":
            result = [asyncio.run(crowd(targets[way], abuse=abuse, **given["crowd"])) | {"way": way, "abuse": abuse} for way, abuse in given["runs"]]
        else:
            result = asyncio.run(silences(targets, given["seconds"]))
        print(json.dumps({"rows": result, "took": time.monotonic() - began}))


if __name__ == "__main__":
    main()
