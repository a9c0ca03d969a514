# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_ledger_report``."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_report import ledger_summary, ledger_table


def _vram_report(plan: t.Mapping[str, t.Any], width: int = 100, brief: bool = False) -> list[str]:
    try:
        return ledger_summary(plan, int(width)) if brief else ledger_table(plan, int(width))
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"vram_report": _vram_report}
