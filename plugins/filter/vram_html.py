# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_ledger_html.ledger_page``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_html import ledger_page


def _vram_html(plans: t.Sequence[t.Mapping[str, t.Any]], title: str = "VRAM ledger") -> str:
    return ledger_page(plans, title)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"vram_html": _vram_html}
