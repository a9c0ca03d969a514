# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the name of a model (a path, an address, a repository of a hub) to its shape, without its weights."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ansible_collections.baremetal.llm.plugins.module_utils._download import HTTPStatus, Source, check_token, mirrored, read_document
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._gguf_shape import read_gguf
from ansible_collections.baremetal.llm.plugins.module_utils._hf import read_hf
from ansible_collections.baremetal.llm.plugins.module_utils._hf_config import CONFIG
from ansible_collections.baremetal.llm.plugins.module_utils._hub import COMMIT, PUBLIC_HUB
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._ranges import Files, LocalFiles, WebFiles
from ansible_collections.baremetal.llm.plugins.module_utils._safetensors import json_object

_HUB = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
_PROJECTOR = re.compile(r"(?:.*[/._-])?mmproj(?:[/._-].*)?\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class ModelName:
    """What the user calls a model, and how to get there.

    ``endpoint`` is the hub that the user named; empty: the mirror's, or the public one. The token is for that hub only.
    """

    model: str
    files: tuple[str, ...] = ()
    revision: str = ""
    mirror: str = ""
    endpoint: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Reading:
    """A shape, what it was read from, and how much had to be read for it."""

    shape: ModelShape
    revision: str  # the commit of a hub's repository if it is known
    fetched: int  # bytes


@dataclass
class _Place:
    files: Files
    names: list[str] | None  # of all files there; None where nobody can list them
    title: str
    revision: str = ""


def read_model(name: ModelName) -> Reading:
    """Read what describes a model. Raises InputError, MetadataError and what downloads raise."""
    place, given = _place(name)
    wanted = _wanted(name, place, given)
    models = [one for one in wanted if not _PROJECTOR.fullmatch(one)]
    projectors = [one for one in wanted if _PROJECTOR.fullmatch(one)]
    if len(models) > 1 or len(projectors) > 1:
        raise InputError(
            f"{name.model} has several models: {_listed(wanted)}. Name one in `files`, with its projector if it has one"
            " (of a model in several parts the first is enough)."
        )
    if models:
        shape = read_gguf(place.files, models[0], projectors[0] if projectors else "")
    elif projectors:
        raise InputError(f"{projectors[0]} is a projector: name the model that it belongs to, too.")
    else:
        shape = read_hf(place.files, place.title)
    return Reading(shape, place.revision, place.files.fetched)


def _place(name: ModelName) -> tuple[_Place, str]:
    """Where the files are, and the one file that the name of the model itself is, if it is one."""
    if name.model.startswith("hf:"):
        return _hub(name), ""
    source = Source(name.model)
    if source.is_http:
        parts = urlsplit(name.model)
        directory, _slash, file = parts.path.rpartition("/")
        address = urlunsplit((parts.scheme, parts.netloc, f"{directory}/", "", ""))
        query = f"?{parts.query}" if parts.query else ""
        return _Place(WebFiles(address, "", name.mirror, query), None, PurePosixPath(unquote(parts.path)).name), unquote(file)
    path = Path(unquote(urlsplit(name.model).path) if name.model.lower().startswith("file:") else name.model)
    if path.is_dir():
        return _Place(LocalFiles(path), sorted(file.name for file in path.iterdir() if file.is_file()), path.name), ""
    return _Place(LocalFiles(path.parent), None, path.parent.name), path.name


def _hub(name: ModelName) -> _Place:
    match = _HUB.fullmatch(name.model)
    if not match:
        raise InputError(f"The model is {name.model!r}: write hf:owner/repository.")
    if name.token:
        check_token(name.token, name.model)
    repo, revision = match[1], name.revision or "main"
    mirror = "" if name.endpoint else name.mirror
    endpoint = (name.endpoint or (PUBLIC_HUB if mirror else os.environ.get("HF_ENDPOINT", PUBLIC_HUB))).rstrip("/")
    listed = None
    if not mirror or Source(mirror).is_http:  # a directory holds files, but no hub that could be asked
        listed, revision = _ask(endpoint, repo, revision, mirror, "" if mirror else name.token)
    address = f"{endpoint}/{repo}/resolve/{quote(revision, safe='')}/"
    return _Place(WebFiles(address, name.token, mirror), listed, repo, revision if COMMIT.fullmatch(revision) else "")


def _ask(endpoint: str, repo: str, revision: str, mirror: str, token: str) -> tuple[list[str] | None, str]:
    """The names of the files of a repository, and the commit that the revision means now."""
    source = Source(mirrored(f"{endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}", mirror), token=token)
    try:
        answer = json_object(read_document(source), source.shown)
    except HTTPStatus as exc:
        if mirror and exc.status == 404:  # it holds files, but is no hub
            return None, revision
        raise
    siblings, commit = answer.get("siblings"), answer.get("sha")
    if not isinstance(siblings, list) or not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise MetadataError(f"{source.shown} does not answer as a hub does: check the address of the hub.")
    names = [file["rfilename"] for file in siblings if isinstance(file, dict) and isinstance(file.get("rfilename"), str)]
    return names or None, commit


def _wanted(name: ModelName, place: _Place, given: str) -> list[str]:
    """The GGUF files to read, without the later parts of split ones; none if it is a directory of safetensors."""
    if name.files:
        for file in name.files:
            _refuse_escape(file)
        chosen = list(name.files)
    elif given:
        chosen = [given]
    elif place.names is None or (CONFIG in place.names and any(file.endswith(".safetensors") for file in place.names)):
        return []
    else:
        chosen = [file for file in place.names if file.endswith(".gguf") and not _PROJECTOR.fullmatch(file)]
        if not chosen:
            raise InputError(f"{name.model} holds neither a GGUF file nor {CONFIG} with safetensors: {_listed(place.names)}.")
    strange = [file for file in chosen if not file.endswith((".gguf", ".safetensors", ".json"))]
    if strange:
        raise InputError(f"{strange[0]} is not a model that can be described: name a .gguf file, or the directory of safetensors with its {CONFIG}.")
    return list(dict.fromkeys(_PART.sub(r"\1-00001-of-\2.gguf", file) for file in chosen if file.endswith(".gguf")))


def _refuse_escape(path: str) -> None:
    if not path.isprintable() or any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"The file {path!r} does not lie with the model: give a relative path without '..'.")


def _listed(names: t.Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "nothing"
