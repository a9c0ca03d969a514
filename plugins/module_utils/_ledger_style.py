# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the ledger's page looks: colours, patterns, style sheet."""

from __future__ import annotations

# White letters are on all of them (contrast of 4.5 and more), and they stand on a white page and on a dark one (3 and more).
INKS = ("#2067df", "#b84c0f", "#077e68", "#8c53c6", "#776d0d", "#c43180", "#0c7697", "#167e27")
GREY = "#66707b"
RED = "#d22d2d"

# name: (size, angle, shape). Darker than what they lie on, so that white letters stay readable.
_DARK = 'fill="#000" fill-opacity="0.28"'
PATTERNS = {
    "stripes": (8, 45, f'<rect width="4" height="8" {_DARK}/>'),
    "dots": (7, 0, f'<circle cx="3.5" cy="3.5" r="1.8" {_DARK}/>'),
    "bars": (6, 0, f'<rect width="3" height="6" {_DARK}/>'),
    "backs": (8, -45, f'<rect width="4" height="8" {_DARK}/>'),
    "lines": (6, 90, f'<rect width="3" height="6" {_DARK}/>'),
}

STYLE = """
:root { --page: #ffffff; --panel: #f5f6f8; --text: #1b1f24; --quiet: #57606a; --line: #d3d8de; --track: #e9ecef;
  --link: #1a5fb4; --good: #146c2e; --bad: #b3261e; --warn: #7a4f00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --panel: #1e2227; --text: #e6e9ec; --quiet: #a3adb8; --line: #3a414a; --track: #2a3037;
    --link: #8ab8ff; --good: #7bd88f; --bad: #ff9a92; --warn: #f0c066; }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 64px; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 4px; }
h2 { font-size: 1.35rem; margin: 0 0 4px; }
h3 { font-size: 1.02rem; margin: 28px 0 8px; display: flex; flex-wrap: wrap; gap: 0 12px; align-items: baseline; }
h4 { font-size: 1rem; margin: 0; }
h3 .quiet { font-weight: 400; }
h3 .room { margin-left: auto; }
a { color: var(--link); }
.lead { font-size: 1.1rem; margin: 0 0 24px; }
.quiet { color: var(--quiet); }
p.quiet { margin: 0; }
.good, .bad { font-weight: 600; white-space: nowrap; }
.good { color: var(--good); }
.bad { color: var(--bad); }
h2 .good, h2 .bad { font-size: 1rem; margin-left: 8px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.refused { border: 1px solid var(--bad); border-left-width: 6px; border-radius: 6px; padding: 14px 18px; margin: 0 0 32px; }
.refused > ul { list-style: none; margin: 8px 0 0; padding: 0; }
.refused > ul > li + li { border-top: 1px solid var(--line); margin-top: 12px; padding-top: 12px; }
.refused p { margin: 4px 0; }
.refused ol { margin: 0; padding-left: 24px; }
.refused strong { color: var(--bad); }
.warnings { margin: 12px 0 0; padding: 0; list-style: none; }
.warnings li { border-left: 4px solid var(--warn); padding: 2px 12px; }
.warnings strong { color: var(--warn); }
.host { border-top: 1px solid var(--line); margin-top: 36px; padding-top: 24px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle; font-weight: 400; }
thead th { color: var(--quiet); font-size: 0.82rem; white-space: nowrap; overflow-wrap: normal; }
tbody th { min-width: 160px; }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { padding-left: 12px; color: var(--quiet); min-width: 200px; }
.who { display: flex; align-items: center; gap: 10px; }
.key { flex: none; width: 22px; height: 22px; }
svg text { fill: #fff; font-size: 13px; font-weight: 600; text-anchor: middle; dominant-baseline: central; }
.bar { display: block; margin-top: 6px; }
.track { fill: var(--track); }
.block { stroke: var(--page); stroke-width: 2; }
svg.bar > text { fill: var(--quiet); font-size: 12px; font-weight: 400; }
svg.bar > text.free { fill: var(--text); font-size: 13px; }
.limit { stroke: var(--text); stroke-width: 3; }
svg.bar > text.short { fill: var(--bad); font-weight: 600; }
svg text.start { text-anchor: start; }
svg text.end { text-anchor: end; }
.verdict { min-width: 180px; }
.minis { min-width: 110px; line-height: 1; }
.mini { margin: 2px 6px 2px 0; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
article { background: var(--panel); border-radius: 6px; padding: 12px 16px; font-size: 0.92rem; }
article p { margin: 6px 0; }
article ul { margin: 6px 0; padding-left: 18px; }
code { display: inline-block; background: var(--page); border: 1px solid var(--line); border-radius: 4px; padding: 1px 6px; font-size: 0.85em; }
summary { color: var(--link); cursor: pointer; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 16px; margin: 6px 0 0; font-size: 0.85rem; }
dt { color: var(--quiet); }
dd { margin: 0; }
@media (max-width: 760px) { .wide, svg.bar > text.free { display: none; } h3 .room { margin-left: 0; } }
@media print { :root { print-color-adjust: exact; -webkit-print-color-adjust: exact; } article, .bar { break-inside: avoid; } }
"""
