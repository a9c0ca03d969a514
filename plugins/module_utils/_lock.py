# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks things up in the lock file and says what is there when something is not."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError


def lock_entry(
    lock: t.Mapping[str, t.Any], name: str, version: str = "", kind: str = "", variant: str = ""
) -> dict[str, t.Any]:
    """One entry of ``roles/common/vars/lock.yml``, with its ``version``; an empty version is the default one.

    ``refused`` of an artefact names the versions that must not run: all ``below`` a version, and single ones, with the ``reason``.

    ``kind`` and ``variant`` select a part of the version's entry, for example ``archive`` and ``x86_64-cpu``.
    """
    software = _pick(lock, name, "The lock file", "artefact")
    chosen = version or software["default"]
    _refuse_known_bad(name, chosen, software.get("refused", {}))
    entry = _pick(software["versions"], chosen, f"{name} in the lock file", "version")
    if kind:
        entry = _pick(entry, kind, f"{name} {chosen} in the lock file", "part")
    if variant:
        entry = _pick(entry, variant, f"{name} {chosen} ({kind}) in the lock file", "variant")
    return {"version": chosen, **entry}


def _refuse_known_bad(name: str, version: str, refused: t.Mapping[str, t.Any]) -> None:
    number, lowest = _number(version), _number(refused.get("below", ""))
    if version in refused.get("versions", ()) or (number and lowest and number < lowest):
        raise InputError(f"{name} {version} is refused: {refused['reason']}. Choose another version.")


def _number(version: str) -> tuple[int, ...]:
    """1.83.10 as (1, 83, 10); empty for what is no such number."""
    return tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+(\.\d+)+", version) else ()


def _pick(mapping: t.Mapping[str, t.Any], key: str, where: str, what: str) -> t.Any:
    if key not in mapping:
        known = ", ".join(sorted(mapping)) or "none"
        raise InputError(f"{where} has no {what} {key!r} (it has: {known}). Choose one of these or add it to roles/common/vars/lock.yml.")
    return mapping[key]
