# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plans of all hosts as one HTML page: no script, nothing to load, readable in light and dark, with a bar per GPU.

Whatever comes from a plan goes through ``_e``: names are the inventory's, and a page is opened in a browser. The page is also well-formed XML,
so that tests can read it, and the same plans always give the same page.
"""

from __future__ import annotations

import html
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_report import (
    IN_TURNS,
    MODEL,
    NOTES,
    SOURCES,
    Plain,
    clean,
    counted,
    group_title,
    groups,
    is_asleep,
    keys,
    settings,
    share,
    shortened,
    verdict,
    ways_out,
)
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_style import GREY, INKS, PATTERNS, RED, STYLE
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB, mib, shown

_TERMS = {
    "weights": "Weights",
    "cache": "KV cache",
    "state": "State",
    "compute": "Compute",
    "projector": "Projector",
    "draft": "Draft",
    "prompts": "Prompts",
    "overhead": "Process",
}
_ENGINES = {"llama_router": "llama.cpp", "vllm": "vLLM"}
_HEIGHT = 36  # of a bar, in pixels
_USUAL_WIDTH = 1000  # of a bar, in pixels: what a label may need is reckoned with it
_LETTER_WIDTH = 7.5
_TICKS = 6  # at most

_NOTE = ' class="note"'
_NO_SWATCH = '<span class="key"></span>'


class _Look(t.NamedTuple):
    letter: str
    ink: str
    pattern: str  # empty: none


def ledger_page(plans: Sequence[Plain], title: str = "VRAM ledger") -> str:
    """The whole page: what does not fit, all hosts at a glance, then each host with its bars, tables, and what was decided."""
    fitting = sum(1 for plan in plans if plan["fits"])
    parts = [
        f"<h1>{_e(title)}</h1>",
        f'<p class="lead {"good" if fitting == len(plans) else "bad"}">{_summary(fitting, len(plans))}</p>',
        *_refusals(plans),
        *(_overview(plans) if len(plans) > 1 else []),
        *(line for number, plan in enumerate(plans) for line in _host(plan, f"h{number}")),
    ]
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{_e(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{_definitions()}
<main>
{body}
</main>
</body>
</html>
"""


def _e(value: object) -> str:
    return html.escape(clean(value))


def _summary(fitting: int, number: int) -> str:
    if not number:
        return "There is no host to plan for."
    if fitting == number:
        return "✓ Everything fits." if number == 1 else f"✓ Everything fits on all {number} hosts."
    short = number - fitting
    return "✗ It does not fit." if number == 1 else f"✗ {short} of {number} hosts {'does' if short == 1 else 'do'} not fit."


def _verdict_mark(fits: bool) -> str:
    return '<span class="good">✓ fits</span>' if fits else '<span class="bad">✗ does not fit</span>'


def _definitions() -> str:
    """Patterns in a picture without size: one that is not displayed would take them with it."""
    shapes = "".join(
        f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse" patternTransform="rotate({angle})">{shape}</pattern>'
        for name, (size, angle, shape) in PATTERNS.items()
    )
    return f'<svg class="hidden" width="0" height="0" aria-hidden="true"><defs>{shapes}</defs></svg>'


def _refusals(plans: Sequence[Plain]) -> Iterator[str]:
    if not any(plan["refusals"] for plan in plans):
        return
    yield '<section class="refused" aria-labelledby="refused">\n<h2 id="refused">What does not fit</h2>\n<ul>'
    for number, plan in enumerate(plans):
        places = {account["place"]: (f"h{number}-{account['place']}", account["title"]) for account in plan["accounts"]}
        for refusal in plan["refusals"]:
            target, where = places.get(refusal["place"], (f"h{number}", ""))
            name = f"{plan['host']}, {where}" if where else plan["host"]
            short = f" <strong>{mib(refusal['shortfall']):,} MiB short</strong>" if refusal["shortfall"] > 0 else ""
            yield f'<li><a href="#{_e(target)}">{_e(name)}</a>{short}\n<p>{_e(refusal["message"])}</p>'
            if refusal["changes"]:
                yield f"<p>{ways_out(refusal)}</p>\n<ol>"
                yield from (f"<li>{_e(change['message'])}</li>" for change in refusal["changes"])
                yield "</ol>"
            yield "</li>"
    yield "</ul>\n</section>"


def _overview(plans: Sequence[Plain]) -> Iterator[str]:
    heads = "".join(f'<th scope="col"{style}>{text}</th>' for text, style in (("Host", ""), ("Verdict", ""), ("Memory", ""), ("Models", _NOTE)))
    yield '<section aria-labelledby="hosts">\n<h2 id="hosts">Hosts</h2>'
    yield f'<div class="scroll" role="region" aria-label="Hosts" tabindex="0"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>'
    for number, plan in enumerate(plans):
        models = ", ".join(dict.fromkeys(clean(found["model"]) for found in plan["deployments"]))
        minis = "".join(_mini(account) for account in plan["accounts"])
        yield (
            f'<tr><th scope="row"><a href="#h{number}">{_e(plan["host"])}</a></th>'
            f'<td class="verdict">{_verdict_mark(plan["fits"])}<br/>{_e(verdict(plan))}</td>'
            f'<td class="minis">{minis}</td><td{_NOTE}>{_e(models)}</td></tr>'
        )
    yield "</tbody></table></div>\n</section>"


def _mini(account: Plain) -> str:
    used = account["total"] - account["free"]
    ink = RED if account["free"] < 0 else INKS[0]
    filled = min(100.0, 100 * used / account["total"]) if account["total"] else 0
    return (
        f'<svg class="mini" width="84" height="10" role="img" aria-label="{_e(account["title"])}: {share(used, account["total"])} taken">'
        f'<rect class="track" width="100%" height="10"/><rect width="{filled:.2f}%" height="10" fill="{ink}"/></svg>'
    )


def _host(plan: Plain, ident: str) -> Iterator[str]:
    looks = _looks(plan)
    yield f'<section class="host" aria-labelledby="{ident}">\n<h2 id="{ident}">{_e(plan["host"])} {_verdict_mark(plan["fits"])}</h2>'
    yield f'<p class="quiet">{_e(verdict(plan))}; {_e(SOURCES.get(plan["source"], plan["source"]))}</p>'
    if plan["warnings"]:
        yield '<ul class="warnings">'
        yield from (f"<li><strong>Warning:</strong> {_e(warning)}</li>" for warning in plan["warnings"])
        yield "</ul>"
    for group in groups(plan["accounts"]):
        yield from _group(group, plan, looks, ident)
    if plan["deployments"]:
        yield '<h3>What runs, and what was decided for it</h3>\n<div class="cards">'
        for found in plan["deployments"]:
            yield from _deployment(found)
        yield "</div>"
    yield "</section>"


def _looks(plan: Plain) -> dict[tuple[str, str], _Look]:
    """Services have a colour each, the rest is grey; a pattern sets apart what would look alike."""
    patterns = ["", *(name for name in PATTERNS)]
    looks = {}
    for key, letter in keys(plan).items():
        number = ord(letter.lower()) - ord("a")
        if letter.isupper():
            looks[key] = _Look(letter, INKS[number % len(INKS)], patterns[number // len(INKS) % len(patterns)])
        else:
            looks[key] = _Look(letter, GREY, patterns[number % len(patterns)])
    return looks


def _group(group: Sequence[Plain], plan: Plain, looks: Mapping[tuple[str, str], _Look], ident: str) -> Iterator[str]:
    account = group[0]
    free = f"{shown(account['free'])} free" if account["free"] >= 0 else f'<strong class="bad">{shown(-account["free"])} short</strong>'
    anchors = "".join(f'<a id="{_e(ident)}-{_e(member["place"])}"></a>' for member in group)
    board = f'<span class="quiet">{_e(account["name"])}, {shown(account["total"])}</span>'
    yield f'<h3><span>{anchors}{_e(group_title(group))}</span> {board} <span class="room">{free}</span></h3>'
    title = f"{group_title(group)}, of {plan['host']}" if len(group) > 1 else f"{account['title']} of {plan['host']}"
    yield from _bar(account, title, looks, f"{ident}-{account['place']}")
    yield from _table(account, title, looks)


def _bar(account: Plain, title: str, looks: Mapping[tuple[str, str], _Look], ident: str) -> Iterator[str]:
    """Positions are shares of the width, so that the bar is as wide as the page and its text is not scaled.

    What is too much is drawn too: a line says where the memory ends, and all that is right of it is underlined in red.
    """
    total, entries = account["total"], counted(account)
    used = sum(entry["bytes"] for entry in entries)
    scale = max(total, used, 1)
    room = f"{shown(account['free'])} free" if used <= total else f"{shown(used - total)} short"
    takers = ", ".join(f"{clean(entry['name'])} {shown(entry['bytes'])}" for entry in entries)
    name = _e(ident)
    yield f'<svg class="bar" width="100%" height="{_HEIGHT + 26}" role="img" aria-labelledby="{name}-t {name}-d">'
    yield f'<title id="{name}-t">{_e(title)}: {shown(total)}, {room}</title>'
    yield f'<desc id="{name}-d">{_e(takers or "nothing is placed here")}</desc>'
    yield f'<rect class="track" width="{total / scale:.3%}" height="{_HEIGHT}"/>'
    at = 0
    for entry in entries:
        if entry["bytes"]:
            yield _segment(entry, looks[(entry["kind"], entry["name"])], at / scale, entry["bytes"] / scale)
        at += entry["bytes"]
    end = total / scale
    style, last = "end", shown(total)
    if used > total:
        style, last = "end short", f"{shown(used - total)} more than {shown(total)}"
        yield f'<rect x="{end:.3%}" y="{_HEIGHT + 1}" width="{1 - end:.3%}" height="5" fill="{RED}"/>'
        yield f'<line class="limit" x1="{end:.3%}" x2="{end:.3%}" y1="0" y2="{_HEIGHT + 6}"/>'
    elif (total - used) / scale * _USUAL_WIDTH > len(room) * _LETTER_WIDTH + 20:
        yield f'<text class="free" x="{(total + used) / 2 / scale:.3%}" y="{_HEIGHT // 2}">{room}</text>'
    yield from _ticks(total, scale)
    yield f'<text class="{style}" x="100%" y="{_HEIGHT + 15}">{last}</text>'
    yield "</svg>"


def _segment(entry: Plain, look: _Look, at: float, width: float) -> str:
    size, name = shown(entry["bytes"]), clean(entry["name"])
    label = _label(look.letter, [f"{name} {size}", name, shortened(name, max(6, int(width * _USUAL_WIDTH / _LETTER_WIDTH) - 4))], width)
    over = f'<rect width="100%" height="100%" fill="url(#{look.pattern})"/>' if look.pattern else ""
    return (
        f'<svg x="{at:.3%}" width="{width:.3%}" height="{_HEIGHT}"><title>{_e(name)}: {size}</title>'
        f'<rect class="block" width="100%" height="100%" fill="{look.ink}"/>{over}<text x="50%" y="50%">{label}</text></svg>'
    )


def _label(letter: str, texts: Iterable[str], width: float) -> str:
    """The letter, and the longest text for which there is room; narrow screens show the letter alone."""
    pixels = width * _USUAL_WIDTH
    if pixels < _LETTER_WIDTH * 2:
        return ""
    fitting = next((text for text in texts if (len(text) + 3) * _LETTER_WIDTH <= pixels), "")
    return f'{letter}<tspan class="wide">  {_e(fitting)}</tspan>' if fitting else letter


def _ticks(total: int, scale: int) -> Iterator[str]:
    """Round numbers of GiB; the end has its own label, and room for it."""
    step = next((step for step in (2.0**power for power in range(-2, 20)) if scale / GIB / step <= _TICKS), 1.0)
    last = 0.92 if total == scale else 0.8
    for mark in (number * step for number in range(_TICKS + 1)):
        if mark * GIB < min(last * scale, total):
            yield f'<text class="{"start" if mark == 0 else "wide"}" x="{mark * GIB / scale:.3%}" y="{_HEIGHT + 15}">{mark:g}</text>'


def _table(account: Plain, title: str, looks: Mapping[tuple[str, str], _Look]) -> Iterator[str]:
    terms = [term for term in _TERMS if any(entry.get("terms", {}).get(term) for entry in account["entries"])]
    label = f"{title}, in MiB"
    heads = "".join(f'<th scope="col" class="number">{text}</th>' for text in ["MiB", "Share", *(_TERMS[term] for term in terms)])
    yield f'<div class="scroll" role="region" aria-label="{_e(label)}" tabindex="0"><table>\n<caption class="hidden">{_e(label)}</caption>'
    yield f'<thead><tr><th scope="col">Who</th>{heads}<th scope="col"{_NOTE}>Note</th></tr></thead>\n<tbody>'
    for entry in account["entries"]:
        yield _row(entry, account["total"], terms, looks.get((entry["kind"], entry["name"])))
    short = account["free"] < 0
    name, style = ("short", ' class="bad"') if short else ("free", "")
    size = f"{mib(-account['free']):,}" if short else _mebibytes(account["free"])  # what is missing is never shown smaller than it is
    numbers = _numbers([size, share(abs(account["free"]), account["total"]), *("" for _term in terms)])
    yield f'</tbody>\n<tfoot><tr{style}><th scope="row"><span class="who">{_NO_SWATCH}{name}</span></th>{numbers}<td></td></tr></tfoot></table></div>'


def _row(entry: Plain, total: int, terms: Sequence[str], look: _Look | None) -> str:
    resident = entry.get("resident", True)
    sizes = entry.get("terms", {})
    parts = [_mebibytes(sizes[term]) if sizes.get(term) else "" for term in terms]
    numbers = _numbers([_mebibytes(entry["bytes"]), share(entry["bytes"], total), *parts])
    name = f"<span>{_e(entry['name'])}</span>" if resident else f"<span>({_e(entry['name'])})</span>"
    notes = [] if resident else [IN_TURNS]
    notes += [f"of {clean(entry['service'])}"] if entry["kind"] == MODEL and entry.get("service") else []
    notes += [f"keeps {shown(entry['asleep'])} asleep{', more than awake' if is_asleep(entry) else ''}"] if entry.get("asleep") else []
    notes += [NOTES[entry["kind"]]] if entry["kind"] in NOTES else []
    style = "" if resident else ' class="quiet"'
    swatch = _swatch(look) if look else _NO_SWATCH
    return f'<tr{style}><th scope="row"><span class="who">{swatch}{name}</span></th>{numbers}<td{_NOTE}>{_e("; ".join(notes))}</td></tr>'


def _numbers(texts: Iterable[str]) -> str:
    return "".join(f'<td class="number">{text}</td>' for text in texts)


def _swatch(look: _Look) -> str:
    over = f'<rect width="22" height="22" fill="url(#{look.pattern})"/>' if look.pattern else ""
    return (
        f'<svg class="key" width="22" height="22" aria-hidden="true"><rect width="22" height="22" rx="3" fill="{look.ink}"/>{over}'
        f'<text x="50%" y="50%">{look.letter}</text></svg>'
    )


def _mebibytes(size: int) -> str:
    return f"{size / MIB:,.0f}"


def _deployment(found: Plain) -> Iterator[str]:
    places = ", ".join(f"GPU {index}" for index in found["gpus"]) or "main memory"
    engine = _ENGINES.get(found["engine"], found["engine"])
    yield f'<article><h4>{_e(found["model"])}</h4>\n<p class="quiet">{_e(engine)} on {_e(places)}, {_e(found["service"])}</p>'
    if found["decided"]:
        yield f'<p>{" ".join(f"<code>{_e(name)}: {_e(value)}</code>" for name, value in settings(found["decided"]))}</p>'
    sentences = [*found["why"], *found["notes"]]
    if sentences:
        yield f"<ul>{''.join(f'<li>{_e(sentence)}</li>' for sentence in sentences)}</ul>"
    if found["options"]:
        told = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in settings(found["options"]))
        yield f"<details><summary>All that the engine is told</summary><dl>{told}</dl></details>"
    yield "</article>"
