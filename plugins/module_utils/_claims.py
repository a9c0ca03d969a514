# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keys of ours in a configuration that belongs to somebody else: put in, kept apart, and taken back without a trace.

A configuration is what JSON can say: dicts, lists and scalars. Dicts are merged key by key, so a claim is always on a leaf:

- a scalar of ours takes the place of the user's, which is remembered and comes back;
- a list of ours adds what the user's lacks to its end. An entry ``key=value`` (as in ``exec-opts`` or ``labels``) first displaces the user's
  entries of the same key, which are remembered and come back.

What the user changes after us is the user's: it is not taken back, and it is what comes back if we claim that leaf again.
"""

from __future__ import annotations

import copy
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

_NOTHING = object()


@dataclass
class Claim:
    """One leaf of ours.

    ``values`` are the values that it has with us: one, or two while the file is being replaced, so that an interrupted run knows its own
    hand. ``existed`` and ``before`` are the user's own value. ``items`` and ``displaced`` are the entries that we added to a list and took
    out of it. ``parents`` is how many of the dicts above it were ours.
    """

    path: list[str]
    values: list[t.Any] = field(default_factory=list)
    items: list[t.Any] = field(default_factory=list)
    displaced: list[t.Any] = field(default_factory=list)
    existed: bool = False
    before: t.Any = None
    parents: int = 0


def to_json(claims: t.Sequence[Claim]) -> list[dict[str, t.Any]]:
    return [asdict(claim) for claim in claims]


def from_json(data: t.Sequence[t.Mapping[str, t.Any]]) -> list[Claim]:
    return [Claim(**entry) for entry in data]


def claim(config: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], list[Claim]]:
    """The configuration with ``wanted`` in it, and what is ours in it. ``config`` must be without claims of ours (see ``release``)."""
    result = copy.deepcopy(dict(config))
    return result, [_claim_leaf(result, path, value) for path, value in leaves(wanted) if value != {}]


def release(config: t.Mapping[str, t.Any], claims: t.Sequence[Claim]) -> dict[str, t.Any]:
    """The configuration as it would be if we had never been there; what the user has changed since stays."""
    result = copy.deepcopy(dict(config))
    for ours in reversed(claims):
        _release_leaf(result, ours)
    return result


def in_transit(old: t.Sequence[Claim], new: t.Sequence[Claim]) -> list[Claim]:
    """Claims that hold whether the configuration has been replaced already or not."""
    before = {tuple(ours.path): ours for ours in old}
    held = []
    for ours in new:
        earlier = before.pop(tuple(ours.path), Claim([]))
        held.append(
            Claim(
                ours.path,
                ours.values + [value for value in earlier.values if value not in ours.values],
                ours.items + [item for item in earlier.items if item not in ours.items],
                ours.displaced + [item for item in earlier.displaced if item not in ours.displaced],
                ours.existed,
                ours.before,
                ours.parents,
            )
        )
    return [*before.values(), *held]


def leaves(tree: t.Mapping[str, t.Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], t.Any]]:
    """All (path, value) of a tree; an empty dict is a leaf."""
    found: list[tuple[tuple[str, ...], t.Any]] = []
    for key, value in tree.items():
        path = (*above, str(key))
        found += leaves(value, path) if isinstance(value, dict) and value else [(path, value)]
    return found


def look_up(tree: t.Mapping[str, t.Any], path: t.Sequence[str], default: t.Any = None) -> t.Any:
    """The value at a path, or the default."""
    found: t.Any = tree
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found


def _claim_leaf(config: dict[str, t.Any], path: tuple[str, ...], value: t.Any) -> Claim:
    place, parents = config, 0
    for depth, key in enumerate(path[:-1]):
        if key not in place:
            place[key] = {}
            parents = parents or len(path) - 1 - depth
        place = place[key]
        if not isinstance(place, dict):
            raise InputError(
                f"{'.'.join(path)} cannot be set: {'.'.join(path[: depth + 1])} is {place!r} in the file, not a group of keys. Correct one of them."
            )
    before = place.get(path[-1], _NOTHING)
    existed = before is not _NOTHING
    if isinstance(before, dict):
        raise InputError(f"{'.'.join(path)} cannot be set to {value!r}: it is a group of keys in the file. Correct one of them.")
    ours = Claim(list(path), existed=existed, before=copy.deepcopy(before) if existed else None, parents=parents)
    if isinstance(value, list) and (not existed or isinstance(before, list)):
        theirs = before if existed else []
        names = {_name(item) for item in value} - {None}
        ours.displaced = [item for item in theirs if _name(item) in names and item not in value]
        kept = [item for item in theirs if item not in ours.displaced]
        ours.items = [item for item in value if item not in kept]
        value = kept + ours.items
    ours.values = [copy.deepcopy(value)]
    place[path[-1]] = copy.deepcopy(value)
    return ours


def _release_leaf(config: dict[str, t.Any], ours: Claim) -> None:
    *above, last = ours.path
    place = look_up(config, above)
    if not isinstance(place, dict) or last not in place:
        return
    if place[last] in ours.values:
        place[last] = ours.before
        _drop(config, ours, not ours.existed)
    elif isinstance(place[last], list) and (ours.items or ours.displaced):
        # Somebody has edited it: what we put in goes, what we took out comes back.
        place[last] = [item for item in place[last] if item not in ours.items]
        place[last] += [item for item in ours.displaced if item not in place[last]]
        _drop(config, ours, not ours.existed and not place[last])


def _drop(config: dict[str, t.Any], ours: Claim, gone: bool) -> None:
    """Take the leaf away, and those dicts above it that were ours and are empty now."""
    if not gone:
        return
    del look_up(config, ours.path[:-1])[ours.path[-1]]
    for depth in range(len(ours.path) - 1, len(ours.path) - 1 - ours.parents, -1):
        place = look_up(config, ours.path[: depth - 1])
        if place[ours.path[depth - 1]]:
            return
        del place[ours.path[depth - 1]]


def _name(item: t.Any) -> str | None:
    """``key`` of an entry ``key=value``."""
    return item.partition("=")[0] if isinstance(item, str) and "=" in item else None
