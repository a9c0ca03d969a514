# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One difference for everything that a module looked at: it feeds both ``changed`` and ``diff``."""

from __future__ import annotations

import typing as t

ABSENT = "(absent)"
SECRET = "(secret)"  # noqa: S105 - what is shown instead of one


class Difference:
    """Collects before and after, item by item, in the order in which they are added."""

    def __init__(self) -> None:
        self._before: list[str] = []
        self._after: list[str] = []

    def add(self, name: str, before: t.Any, after: t.Any, secret: bool = False) -> bool:
        """Record one item and return whether it differs. ``None`` means absent; a secret shows only that it changed."""
        if before == after:
            return False
        self._before.append(_show(name, before, secret))
        self._after.append(_show(name, after, secret))
        return True

    @property
    def changed(self) -> bool:
        return bool(self._after)

    def as_dict(self) -> dict[str, str]:
        """What Ansible prints with ``--diff``."""
        return {"before": "".join(self._before), "after": "".join(self._after)}


def _show(name: str, value: t.Any, secret: bool) -> str:
    if value is None:
        text = ABSENT
    elif secret:
        text = SECRET
    else:
        text = str(value)
    if "\n" in text:
        return f"--- {name}\n{text if text.endswith(chr(10)) else text + chr(10)}"
    return f"{name}: {text}\n"
