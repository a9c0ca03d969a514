# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_download.mirrored``."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._download import mirrored


def _mirrored(url: str, mirror: str = "") -> str:
    address = mirrored(url, mirror)
    return f"file://{address}" if address.startswith("/") else address


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mirrored": _mirrored}
