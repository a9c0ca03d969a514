# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host's plan as lines for a terminal: does it fit, who takes what, what is free, what was decided, what would help.

A plan comes as plain data, as ``_ledger.Plan.as_dict`` gives it; all its sizes are bytes. What the terminal and the page have in common
(keys, groups, words) is here too.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB, mib, shown

Plain = Mapping[str, t.Any]

NARROWEST = 40
_SHORTEST_NAME = 12
SOURCES = {
    "nvml": "as NVML sees the machine",
    "llm_gpus": "planned for the GPUs in llm_gpus",
    "boards": "planned for boards of these names, because NVML does not answer yet",
    "ram": "no GPU: everything runs in main memory",
}
TERMS = {"cache": "KV", "overhead": "process"}  # where the word of the plan says too little
MODEL = "model"
NOTES = {
    "driver": "what the driver keeps",
    "display": "for a screen",
    "reserved": "kept back",
    "margin": "for what no estimate knows",
    "others": "processes that are not ours",
    "budget": "set in the inventory",
}
IN_TURNS = "only in place of another"  # an entry that is not resident in the worst case
_FILLS = {True: "█▓", False: "▒░"}  # models, everything else; neighbours differ
_FREE, _SHORT = "·", "!"
_UNITS = re.compile(r"(?<=\d) (?=(?:MiB|GiB|%|tokens)(?!\w))")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def ledger_table(plan: Plain, width: int = 100) -> list[str]:
    """The lines of one host, none longer than ``width`` characters and none with spaces at its end.

    Raises InputError for a width in which nothing can be read.
    """
    if width < NARROWEST:
        raise InputError(f"width is {width}: a ledger needs at least {NARROWEST} columns.")
    letters = keys(plan)
    lines = [*_verdict(plan, width)]
    for group in groups(plan["accounts"]):
        lines += ["", *_account(group, letters, width)]
    lines += _decided(plan, width)
    if plan["warnings"]:
        lines += ["", "Warnings"]
        lines += [line for warning in plan["warnings"] for line in _wrapped(warning, width, "  ! ")]
    lines += _refusals(plan, width)
    return [line.rstrip() for line in lines]


def ledger_summary(plan: Plain, width: int = 100) -> list[str]:
    """Whether it fits, and what was decided for whom, a line or two for each."""
    return [*_wrapped(f"{clean(plan['host'])}: {verdict(plan)}", width), *_values(plan, width)]


def refused(plan: Plain) -> str:
    """Every refusal with its ways out, for an error message; empty if all fits."""
    sentences = []
    for refusal in plan["refusals"]:
        sentences.append(clean(refusal["message"]))
        if refusal["changes"]:
            sentences.append(ways_out(refusal))
        sentences += [f"  {number}. {clean(change['message'])}" for number, change in enumerate(refusal["changes"], 1)]
    return "\n".join(sentences)


def keys(plan: Plain) -> dict[tuple[str, str], str]:
    """A letter for each (kind, name) that a bar shows, the same on all GPUs of the host: capitals for what serves, small ones for the rest."""
    found = dict.fromkeys((entry["kind"], entry["name"]) for account in plan["accounts"] for entry in counted(account))
    serving = [key for key in found if key[0] in (MODEL, "budget")]
    rest = [key for key in found if key not in serving]
    return {key: letter for part, letters in ((serving, _LETTERS), (rest, _LETTERS.lower())) for key, letter in zip(part, itertools.cycle(letters))}


def groups(accounts: Iterable[Plain]) -> list[list[Plain]]:
    """Neighbouring accounts that would read the same to the MiB: eight GPUs that share one model are one table."""
    return [list(found) for _key, found in itertools.groupby(accounts, key=_alike)]


def group_title(group: Sequence[Plain]) -> str:
    first, last = clean(group[0]["title"]), clean(group[-1]["title"])
    return first if len(group) == 1 else f"{first} to {last}, each"


def counted(account: Plain) -> list[Plain]:
    """The entries that are there together in the worst case; ``free`` is the total without them."""
    return [entry for entry in account["entries"] if entry.get("resident", True)]


def verdict(plan: Plain) -> str:
    """What a glance has to tell, without the host's name and whether it fits."""
    short = [account for account in plan["accounts"] if account["free"] < 0]
    if short:
        return ", ".join(f"{clean(account['title'])} is {mib(-account['free']):,} MiB short" for account in short)
    if not plan["fits"]:
        return "see below what is wrong"
    return ", ".join(_left(plan["accounts"])) or "nothing to place"


def clean(text: object) -> str:
    """One line that cannot steer a terminal: line ends become spaces, everything else that is not printable a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))


def shortened(text: str, width: int) -> str:
    """Names of models differ at their end: what is too long loses its middle."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def share(size: int, total: int) -> str:
    return f"{size / total:.0%}" if total else "-"


def terms(entry: Plain, width: int) -> str:
    """``weights 4.6, KV 4.0, other 0.8 GiB``: the largest terms first, and what does not fit into ``width`` added up."""
    unit, name = (GIB, "GiB") if entry["bytes"] >= GIB else (MIB, "MiB")
    digits = 1 if unit == GIB else 0
    found = sorted(((size, TERMS.get(term, term)) for term, size in entry.get("terms", {}).items() if size), key=lambda part: -part[0])
    parts = [part for part in found if round(part[0] / unit, digits)]
    for number in range(len(parts), 0, -1):
        rest = sum(size for size, _term in found) - sum(size for size, _term in parts[:number])
        told = [*parts[:number], *([(rest, "other")] if number < len(parts) else [])]
        text = f"{', '.join(f'{term} {size / unit:.{digits}f}' for size, term in told)} {name}"
        if len(text) <= width:
            return text
    return ""


def settings(values: Mapping[str, t.Any]) -> list[tuple[str, str]]:
    """Options as people read them. Only the name tells whether a number is bytes, and one type for keys and values is said once."""
    found = dict(values)
    if "kv_cache_k" in found and found["kv_cache_k"] == found.get("kv_cache_v"):
        found = {("kv_cache" if name == "kv_cache_k" else name): value for name, value in found.items() if name != "kv_cache_v"}
    return [(name, _setting(name, value)) for name, value in found.items()]


def _setting(name: str, value: object) -> str:
    if name.endswith(("_memory", "_bytes")) and isinstance(value, int):
        return shown(value)
    return (", ".join(str(part) for part in value) or "none") if isinstance(value, (list, tuple)) else str(value)


def ways_out(refusal: Plain) -> str:
    return "This would do:" if len(refusal["changes"]) == 1 else "Any one of these would do, the nearest first:"


def is_asleep(entry: Plain) -> bool:
    """Whether an entry counts what the idle process keeps, because that is more than the model takes when it works."""
    return bool(entry.get("asleep")) and entry["bytes"] > sum(entry.get("terms", {}).values())


def _alike(account: Plain) -> tuple[object, ...]:
    entries = tuple(
        (entry["kind"], entry["name"], entry.get("resident", True), entry["bytes"] // MIB, *(size // MIB for size in entry.get("terms", {}).values()))
        for entry in account["entries"]
    )
    return account["unit"], account["name"], account["total"] // MIB, account["free"] // MIB, entries


def _left(accounts: Sequence[Plain]) -> Iterator[str]:
    gpus = [account for account in accounts if account["unit"] == "VRAM"]
    if len(gpus) > 1:
        yield f"at least {shown(min(account['free'] for account in gpus))} left on each GPU"
    for account in accounts:
        if account["unit"] == "RAM":
            yield f"{shown(account['free'])} left in RAM"
        elif len(gpus) == 1:
            yield f"{shown(account['free'])} left on {clean(account['title'])}"


def _verdict(plan: Plain, width: int) -> Iterator[str]:
    says = "FITS" if plan["fits"] else "DOES NOT FIT"
    yield from _wrapped(f"{clean(plan['host'])}  {says}: {verdict(plan)}", width)
    yield from _wrapped(SOURCES.get(plan["source"], clean(plan["source"])), width)


def _account(group: Sequence[Plain], letters: Mapping[tuple[str, str], str], width: int) -> Iterator[str]:
    account = group[0]
    short = account["free"] < 0
    room = f"{shown(account['total'])}, {shown(abs(account['free']))} {'short' if short else 'free'}"
    title = shortened(group_title(group), width - len(room) - 2)
    if (left := width - len(title) - len(room) - 4) >= _SHORTEST_NAME:
        title += f"  {shortened(clean(account['name']), left)}"
    yield f"{title}{room:>{width - len(title)}}"
    yield f"  {_bar(account, letters, width - 2)}"
    last = {"kind": "short" if short else "free", "name": "short" if short else "free", "bytes": abs(account["free"])}
    entries = [*account["entries"], last]
    names = min(max(len(_name(entry)) for entry in entries), max(_SHORTEST_NAME, width // 3 - 4))
    sizes = max(len(shown(entry["bytes"])) for entry in entries)
    for entry in entries:
        key = {"free": _FREE, "short": _SHORT}.get(entry["kind"]) or letters.get((entry["kind"], entry["name"]), " ")
        line = f"  {key} {_shortened_name(entry, names):<{names}} {shown(entry['bytes']):>{sizes}} {share(entry['bytes'], account['total']):>5}  "
        yield line + _note(entry, width - len(line))


def _name(entry: Plain) -> str:
    return clean(entry["name"]) if entry.get("resident", True) else f"({clean(entry['name'])})"


def _shortened_name(entry: Plain, width: int) -> str:
    name = clean(entry["name"])
    return shortened(name, width) if entry.get("resident", True) else f"({shortened(name, width - 2)})"


def _note(entry: Plain, width: int) -> str:
    """What stands behind an entry, or nothing where it does not fit."""
    if not entry.get("resident", True):
        note = IN_TURNS
    elif is_asleep(entry):
        note = "what its process keeps asleep"
    elif entry["kind"] == MODEL:
        return terms(entry, width)
    elif entry["kind"] == "short":
        note = f"{mib(entry['bytes']):,} MiB too much"
    else:
        note = NOTES.get(entry["kind"], "")
    return note if len(note) <= width else ""


def _bar(account: Plain, letters: Mapping[tuple[str, str], str], width: int) -> str:
    """Entries in their order, each with its letter where there is room, then what is free; what is too much comes after the line."""
    entries = counted(account)
    used = sum(entry["bytes"] for entry in entries)
    scale = max(used, account["total"], 1)
    end = width if used <= account["total"] else min(width - 2, round((width - 1) * account["total"] / scale))
    drawn, taken, at = "", 0, 0
    turns = {fills: itertools.cycle(fills) for fills in _FILLS.values()}
    for entry in entries:
        taken += entry["bytes"]
        until = min(end, round(width * taken / scale))
        fill = next(turns[_FILLS[entry["kind"] == MODEL]])
        drawn += _segment(letters[(entry["kind"], entry["name"])], fill, until - at)
        at = until
    drawn += _FREE * (end - at)
    return drawn if end == width else f"{drawn}│{_SHORT * (width - end - 1)}"


def _segment(letter: str, fill: str, width: int) -> str:
    if width < 3:
        return fill * width
    label = f" {letter} " if width >= 7 else letter
    return label.center(width, "\0").replace("\0", fill)


def _decided(plan: Plain, width: int) -> Iterator[str]:
    told = [found for found in plan["deployments"] if found["decided"] or found["why"] or found["notes"]]
    if told:
        yield from ["", "Decided"]
    for found in told:
        values = ", ".join(f"{name} {value}" for name, value in settings(found["decided"]))
        yield from _wrapped(f"{found['model']}: {values}" if values else found["model"], width, "  ")
        for why in found["why"]:
            yield from _wrapped(why, width, "    - ")
        for note in found["notes"]:
            yield from _wrapped(note, width, "    - ")


def _values(plan: Plain, width: int) -> Iterator[str]:
    for found in plan["deployments"]:
        if found["decided"]:
            values = ", ".join(f"{name} {value}" for name, value in settings(found["decided"]))
            yield from _wrapped(f"{found['model']}: {values}", width, "  ")


def _refusals(plan: Plain, width: int) -> Iterator[str]:
    if plan["refusals"]:
        yield from ["", "Does not fit"]
    for refusal in plan["refusals"]:
        yield from _wrapped(refusal["message"], width, "  ! ")
        if refusal["changes"]:
            yield from _wrapped(ways_out(refusal), width, "    ")
        for number, change in enumerate(refusal["changes"], 1):
            yield from _wrapped(change["message"], width, f"    {number}. ")


def _wrapped(text: object, width: int, indent: str = "") -> list[str]:
    kept = _UNITS.sub("\N{NO-BREAK SPACE}", clean(text))  # a number stays with its unit
    lines = textwrap.wrap(kept, width, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
