# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model hub knows about files, asked through huggingface_hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._download import (
    HTTPStatus,
    Source,
    Unreachable,
    check_token,
    read_document,
)
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError

PUBLIC_HUB = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubLibraryMissing(LLMError):
    """huggingface_hub cannot be imported by this interpreter."""


@dataclass(frozen=True)
class HubFile:
    """One file of a commit. ``xet`` files come fastest through huggingface_hub, all others can be resumed by us."""

    source: Source
    xet: bool


class Hub:
    """One hub, with or without a token; ``cache`` is where its library may keep what it wants to keep."""

    def __init__(self, endpoint: str, token: str, cache: Path) -> None:
        # The library reads these when it is imported. It must not find a token of the user that Ansible runs as.
        os.environ.update(
            {
                "HF_HOME": str(cache),
                "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            }
        )
        if token:
            check_token(token, endpoint)
        try:
            import huggingface_hub  # noqa: PLC0415 - a host may lack it, and plain files need none
        except ImportError as exc:
            raise HubLibraryMissing(str(exc)) from exc
        self._library: t.Any = huggingface_hub
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._api: t.Any = huggingface_hub.HfApi(endpoint=self._endpoint, token=token or False)
        self._has_xet = bool(importlib.util.find_spec("hf_xet")) and not huggingface_hub.constants.HF_HUB_DISABLE_XET

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a branch or tag means now."""
        if COMMIT.fullmatch(revision):
            return revision
        return str(self._call(repo, lambda: self._api.model_info(repo, revision=revision)).sha)

    def files(self, repo: str, commit: str, paths: t.Sequence[str]) -> dict[str, HubFile]:
        """The files at ``commit``, each with the size and the sum that the hub publishes."""
        answer = self._call(repo, lambda: self._api.get_paths_info(repo, list(paths), revision=commit))
        found = {info.path: info for info in answer if hasattr(info, "blob_id")}
        missing = sorted(set(paths) - set(found))
        if missing:
            raise InputError(f"{self._endpoint}/{repo} has no file {', '.join(missing)} at {commit}: correct `files`.")
        return {path: self._file(repo, commit, found[path]) for path in paths}

    def names(self, repo: str, commit: str) -> list[str]:
        """All files of a commit."""
        answer = self._call(repo, lambda: self._api.model_info(repo, revision=commit))
        return [str(file.rfilename) for file in answer.siblings or []]

    def fetch(self, repo: str, commit: str, path: str, directory: Path) -> Path:
        """Bring a file through huggingface_hub (and hf_xet) into ``directory``."""
        return Path(
            self._call(repo, lambda: self._api.hf_hub_download(repo, path, revision=commit, local_dir=str(directory)))
        )

    def _file(self, repo: str, commit: str, info: t.Any) -> HubFile:
        url = self._library.hf_hub_url(repo, info.path, revision=commit, endpoint=self._endpoint)
        if info.lfs:
            source = Source(url, info.lfs.sha256, info.size, self._token)
            return HubFile(source, self._has_xet and bool(info.xet_hash))
        # Small files have no published SHA-256, only git's own sum over a header and the content.
        content = read_document(Source(url, token=self._token), limit=64 * 1024 * 1024)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if blob != info.blob_id:
            raise LLMError(
                f"{url} is not what the hub lists for it (git object {info.blob_id}, found {blob}): try again."
            )
        return HubFile(Source(url, hashlib.sha256(content).hexdigest(), info.size, self._token), False)

    def _call(self, repo: str, ask: t.Callable[[], t.Any]) -> t.Any:
        errors = self._library.errors
        where = f"{self._endpoint}/{repo}"
        try:
            return ask()
        except errors.HfHubHTTPError as exc:
            status = exc.response.status_code
            given = (
                "the token that was given may not read it" if self._token else "give a hub token if it is not public"
            )
            raise HTTPStatus(
                f"{where} answered with HTTP {status}: check the names of repository and revision; {given}.", status
            ) from exc
        except (errors.HTTPError, OSError, ValueError, RuntimeError) as exc:
            reason = exc.__cause__ or exc  # the library wraps the cause in advice that does not fit here
            raise Unreachable(
                f"{where} could not be asked ({reason}): check the network and the hub's address, or set llm_mirror."
            ) from exc
