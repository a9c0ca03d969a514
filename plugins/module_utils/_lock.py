# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks things up in the lock file and says what is there when something is not."""

from __future__ import annotations

import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError


def lock_entry(
    lock: t.Mapping[str, t.Any], name: str, version: str = "", kind: str = "", variant: str = ""
) -> dict[str, t.Any]:
    """One entry of ``roles/common/vars/lock.yml``, with its ``version``; an empty version is the default one.

    ``kind`` and ``variant`` select a part of the version's entry, for example ``archive`` and ``x86_64-cpu``.
    """
    software = _pick(lock, name, "The lock file", "artefact")
    chosen = version or software["default"]
    entry = _pick(software["versions"], chosen, f"{name} in the lock file", "version")
    if kind:
        entry = _pick(entry, kind, f"{name} {chosen} in the lock file", "part")
    if variant:
        entry = _pick(entry, variant, f"{name} {chosen} ({kind}) in the lock file", "variant")
    return {"version": chosen, **entry}


def _pick(mapping: t.Mapping[str, t.Any], key: str, where: str, what: str) -> t.Any:
    if key not in mapping:
        known = ", ".join(sorted(mapping)) or "none"
        raise InputError(f"{where} has no {what} {key!r} (it has: {known}). Choose one of these or add it to roles/common/vars/lock.yml.")
    return mapping[key]
