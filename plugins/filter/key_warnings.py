# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Thin wrapper around ``_keys_data.key_warnings``."""

from __future__ import annotations

import datetime as dt
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._keys_data import key_warnings


def _key_warnings(keys: t.Any, database: t.Any) -> t.Any:
    try:
        return key_warnings(keys, bool(database), dt.datetime.now(dt.timezone.utc))
    except LLMError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"key_warnings": _key_warnings}
