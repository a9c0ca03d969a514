# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which image a service runs from: the user's own or the lock file's, for the host's GPUs, and always by its content."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

CPU, CUDA_12, CUDA_13 = "cpu", "cuda12", "cuda13"
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/: CUDA 13 needs branch 580 and compiles for nothing older than Turing.
_CUDA_13_BRANCH = 580
_BEFORE_TURING = frozenset(("older", "maxwell", "pascal", "volta"))
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_BY_DIGEST = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")


def variant(gpu: bool, driver: str, generations: t.Collection[str]) -> str:
    """CPU, CUDA_12 or CUDA_13, for the version of the loaded driver (empty: none is loaded) and the generations of the GPUs."""
    if not gpu:
        return CPU
    branch = int(driver.partition(".")[0] or _CUDA_13_BRANCH)
    return CUDA_13 if branch >= _CUDA_13_BRANCH and not _BEFORE_TURING.intersection(generations) else CUDA_12


def reference(images: t.Mapping[str, t.Any], chosen: str, own: str, variable: str, registry: str) -> str:
    """``name@sha256:...`` of the lock's image of a variant, or the user's ``own``; of names the copy in ``registry``, if there is one.

    ``variable`` is where the user gives an own image.
    """
    if own and not (_ID.fullmatch(own) or _BY_DIGEST.fullmatch(own)):
        raise InputError(
            f"{variable} is {own!r}: give an image by its content, as name@sha256:<64 digits>, or as sha256:<64 digits>, the id of one that was"
            " loaded on the host (docker image ls --no-trunc). A tag may be another image tomorrow."
        )
    if not own and chosen not in images:
        known = ", ".join(sorted(name for name, image in images.items() if isinstance(image, t.Mapping))) or "none"
        raise InputError(f"The lock file has no image for {chosen} (it has: {known}): set {variable} to one of your own, as name@sha256:<digest>.")
    if not own and not images[chosen]["digest"]:
        entry = images[chosen]
        tagged = f"{entry['name']}:{entry['tag']}"
        raise InputError(
            f"The lock file does not know the digest of {tagged} yet, and nothing runs that is not known by its content. Set {variable} to"
            f" {entry['name']}@sha256:<digest>, with the digest that docker buildx imagetools inspect {tagged} names."
        )
    found = own or f"{images[chosen]['name']}@{images[chosen]['digest']}"
    return f"{registry.rstrip('/')}/{found}" if registry and not _ID.fullmatch(found) else found
