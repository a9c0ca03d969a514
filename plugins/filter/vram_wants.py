# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_host_wants.vram_wants``."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._host_wants import vram_wants


def _vram_wants(catalogue: t.Any, hostvars: t.Any, groups: t.Any, host: str) -> t.Any:
    try:
        return vram_wants(catalogue, hostvars, groups, host)
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"vram_wants": _vram_wants}
