# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Words that more than one kind of error uses."""

from __future__ import annotations

import difflib
import typing as t


def one_of(value: t.Any, known: t.Iterable[str], listed: bool = True) -> str:
    """What was meant, if it is near, and what there is."""
    choices = sorted(known)
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]}" if near else ""
    if listed or not near:
        return "; ".join(part for part in (hint, f"there is: {', '.join(choices) or 'nothing yet'}") if part)
    return hint
