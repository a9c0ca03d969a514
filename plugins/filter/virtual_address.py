# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_virtual_address``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._virtual_address import errors, interface


def _virtual_address(settings: t.Mapping[str, t.Any], host: str, facts: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {"errors": errors(settings, host), "interface": interface(facts, str(settings["address"]))}


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"virtual_address": _virtual_address}
