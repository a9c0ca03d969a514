# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directory of models: which files are there and verified, which are missing, and how they get there."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._download import (
    ChecksumMismatch,
    DownloadError,
    Source,
    Unreachable,
    check_space,
    download,
    mirrored,
    sha256_of,
    size_of,
)
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._hub import COMMIT, PUBLIC_HUB, Hub
from ansible_collections.baremetal.llm.plugins.module_utils._repository_files import needed

STATE_FILE = ".verified.json"
HUB_DIRECTORY = ".hub"
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HUB_SOURCE = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

PRESENT = "present"
DOWNLOADED = "downloaded"
WOULD_DOWNLOAD = "would_download"


@dataclass(frozen=True)
class Settings:
    """How to get at the files. ``endpoint`` is the hub that the user named; empty: the mirror's, or the public one."""

    root: Path
    mirror: str = ""
    endpoint: str = ""
    token: str = field(default="", repr=False)
    always_verify: bool = False
    allow_unverified: bool = False
    parallel: int = 4


class Model:
    """One model of the list and what is remembered about it.

    A model of a hub that names no files is ``whole``: its ``listing`` are the files that an engine needs of the repository, empty while they are
    not known.
    """

    def __init__(self, name: str, source: str, revision: str, directory: Path) -> None:
        self.name = name
        self.source = source
        self.revision = revision
        self.directory = directory
        self.whole = False
        self.listing: list[str] = []
        self.files: list[File] = []
        self._lock = threading.Lock()
        self._state: dict[str, t.Any] = {}
        self.commit = revision if COMMIT.fullmatch(revision) else ""

    @property
    def repo(self) -> str:
        """``owner/repo`` on a hub, or empty."""
        match = _HUB_SOURCE.fullmatch(self.source)
        return match[1] if match else ""

    @property
    def origin(self) -> str:
        return f"{self.source}@{self.commit or self.revision}" if self.repo else self.source

    def recall(self) -> None:
        """Read what earlier runs wrote down."""
        try:
            state = json.loads((self.directory / STATE_FILE).read_text())
        except (OSError, ValueError):
            return
        if isinstance(state, dict) and isinstance(state.get("files"), dict):
            self._state = state
            if (state.get("source"), state.get("revision")) == (self.source, self.revision):
                self.commit = state.get("commit", "")  # a branch is looked up once, then it stays where it was
                self.take(state.get("listing", []))

    def take(self, names: t.Sequence[str]) -> None:
        """Take these as the files of a whole repository."""
        self.listing = [_safe_path(self.name, name) for name in names]
        if self.whole:
            self.files = [File(self, name, "") for name in self.listing]

    def record(self, path: str) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self._state.get("files", {}).get(path, {}))

    def holds(self, path: str) -> bool:
        """Whether a file was verified as from this source, and is as it was then."""
        record = self.record(path)
        try:
            status = (self.directory / path).stat()
        except OSError:
            return False
        return record.get("origin") == self.origin and (record.get("size"), record.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)

    def remember(self, file: File) -> None:
        """Write down that the file has been verified, so that nobody has to read it again."""
        with self._lock:
            state: dict[str, t.Any] = {"source": self.source, "revision": self.revision, "commit": self.commit}
            if self.listing:
                state["listing"] = self.listing
            state["files"] = {**self._state.get("files", {}), file.path: file.as_record()}
            if state == self._state:
                return
            self._state = state
            path = self.directory / STATE_FILE
            staged = path.with_name(f"{STATE_FILE}.new")
            staged.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
            os.replace(staged, path)


@dataclass
class File:
    """One file of a model: what is wanted, what is there."""

    model: Model
    path: str
    sha256: str  # the given sum, later the hub's; empty while nobody knows one
    status: str = WOULD_DOWNLOAD
    size: int | None = None
    found: str = ""  # the sum of the file that is there
    before: str | None = None  # the same as it was before we did anything, for the diff
    source: Source | None = None
    xet: bool = False

    @property
    def dest(self) -> Path:
        return self.model.directory / self.path

    @property
    def shown(self) -> str:
        return f"{self.model.name}/{self.path}"

    def as_record(self) -> dict[str, t.Any]:
        status = self.dest.stat()
        return {
            "origin": self.model.origin,
            "sha256": self.found,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }

    def examine(self, always: bool) -> None:
        """Find out whether the right file is there; reads it only if it changed since, or if told to."""
        try:
            status = self.dest.stat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                f"{self.dest} should become a file of the model {self.model.name}, but is none: remove it."
            )
        self.before = self.found or "(unverified)"
        record = self.model.record(self.path)
        expected = self.sha256 or (record.get("sha256", "") if record.get("origin") == self.model.origin else "")
        if not expected:
            return
        if not self.found:
            untouched = (record.get("size"), record.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
            self.found = record["sha256"] if untouched and not always else sha256_of(self.dest)
        self.before = self.found
        if self.found == expected:
            self.status, self.sha256, self.size = PRESENT, expected, status.st_size


class ModelStore:
    """``plan`` finds out, without changing anything; ``fetch`` does it."""

    def __init__(self, settings: Settings, models: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        self._settings = settings
        self._hub: Hub | None = None
        self.models = [_model(entry, settings.root) for entry in models]
        self.warnings: list[str] = []
        _refuse_duplicates([model.name for model in self.models], "model")
        _refuse_duplicates([file.shown for file in self.files], "file")
        for file in self.files:
            if not (file.sha256 or settings.allow_unverified or (file.model.repo and not self._is_static(file.model))):
                raise InputError(
                    f"The file {file.path} of the model {file.model.name} from {file.model.source} has no sha256:"
                    f" give it as llm_models.{file.model.name}.files (or .sha256 for a single file),"
                    " or allow unverified files."
                )

    @property
    def files(self) -> list[File]:
        return [file for model in self.models for file in model.files]

    @property
    def missing(self) -> list[File]:
        return [file for file in self.files if file.status != PRESENT]

    def plan(self, check: bool, ask_hub: bool = True) -> None:
        """Examine everything, ask the sources what is not known, and see that all of it fits.

        In check mode a source that cannot be reached (yet) is a warning. Raises HubLibraryMissing.
        """
        for model in self.models:
            model.recall()
            if model.whole and not model.listing and ask_hub:
                self._list(model, check)
        self._each(self.files, lambda file: file.examine(self._settings.always_verify))
        for model in self.models:
            if any(file.status != PRESENT for file in model.files):
                self._find_sources(model, check, ask_hub)
        self._each([file for file in self.missing if file.source], lambda file: self._ask_size(file, check))
        needed = sum(max(0, (file.size or 0) - _part_size(file)) for file in self.missing)
        names = ", ".join(file.shown for file in self.missing)
        if names:
            check_space(self._settings.root, needed, f"Downloading {names}")

    def fetch(self) -> None:
        """Bring what is missing, in parallel. What arrives stays, even if another file fails."""
        for file in self.files:
            if file.status == PRESENT:
                file.model.remember(file)
        try:
            self._each(self.missing, self._fetch)
        finally:
            # Whatever a killed run left here: huggingface_hub begins anew anyway.
            shutil.rmtree(self._settings.root / HUB_DIRECTORY, ignore_errors=True)

    def _is_static(self, model: Model) -> bool:
        """Whether a mirror holds the hub's files under their addresses, so that no hub has to be asked."""
        if not self._settings.mirror or self._settings.endpoint:
            return False
        if model.whole:
            return not Source(self._settings.mirror).is_http
        return not Source(self._settings.mirror).is_http or all(file.sha256 for file in model.files)

    def _list(self, model: Model, check: bool) -> None:
        """Find out which files an engine needs of a whole repository."""
        remedy = f"name the files in llm_models.{model.name}.files"
        if self._is_static(model):
            raise InputError(f"The model {model.name} from {model.source} lists no files, and the mirror {self._settings.mirror} cannot be asked: {remedy}.")
        try:
            hub = self._ask(model)
            names = hub.names(model.repo, model.commit)
        except Unreachable as exc:
            self._tolerate(exc, check)
            return
        model.take(needed(names))
        if not model.listing:
            raise InputError(f"The model {model.name} from {model.source} has no safetensors at {model.commit}: {remedy}.")

    def _find_sources(self, model: Model, check: bool, ask_hub: bool) -> None:
        if model.repo and not self._is_static(model):
            if ask_hub:
                try:
                    self._ask_hub(model)
                except Unreachable as exc:
                    self._tolerate(exc, check)
            return
        for file in model.files:
            if model.repo:
                url = f"{PUBLIC_HUB}/{model.repo}/resolve/{quote(model.revision, safe='')}/{quote(file.path)}"
            elif model.source.endswith("/"):
                url = model.source + quote(file.path)
            else:
                url = model.source
            file.source = Source(mirrored(url, self._settings.mirror), file.sha256)

    def _ask(self, model: Model) -> Hub:
        """The hub, which has said what the model's revision means."""
        settings = self._settings
        if self._hub is None:
            from_mirror = mirrored(PUBLIC_HUB, settings.mirror)
            endpoint = settings.endpoint or (
                from_mirror if settings.mirror else os.environ.get("HF_ENDPOINT", PUBLIC_HUB)
            )
            # A mirror is not the hub that the token was made for.
            token = settings.token if settings.endpoint or not settings.mirror else ""
            self._hub = Hub(endpoint, token, settings.root / HUB_DIRECTORY)
        model.commit = self._hub.commit(model.repo, model.commit or model.revision)
        return self._hub

    def _ask_hub(self, model: Model) -> None:
        hub = self._ask(model)
        missing = [file for file in model.files if file.status != PRESENT]
        published = hub.files(model.repo, model.commit, [file.path for file in missing])
        for file in missing:
            source, file.xet = published[file.path].source, published[file.path].xet
            if file.sha256 and file.sha256 != source.sha256:
                raise ChecksumMismatch(
                    f"{source.shown} is published with sha256 {source.sha256}, but {file.sha256} is given"
                    f" for {file.shown}: correct the sum, or the revision."
                )
            file.sha256, file.size, file.source = source.sha256, source.size, source
            file.examine(self._settings.always_verify)

    def _ask_size(self, file: File, check: bool) -> None:
        if file.source and file.size is None:
            try:
                file.size = size_of(file.source)
            except Unreachable as exc:
                self._tolerate(exc, check)

    def _tolerate(self, exc: Unreachable, check: bool) -> None:
        if not check:
            raise exc
        self.warnings.append(str(exc))

    def _fetch(self, file: File) -> None:
        if file.source is None:
            raise DownloadError(f"No source is known for {file.shown}.")
        make_directories(self._settings.root, file.dest.parent)
        if file.xet and self._hub and _part_size(file) == 0:
            self._fetch_through_hub(self._hub, file)
        else:
            result = download(file.source, file.dest)
            file.found, file.size = result.sha256, result.size
        file.sha256, file.status = file.found, DOWNLOADED
        file.model.remember(file)

    def _fetch_through_hub(self, hub: Hub, file: File) -> None:
        directory = self._settings.root / HUB_DIRECTORY / file.model.name
        staged = hub.fetch(file.model.repo, file.model.commit, file.path, directory)
        file.found = sha256_of(staged)
        if file.found != file.sha256:
            staged.unlink()
            raise ChecksumMismatch(f"{file.shown}: expected sha256 {file.sha256}, found {file.found}. Run again.")
        staged.chmod(0o644)
        os.replace(staged, file.dest)

    def _each(self, files: t.Sequence[File], work: t.Callable[[File], None]) -> None:
        """Do the work for all files, then report every error at once."""
        errors: list[LLMError] = []

        def guarded(file: File) -> None:
            try:
                work(file)
            except LLMError as exc:
                errors.append(exc)

        with ThreadPoolExecutor(max_workers=max(1, self._settings.parallel)) as pool:
            list(pool.map(guarded, files))
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise DownloadError(" ".join(str(error) for error in errors)) from errors[0]


def kept(root: Path, entry: t.Mapping[str, t.Any], files: t.Sequence[str]) -> Path | None:
    """The directory of a model, if all these files of it were verified as from this source and nobody touched them since; reads none of them.

    Without ``files`` it is a whole repository, of which the files are remembered.
    """
    model = Model(entry["name"], entry["source"], (entry.get("revision") or "main") if entry["source"].startswith("hf:") else "", root / entry["name"])
    model.recall()
    wanted = files or model.listing
    if not wanted or not all(model.holds(path) for path in wanted):
        return None
    return model.directory


def _model(entry: t.Mapping[str, t.Any], root: Path) -> Model:
    name, source = entry["name"], entry["source"]
    if not _MODEL_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a model: use lower-case letters, digits, '.', '_' and '-', at most 63, no '.' first."
        )
    is_hub = source.startswith("hf:")
    if is_hub and not _HUB_SOURCE.fullmatch(source):
        raise InputError(f"The model {name} has the source {source!r}: write hf:owner/repository.")
    if not is_hub and not source.lower().startswith(("https://", "http://", "file:")):
        raise InputError(f"The model {name} has the source {source!r}: begin it with hf:, https://, http:// or file:.")
    files = list(entry.get("files") or [])
    model = Model(name, source, (entry.get("revision") or "main") if is_hub else "", root / name)
    if is_hub and not files:
        model.whole = True
        return model
    if source.endswith("/"):
        if not files:
            raise InputError(f"The model {name} from {source} lists no files: name them in llm_models.{name}.files.")
    elif len(files) > 1 and not is_hub:
        raise InputError(
            f"The model {name} lists {len(files)} files, but its source {source} is one file:"
            " end the source with '/' if it is a directory."
        )
    for file in files or [{"path": unquote(urlsplit(source).path).rpartition("/")[2]}]:
        sha256 = file.get("sha256") or ""
        if sha256 and not _SHA256.fullmatch(sha256):
            raise InputError(f"The sha256 of {name}/{file['path']} is {sha256!r}: give 64 hexadecimal digits.")
        model.files.append(File(model, _safe_path(name, file["path"]), sha256.lower()))
    return model


def _safe_path(model: str, path: str) -> str:
    parts = path.split("/")
    if not path.isprintable() or any(part.startswith(".") or not part for part in parts) or path.endswith(".part"):
        raise InputError(
            f"The file {path!r} of the model {model} would not lie in the model's directory under a name of its own:"
            " give a relative path without '..' and hidden names."
        )
    return path


def _refuse_duplicates(names: t.Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"The {what} {', '.join(twice)} is listed twice: remove one of them.")


def _part_size(file: File) -> int:
    part = file.dest.with_name(file.dest.name + ".part")
    return part.stat().st_size if part.exists() else 0


def make_directories(root: Path, directory: Path) -> None:
    """Directories that every service may read, whatever the umask is."""
    for path in [root, *reversed([p for p in [directory, *directory.parents] if root in p.parents])]:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
