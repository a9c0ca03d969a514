# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One verified file from a server or a directory: resumed after a break, checked before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import time
import typing as t
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

CHUNK = 256 * 1024
ATTEMPTS = 4
TIMEOUT = 60.0
LONGEST_PAUSE = 60.0
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

Statvfs = t.Callable[[str], os.statvfs_result]
Sleep = t.Callable[[float], None]


class DownloadError(LLMError):
    """A file could not be had."""


class Unreachable(DownloadError):
    """No answer, or the connection kept breaking."""


class HTTPStatus(DownloadError):
    """The server answered with something else than the file."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NoSpace(DownloadError):
    """The file does not fit on its file system."""


class ChecksumMismatch(DownloadError):
    """What arrived is not what was asked for. It has been removed, the next run starts afresh."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from (``http(s)://``, ``file:`` or a path) and what is known about it."""

    url: str
    sha256: str = ""
    size: int | None = None
    token: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        """The address without what may be secret in it: user, password, signed query."""
        if not self.is_http:
            return self.url
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def is_http(self) -> bool:
        return self.url.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Result:
    """A finished download; ``resumed_from`` bytes were there before."""

    path: Path
    sha256: str
    size: int
    resumed_from: int


def download(
    source: Source,
    dest: Path,
    *,
    mode: int = 0o644,
    attempts: int = ATTEMPTS,
    timeout: float = TIMEOUT,
    statvfs: Statvfs = os.statvfs,
    sleep: Sleep = time.sleep,
) -> Result:
    """Bring ``source`` to ``dest``, whose directory exists, by way of ``<dest>.part``.

    An attempt that brought at least one byte does not count, so a long download survives any number of breaks.
    With an empty ``sha256`` the sum is computed and returned, not compared: the caller answers for that.
    """
    part = _Part(source, dest)
    failures = 0
    started_afresh = False
    while True:
        before = part.size
        try:
            return _attempt(source, part, mode, timeout, statvfs)
        except _StartAfresh as exc:
            part.remove()
            if started_afresh:
                raise exc.error from exc
            started_afresh = True
        except _TryAgain as exc:
            failures = 1 if part.size > before else failures + 1
            if failures >= attempts:
                raise exc.error from exc
            sleep(exc.pause or min(2.0 ** (failures - 1), LONGEST_PAUSE))


def size_of(source: Source, timeout: float = TIMEOUT) -> int | None:
    """The size that the source announces, or None where it does not say."""
    if source.size is not None:
        return source.size
    try:
        if not source.is_http:
            return _local_path(source.url).stat().st_size
        with _request(source, {}, timeout, method="HEAD") as answer:
            return _number(answer.headers.get("Content-Length"))
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code in (405, 501):  # no HEAD here; the download itself will say
                return None
            raise _status_error(source, exc) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise _unreachable(source, exc) from exc


def read_document(source: Source, limit: int = 8 * 1024 * 1024, timeout: float = TIMEOUT) -> bytes:
    """A small document (a checksum list, an API's answer), without a file."""
    try:
        with _request(source, {}, timeout) if source.is_http else _local_path(source.url).open("rb") as stream:
            content = t.cast(bytes, stream.read(limit + 1))
    except urllib.error.HTTPError as exc:
        with exc:
            raise _status_error(source, exc) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise _unreachable(source, exc) from exc
    if len(content) > limit:
        raise DownloadError(f"{source.shown} is longer than {limit} bytes: this is not the expected document.")
    return content


def check_space(directory: Path, needed: int, what: str, statvfs: Statvfs = os.statvfs) -> None:
    """Raise NoSpace if ``needed`` bytes do not fit where ``directory`` is, or will be."""
    while not directory.exists():
        directory = directory.parent
    figures = statvfs(str(directory))
    free = figures.f_bavail * figures.f_frsize
    if needed > free:
        raise NoSpace(
            f"{what} needs {needed} bytes on the file system of {directory}, where {free} are free:"
            f" free {needed - free} bytes or choose another directory."
        )


def mirrored(url: str, mirror: str) -> str:
    """``https://host/path`` as ``<mirror>/host/path``; unchanged without a mirror and for what is no web address."""
    if not mirror or not Source(url).is_http:
        return url
    parts = urlsplit(url)
    address = f"{mirror.rstrip('/')}/{parts.netloc.rpartition('@')[2]}{parts.path}"
    if Source(mirror).is_http:
        return f"{address}?{parts.query}" if parts.query else address
    return address if _SCHEME.match(mirror) else unquote(address)


def check_token(token: str, address: str) -> None:
    """Refuse a token that cannot be sent: HTTP libraries would quote it in their error."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise DownloadError(f"The token for {address} holds blanks or control characters: give it without.")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        _feed(digest, stream)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(directory: Path) -> t.Iterator[None]:
    """Wait until nobody else works in ``directory``: a run that was killed may still be downloading on the target."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _StartAfresh(Exception):
    """What lies in the part is of no use."""

    def __init__(self, error: DownloadError) -> None:
        super().__init__(str(error))
        self.error = error


class _TryAgain(Exception):
    """The network may do better next time."""

    def __init__(self, error: DownloadError, pause: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


class _Part:
    """``<dest>.part`` with ``<dest>.part.json``, which says what the part is the beginning of."""

    def __init__(self, source: Source, dest: Path) -> None:
        self.source = source
        self.dest = dest
        self.path = dest.with_name(dest.name + ".part")
        self._note = dest.with_name(dest.name + ".part.json")

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def validator(self) -> str:
        """The ETag (or date) that the bytes so far were served with; empty if they cannot be continued."""
        try:
            note = json.loads(self._note.read_text())
            return str(note["validator"]) if note["url"] == self.source.shown and self.size else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def begin(self, validator: str) -> None:
        self.remove()
        self._note.write_text(json.dumps({"url": self.source.shown, "validator": validator}))

    def remove(self) -> None:
        for path in (self.path, self._note):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def finish(self, mode: int) -> None:
        self.path.chmod(mode)
        os.replace(self.path, self.dest)
        self.remove()


@dataclass
class _Body:
    """What the source answered: bytes from ``start`` of ``total``."""

    stream: t.Any
    start: int
    total: int | None
    validator: str


def _attempt(source: Source, part: _Part, mode: int, timeout: float, statvfs: Statvfs) -> Result:
    body = _open(source, part, timeout)
    with contextlib.closing(body.stream):
        if source.size is not None and body.total is not None and body.total != source.size:
            part.remove()
            raise _mismatch(source, part.dest, "size", source.size, body.total)
        total = body.total if body.total is not None else source.size
        digest = hashlib.sha256()
        try:
            if total is not None:
                check_space(part.dest.parent, total - body.start, str(part.dest), statvfs)
            if body.start == 0:
                part.begin(body.validator)
            with part.path.open("ab") as out:
                with part.path.open("rb") as have:
                    _feed(digest, have)
                _stream(source, body, out, digest)
                size = out.tell()
                if total is not None and size < total:
                    raise _TryAgain(_broken(source, f"the connection ended after {size} of {total} bytes"))
                os.fsync(out.fileno())
        except OSError as exc:
            raise _local_error(part, exc) from exc
    found = digest.hexdigest()
    error = None
    if total is not None and size != total:
        error = _mismatch(source, part.dest, "size", total, size)
    elif source.sha256 and found != source.sha256.lower():
        error = _mismatch(source, part.dest, "sha256", source.sha256, found)
    if error:
        part.remove()
        if body.start:  # the beginning may come from a file that has changed since, or from before a power cut
            raise _StartAfresh(error)
        raise error
    try:
        part.finish(mode)
    except OSError as exc:
        raise _local_error(part, exc) from exc
    return Result(part.dest, found, size, body.start)


def _stream(source: Source, body: _Body, out: t.BinaryIO, digest: t.Any) -> None:
    left = None if body.total is None else body.total - body.start
    while left is None or left > 0:
        try:
            # Not read(): it waits for the whole chunk, so a connection that stalls would cost what had arrived of it.
            chunk = body.stream.read1(CHUNK if left is None else min(CHUNK, left))
        except http.client.IncompleteRead as exc:
            out.write(exc.partial)
            raise _TryAgain(_unreachable(source, exc)) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise _TryAgain(_unreachable(source, exc)) from exc
        if not chunk:
            return
        out.write(chunk)
        digest.update(chunk)
        left = None if left is None else left - len(chunk)


def _open(source: Source, part: _Part, timeout: float) -> _Body:
    if not source.is_http:
        return _open_local(source, part)
    headers = {}
    validator, offset = part.validator, part.size
    if validator:
        headers = {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        answer = _request(source, headers, timeout)
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code == 416:
                # The validator held, there is just nothing left to send: either we have it all, or too much.
                if _content_range(exc.headers)[1] == offset:
                    return _Body(open(os.devnull, "rb"), offset, offset, validator)
                raise _StartAfresh(_status_error(source, exc)) from exc
            error = _status_error(source, exc)
            if exc.code in _WORTH_ANOTHER_TRY:
                pause = _number(exc.headers.get("Retry-After")) or 0
                raise _TryAgain(error, min(pause, LONGEST_PAUSE)) from exc
            raise error from exc
    except (OSError, http.client.HTTPException) as exc:
        raise _TryAgain(_unreachable(source, exc)) from exc
    served_as = _validator(answer.headers)
    if answer.status == 206:
        start, total = _content_range(answer.headers)
        if not validator or start != offset or (served_as and served_as != validator):
            answer.close()
            raise _StartAfresh(_broken(source, "the server sent another part of the file than the one asked for"))
        return _Body(answer, offset, total, validator)
    return _Body(answer, 0, _number(answer.headers.get("Content-Length")), served_as)


def _open_local(source: Source, part: _Part) -> _Body:
    try:
        stream = _local_path(source.url).open("rb")
    except OSError as exc:
        raise _unreachable(source, exc) from exc
    status = os.fstat(stream.fileno())
    validator = f"{status.st_size}-{status.st_mtime_ns}"
    start = part.size if part.validator == validator and part.size <= status.st_size else 0
    stream.seek(start)
    return _Body(stream, start, status.st_size, validator)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows 308 on every Python, and lets the token go no further than the server that it was meant for."""

    def redirect_request(  # noqa: PLR0917 - urllib calls it with these
        self, req: urllib.request.Request, fp: t.Any, code: int, msg: str, headers: t.Any, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None:
            following.method = req.get_method()
            if token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
                following.add_unredirected_header("Authorization", token)
        return following

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def _request(source: Source, headers: dict[str, str], timeout: float, method: str = "GET") -> http.client.HTTPResponse:
    if "@" in urlsplit(source.url).netloc:
        raise DownloadError(
            f"The address of {source.shown} holds a user name: take it out, tokens are given separately."
        )
    headers = {**headers, "Accept-Encoding": "identity", "User-Agent": "baremetal.llm"}
    request = urllib.request.Request(source.url, headers=headers, method=method)  # noqa: S310  only http and https get here
    if source.token:
        check_token(source.token, source.shown)
        request.add_unredirected_header("Authorization", f"Bearer {source.token}")
    return t.cast(http.client.HTTPResponse, urllib.request.build_opener(_Redirects).open(request, timeout=timeout))


def _validator(headers: Message) -> str:
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return (_number(match[1]), _number(match[2])) if match else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _local_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path)) if url.lower().startswith("file:") else Path(url)


def _feed(digest: t.Any, stream: t.BinaryIO) -> None:
    while True:
        chunk = stream.read(CHUNK)
        if not chunk:
            return
        digest.update(chunk)


def _status_error(source: Source, exc: urllib.error.HTTPError) -> HTTPStatus:
    if exc.code in (401, 403):
        remedy = "give a token that may read it" if not source.token else "the token that was given may not read it"
    elif exc.code in (404, 410):
        remedy = "check the address, the revision and the file's name"
    else:
        remedy = "try again later, or set llm_mirror"
    return HTTPStatus(f"{source.shown} answered with HTTP {exc.code}: {remedy}.", exc.code)


def _unreachable(source: Source, exc: Exception) -> Unreachable:
    if not source.is_http:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        return Unreachable(f"{source.shown} cannot be read on the target ({reason}): check the path.")
    return _broken(source, str(getattr(exc, "reason", None) or exc or type(exc).__name__))


def _broken(source: Source, reason: str) -> Unreachable:
    remedy = "check the address and the network, or set llm_mirror"
    return Unreachable(f"{source.shown} could not be fetched ({reason}): {remedy}.")


def _mismatch(source: Source, dest: Path, what: str, expected: t.Any, found: t.Any) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{source.shown} for {dest}: expected {what} {expected}, found {found}. What was fetched has been removed;"
        f" correct the {what}, or the source."
    )


def _local_error(part: _Part, exc: OSError) -> DownloadError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"The file system of {part.dest} is full after {part.size} bytes:"
            " free some space and run again, it goes on from there."
        )
    return DownloadError(f"{part.dest} cannot be written ({exc.strerror}): check its directory.")
