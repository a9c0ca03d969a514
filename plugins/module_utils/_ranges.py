# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pieces of large files, from a disk or by HTTP ranges, and the places where the files of a model lie."""

from __future__ import annotations

import contextlib
import http.client
import os
import stat
import time
import typing as t
import urllib.error
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from ansible_collections.baremetal.llm.plugins.module_utils import _download
from ansible_collections.baremetal.llm.plugins.module_utils._download import (
    DownloadError,
    HTTPStatus,
    Sleep,
    Source,
    mirrored,
    read_document,
)
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError, Missing

SHORTEST = 128 * 1024  # bytes; most headers of safetensors are smaller
LONGEST = 4 * 1024 * 1024  # bytes that are read ahead at most
LIMIT = 64 * 1024 * 1024  # bytes; the longest GGUF headers known have 16 MiB
DOCUMENT = 32 * 1024 * 1024  # bytes; the index of DeepSeek V3, with a line for each of 91,000 tensors, has 9 MB
ATTEMPTS = 3


class RangesUnsupported(DownloadError):
    """The server only sends whole files."""


class Ranges:
    """One file of which pieces are read, front to back for the most part.

    Every miss reads ahead twice as much as the one before it, so a header costs few requests and little more than
    its own length. ``fetched`` counts all bytes; more than ``limit`` are refused.
    """

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.name = name
        self.size = 0
        self.fetched = 0
        self._limit = limit
        self._buffer = b""
        self._start = 0
        self._ahead = SHORTEST

    def __enter__(self) -> Ranges:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the file holds: only its counters stay."""
        self._buffer = b""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises MetadataError if the file ends before them, or if they are too many."""
        buffer, at = self.window(offset, length)
        return buffer[at : at + length]

    def window(self, offset: int, least: int) -> tuple[bytes, int]:
        """What is in memory, and where ``offset`` is in it: at least ``least`` bytes follow there. Copies nothing."""
        at = offset - self._start
        if at < 0 or at + least > len(self._buffer):
            if offset < 0 or offset + least > self.size:
                raise MetadataError(f"{self.name} is damaged or not complete: {least} bytes are expected at {offset}, but the file ends at {self.size}.")
            known = self._buffer[at:] if 0 <= at <= len(self._buffer) else b""
            self._buffer = known + self._read_ahead(offset + len(known), least - len(known))
            self._start, at = offset, 0
        return self._buffer, at

    def _read_ahead(self, offset: int, least: int) -> bytes:
        allowed = self._limit - self.fetched
        if least > allowed:
            raise MetadataError(f"{self.name} has a header of more than {self._limit} bytes: this is no model that an engine loads.")
        piece = self._fetch(offset, min(max(least, self._ahead), self.size - offset, allowed))
        self.fetched += len(piece)
        self._ahead = min(2 * self._ahead, LONGEST)
        return piece

    def _fetch(self, offset: int, length: int) -> bytes:
        raise NotImplementedError


class LocalRanges(Ranges):
    """A file on a disk."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        super().__init__(str(path), limit)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
                raise MetadataError(f"{path} is not a file.")
            self._stream = path.open("rb")
            self.size = os.fstat(self._stream.fileno()).st_size
        except FileNotFoundError as exc:
            raise Missing(f"{path} does not exist.") from exc
        except OSError as exc:
            raise MetadataError(f"{path} cannot be read: {exc.strerror}.") from exc

    def close(self) -> None:
        super().close()
        self._stream.close()

    def _fetch(self, offset: int, length: int) -> bytes:
        try:
            self._stream.seek(offset)
            piece = self._stream.read(length)
        except OSError as exc:
            raise MetadataError(f"{self.name} cannot be read: {exc.strerror}.") from exc
        if len(piece) < length:
            raise MetadataError(f"{self.name} became shorter while it was read: try again.")
        return piece


class HTTPRanges(Ranges):
    """A file on a web server. Its first piece is fetched at once, because only an answer tells the size.

    Raises Missing (404 and 410), RangesUnsupported, HTTPStatus, Unreachable. A token goes to no other host.
    """

    def __init__(self, source: Source, limit: int = LIMIT, timeout: float = _download.TIMEOUT, sleep: Sleep = time.sleep) -> None:
        super().__init__(source.shown, limit)
        self._source = source
        self._timeout = timeout
        self._sleep = sleep
        self._validator = ""
        self._buffer = self._fetch(0, min(SHORTEST, limit))
        self.fetched = len(self._buffer)

    def _fetch(self, offset: int, length: int) -> bytes:
        attempt = 1
        while True:
            try:
                return self._request(offset, length)
            except HTTPStatus as exc:
                if exc.status in (404, 410):
                    raise Missing(str(exc)) from exc
                if exc.status not in _download._WORTH_ANOTHER_TRY or attempt == ATTEMPTS:
                    raise
            except _download.Unreachable:
                if attempt == ATTEMPTS:
                    raise
            self._sleep(2.0 ** (attempt - 1))
            attempt += 1

    def _request(self, offset: int, length: int) -> bytes:
        try:
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            with contextlib.closing(_download._request(self._source, headers, self._timeout)) as answer:
                expected = self._check(answer, offset, length)
                piece = t.cast(bytes, answer.read(expected))
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == 416:
                    raise MetadataError(f"{self.name} is empty, or shorter than it was a moment ago.") from exc
                raise _download._status_error(self._source, exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise _download._unreachable(self._source, exc) from exc
        if len(piece) < expected:
            raise _download._unreachable(self._source, http.client.IncompleteRead(piece, expected - len(piece)))
        return piece

    def _check(self, answer: http.client.HTTPResponse, offset: int, length: int) -> int:
        """The length of the piece that follows in an answer that is as it should be."""
        start, total = _download._content_range(answer.headers)
        if answer.status != 206 or start is None or total is None:
            raise RangesUnsupported(
                f"{self.name}: the server does not send parts of files (HTTP {answer.status}), so the header of a model"
                " cannot be had without the whole file: use a server that supports ranges, or a local copy."
            )
        if start != offset:
            raise DownloadError(f"{self.name}: the server sent another part of the file than the one asked for.")
        validator = _download._validator(answer.headers)
        if self.size and (total, validator) != (self.size, self._validator):
            raise MetadataError(f"{self.name} changed while it was read: try again.")
        self.size, self._validator = total, validator
        return min(length, total - offset)


class Files(t.Protocol):
    """A place with the files of a model."""

    @property
    def fetched(self) -> int:
        """Bytes that were read from there so far."""

    def open(self, name: str) -> Ranges:
        """Raises Missing."""

    def document(self, name: str) -> bytes:
        """A small file as a whole. Raises Missing."""


class _Counted:
    def __init__(self) -> None:
        self._opened: list[Ranges] = []
        self._documents = 0

    @property
    def fetched(self) -> int:
        return self._documents + sum(file.fetched for file in self._opened)

    def _remember(self, file: Ranges) -> Ranges:
        self._opened.append(file)
        return file

    def _count(self, content: bytes) -> bytes:
        self._documents += len(content)
        return content


class LocalFiles(_Counted):
    """A directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def open(self, name: str) -> Ranges:
        return self._remember(LocalRanges(self._directory / name))

    def document(self, name: str) -> bytes:
        with LocalRanges(self._directory / name, DOCUMENT) as file:
            return self._count(file.read(0, file.size))


class WebFiles(_Counted):
    """The files below an address (it ends with a slash), or their copies on ``mirror``, which never gets the token.

    ``query`` follows every name, as in ``?download=true``.
    """

    def __init__(self, address: str, token: str = "", mirror: str = "", query: str = "") -> None:
        super().__init__()
        self._address = address
        self._query = query
        self._token = "" if mirror else token
        self._mirror = mirror

    def _source(self, name: str) -> Source:
        source = Source(mirrored(self._address + quote(name) + self._query, self._mirror))
        return replace(source, token=self._token) if source.is_http else source

    def open(self, name: str) -> Ranges:
        source = self._source(name)
        return self._remember(HTTPRanges(source) if source.is_http else LocalRanges(_download._local_path(source.url)))

    def document(self, name: str) -> bytes:
        source = self._source(name)
        if not source.is_http:
            with LocalRanges(_download._local_path(source.url), DOCUMENT) as file:
                return self._count(file.read(0, file.size))
        try:
            return self._count(read_document(source, DOCUMENT))
        except HTTPStatus as exc:
            if exc.status in (404, 410):
                raise Missing(str(exc)) from exc
            raise
