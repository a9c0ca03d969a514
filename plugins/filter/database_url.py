# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_database_url.database_url``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._database_url import database_url


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"database_url": database_url}
