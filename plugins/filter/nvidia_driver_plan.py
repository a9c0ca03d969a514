# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_nvidia_driver.plan``."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._nvidia_driver import Wishes, plan


def _nvidia_driver_plan(
    facts: dict[str, t.Any], source: str = "auto", branch: t.Any = "580", modules: str = "auto", compute_only: bool = True
) -> dict[str, t.Any]:
    try:
        return plan(facts, Wishes(source, str(branch), modules, compute_only)).as_dict()
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nvidia_driver_plan": _nvidia_driver_plan}
