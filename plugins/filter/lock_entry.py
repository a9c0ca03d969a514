# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_lock.lock_entry``."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._lock import lock_entry


def _lock_entry(lock: dict[str, t.Any], name: str, version: str = "", kind: str = "", variant: str = "") -> dict[str, t.Any]:
    try:
        return lock_entry(lock, name, version, kind, variant)
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"lock_entry": _lock_entry}
