# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_front_door``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._front_door import key_errors, limit_groups


def _front_door_keys(settings: t.Mapping[str, t.Any], host: str) -> dict[str, t.Any]:
    wrong = key_errors(settings["api_keys"], settings, host)
    return {"errors": wrong, "limits": [] if wrong else limit_groups(settings)}


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"front_door_keys": _front_door_keys}
