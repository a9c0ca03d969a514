# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_front_door``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._front_door import errors, limit_groups, subject_alt_names


def _front_door(settings: t.Mapping[str, t.Any], host: str) -> dict[str, t.Any]:
    wrong = errors(settings, host)
    if wrong:
        return {"errors": wrong, "limits": [], "subject_alt_names": []}
    names = [*settings["server_names"], *settings["admin_names"]]
    return {"errors": [], "limits": limit_groups(settings), "subject_alt_names": subject_alt_names(names)}


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"front_door": _front_door}
