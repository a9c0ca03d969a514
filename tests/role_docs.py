# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the variable table of every role's README from its argument spec. Usage: python tests/role_docs.py"""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
BEGIN, END = "<!-- variables: begin -->\n", "<!-- variables: end -->"


def rendered(role: Path) -> str:
    """The README as it should be."""
    text = (role / "README.md").read_text()
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return f"{before}{BEGIN}{''.join(_table(name, spec, len(specs) > 1) for name, spec in specs.items())}{END}{after}"


def _table(name: str, spec: dict[str, t.Any], titled: bool) -> str:
    title = f"\n### {name}: {spec['short_description']}\n\n" if titled else ""
    rows = [
        f"| `{option}` | {about['type']} | {_default(about)} | {_cell(about['description'])} |\n"
        for option, about in spec["options"].items()
    ]
    return f"{title}| variable | type | default | meaning |\n|---|---|---|---|\n{''.join(rows)}"


def _default(about: dict[str, t.Any]) -> str:
    return "(required)" if about.get("required") else f"`{_cell(json.dumps(about.get('default')))}`"


def _cell(text: str | list[str]) -> str:
    return (text if isinstance(text, str) else " ".join(text)).replace("|", "\\|").replace("\n", " ").strip()


if __name__ == "__main__":
    for readme in ROLES.glob("*/README.md"):
        readme.write_text(rendered(readme.parent))
