"""The downloader against a real server on loopback that follows a script, request by request."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _download as d

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@dataclass
class Answer:
    """One step of a script: headers that say ``length`` bytes, then ``body``, then the connection is closed."""

    status: int = 200
    body: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    pause: float = 0.0


class Server:
    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}))
                answer = server.script.pop(0)
                self.send_response(answer.status)
                length = len(answer.body) if answer.length is None else answer.length
                for name, value in {"Content-Length": str(length), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)
                    self.wfile.flush()
                    time.sleep(answer.pause)
                self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, format: str, *args: t.Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def header(self, request: int, name: str) -> str | None:
        return self.requests[request][1].get(name.lower())


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def other() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


class Pauses(list[float]):
    """Stands in for time.sleep and remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def rest(start: int, etag: str = '"one"', content: bytes = CONTENT, **headers: str) -> Answer:
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Answer(206, content[start:], {"ETag": etag, "Content-Range": span, **headers})


def broken(size: int = HALF, etag: str = '"one"') -> Answer:
    return Answer(body=CONTENT[:size], length=len(CONTENT), headers={"ETag": etag})


def fetch(server: Server, dest: Path, **kwargs: t.Any) -> d.Result:
    source = d.Source(f"{server.url}/f.gguf", sha256=kwargs.pop("sha256", SHA256), size=kwargs.pop("size", None))
    return d.download(source, dest, **{"sleep": Pauses(), **kwargs})


def only(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_arrives_verified_and_alone(server: Server, tmp_path: Path) -> None:
    server.script = [Answer()]
    result = fetch(server, tmp_path / "f.gguf")
    assert result == d.Result(tmp_path / "f.gguf", SHA256, len(CONTENT), 0)
    assert (tmp_path / "f.gguf").read_bytes() == CONTENT
    assert (tmp_path / "f.gguf").stat().st_mode & 0o777 == 0o644
    assert only(tmp_path) == ["f.gguf"]


def test_a_break_is_resumed_with_a_range(server: Server, tmp_path: Path) -> None:
    pauses = Pauses()
    server.script = [broken(), rest(HALF)]
    assert fetch(server, tmp_path / "f.gguf", sleep=pauses).resumed_from == HALF
    assert (tmp_path / "f.gguf").read_bytes() == CONTENT
    assert server.header(0, "Range") is None
    assert (server.header(1, "Range"), server.header(1, "If-Range")) == (f"bytes={HALF}-", '"one"')
    assert pauses == [1.0]


def test_progress_makes_any_number_of_breaks_bearable(server: Server, tmp_path: Path) -> None:
    steps = range(1000, 9000, 1000)
    server.script = [broken(1000)]
    server.script += [Answer(206, CONTENT[n : n + 1000], rest(n).headers, length=len(CONTENT) - n) for n in steps]
    server.script += [rest(9000)]
    assert fetch(server, tmp_path / "f.gguf", attempts=2).sha256 == SHA256
    assert len(server.requests) == 10


def test_a_date_serves_where_there_is_no_strong_etag(server: Server, tmp_path: Path) -> None:
    date = "Sat, 21 Nov 2026 00:00:00 GMT"
    first = Answer(body=CONTENT[:HALF], length=len(CONTENT), headers={"ETag": 'W/"x"', "Last-Modified": date})
    server.script = [first, Answer(206, CONTENT[HALF:], {**rest(HALF).headers, "ETag": 'W/"x"', "Last-Modified": date})]
    fetch(server, tmp_path / "f.gguf")
    assert server.header(1, "If-Range") == date


def test_without_a_validator_it_starts_afresh(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(body=CONTENT[:HALF], length=len(CONTENT)), Answer()]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == 0
    assert server.header(1, "Range") is None


def test_200_instead_of_206_replaces_the_part(server: Server, tmp_path: Path) -> None:
    server.script = [broken(etag='"old"'), Answer(headers={"ETag": '"new"'})]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == 0
    assert (tmp_path / "f.gguf").read_bytes() == CONTENT


def test_a_changed_etag_in_a_206_starts_afresh(server: Server, tmp_path: Path) -> None:
    server.script = [broken(etag='"old"'), rest(HALF, etag='"new"'), Answer(headers={"ETag": '"new"'})]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == 0
    assert server.header(2, "Range") is None


def test_a_206_at_another_place_starts_afresh(server: Server, tmp_path: Path) -> None:
    server.script = [broken(), rest(HALF + 1), Answer()]
    assert fetch(server, tmp_path / "f.gguf").sha256 == SHA256


def test_a_server_that_only_sends_parts_is_given_up(server: Server, tmp_path: Path) -> None:
    server.script = [rest(HALF)] * 3
    with pytest.raises(d.Unreachable, match="another part"):
        fetch(server, tmp_path / "f.gguf")
    assert len(server.requests) == 2


def test_416_for_a_part_that_is_already_whole_finishes_it(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, server, CONTENT)
    server.script = [Answer(416, b"", {"Content-Range": f"bytes */{len(CONTENT)}"})]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == len(CONTENT)
    assert only(tmp_path) == ["f.gguf"]


def test_416_for_a_part_that_is_too_long_starts_afresh(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, server, CONTENT + b"x")
    server.script = [Answer(416, b"", {"Content-Range": f"bytes */{len(CONTENT)}"}), Answer()]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == 0


def test_a_short_body_is_an_error_in_the_end_and_stays_for_the_next_run(server: Server, tmp_path: Path) -> None:
    empty = Answer(206, b"", rest(HALF).headers, length=HALF)
    server.script = [broken(), empty, empty]
    with pytest.raises(d.Unreachable, match=f"after {HALF} of {len(CONTENT)} bytes"):
        fetch(server, tmp_path / "f.gguf", attempts=3)
    assert (tmp_path / "f.gguf.part").read_bytes() == CONTENT[:HALF]
    server.script = [rest(HALF)]
    assert fetch(server, tmp_path / "f.gguf").resumed_from == HALF


def test_a_wrong_sum_names_both_and_the_next_run_is_fresh(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.gguf").write_bytes(b"the good one of yesterday")
    server.script = [Answer(body=b"other", headers={"ETag": '"one"'})]
    with pytest.raises(d.ChecksumMismatch) as caught:
        fetch(server, tmp_path / "f.gguf")
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)
    assert only(tmp_path) == ["f.gguf"]
    assert (tmp_path / "f.gguf").read_bytes() == b"the good one of yesterday"


def test_a_wrong_sum_after_a_resumption_is_tried_once_more_from_the_start(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, server, b"\0" * HALF)
    server.script = [rest(HALF), Answer(headers={"ETag": '"one"'})]
    assert fetch(server, tmp_path / "f.gguf").sha256 == SHA256


def test_another_size_than_published_is_refused_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    server.script = [Answer()]
    with pytest.raises(d.ChecksumMismatch, match=f"expected size 7, found {len(CONTENT)}"):
        fetch(server, tmp_path / "f.gguf", size=7)
    assert only(tmp_path) == []


def test_no_space_is_seen_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    server.script = [Answer()]
    with pytest.raises(d.NoSpace, match=f"needs {len(CONTENT)} bytes .* where 4096 are free"):
        fetch(server, tmp_path / "f.gguf", statvfs=lambda path: free_blocks(path, 4096))
    assert only(tmp_path) == []


def test_what_is_there_already_needs_no_space(server: Server, tmp_path: Path) -> None:
    leave_part(tmp_path, server, CONTENT[:HALF])
    server.script = [rest(HALF)]
    assert fetch(server, tmp_path / "f.gguf", statvfs=lambda path: free_blocks(path, HALF)).sha256 == SHA256


def test_a_disk_that_fills_up_keeps_the_part(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: d.Source, body: t.Any, out: t.BinaryIO, digest: t.Any) -> None:
        out.write(body.stream.read(HALF))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.script = [Answer(headers={"ETag": '"one"'}), rest(HALF)]
    with monkeypatch.context() as patch:
        patch.setattr(d, "_stream", full)
        with pytest.raises(d.NoSpace, match=f"full after {HALF} bytes"):
            fetch(server, tmp_path / "f.gguf")
    assert fetch(server, tmp_path / "f.gguf").resumed_from == HALF


def test_503_is_tried_again_after_the_time_that_the_server_asks_for(server: Server, tmp_path: Path) -> None:
    pauses = Pauses()
    server.script = [
        Answer(503, b""),
        Answer(503, b"", {"Retry-After": "9"}),
        Answer(429, b"", {"Retry-After": "9999"}),
    ]
    server.script += [Answer()]
    fetch(server, tmp_path / "f.gguf", sleep=pauses)
    assert pauses == [1.0, 9, d.LONGEST_PAUSE]


def test_a_lasting_503_is_an_error(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(503, b"")] * 4
    with pytest.raises(d.HTTPStatus, match="HTTP 503: try again later"):
        fetch(server, tmp_path / "f.gguf")


@pytest.mark.parametrize(
    ("status", "remedy"), [(404, "check the address"), (401, "give a token"), (403, "give a token")]
)
def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path, status: int, remedy: str) -> None:
    server.script = [Answer(status, b"")]
    with pytest.raises(d.HTTPStatus, match=rf"/f.gguf answered with HTTP {status}: {remedy}") as caught:
        fetch(server, tmp_path / "f.gguf")
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/f"
        pauses = Pauses()
        with pytest.raises(d.Unreachable, match=f"{url} could not be fetched .*refused.*set llm_mirror"):
            d.download(d.Source(url), tmp_path / "f", sleep=pauses)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_silent_server_is_left_after_the_timeout(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(body=CONTENT[:HALF], length=len(CONTENT), headers={"ETag": '"one"'}, pause=3), rest(HALF)]
    assert fetch(server, tmp_path / "f.gguf", timeout=0.3).sha256 == SHA256


TOKEN = "hf_a-secret"


def test_a_redirect_to_another_host_loses_the_token(server: Server, other: Server, tmp_path: Path) -> None:
    server.script = [
        Answer(302, b"", {"Location": "/renamed"}),
        Answer(307, b"", {"Location": f"{other.url}/cdn?sig=1"}),
    ]
    other.script = [Answer()]
    d.download(d.Source(f"{server.url}/f", sha256=SHA256, token=TOKEN), tmp_path / "f")
    assert server.header(0, "Authorization") == server.header(1, "Authorization") == f"Bearer {TOKEN}"
    assert other.requests[0][0] == "GET /cdn?sig=1"
    assert other.header(0, "Authorization") is None


def test_308_is_followed_and_the_range_goes_along(server: Server, tmp_path: Path) -> None:
    server.script = [broken(), Answer(308, b"", {"Location": "/there"}), rest(HALF)]
    fetch(server, tmp_path / "f.gguf")
    assert server.requests[2][0] == "GET /there"
    assert server.header(2, "Range") == f"bytes={HALF}-"


@pytest.mark.parametrize("token", ["two\nlines", "a b", "\u00e9"])
def test_a_token_that_cannot_be_sent_is_not_shown(server: Server, tmp_path: Path, token: str) -> None:
    source = d.Source(f"{server.url}/f", token=token)
    with pytest.raises(d.DownloadError, match="holds blanks or control characters") as caught:
        d.download(source, tmp_path / "f")
    assert token not in str(caught.value)
    assert token not in repr(source)


def test_secrets_in_an_address_are_not_shown(server: Server, tmp_path: Path) -> None:
    server.script = [Answer(404, b"")]
    with pytest.raises(d.HTTPStatus) as caught:
        d.download(d.Source(f"{server.url}/f?X-Amz-Signature=abc"), tmp_path / "f")
    assert "abc" not in str(caught.value)
    with pytest.raises(d.DownloadError, match="holds a user name") as refused:
        d.download(d.Source(f"http://me:pw@127.0.0.1:{server.port}/f"), tmp_path / "f")
    assert "pw" not in str(refused.value)


def test_killed_in_the_middle_then_resumed(server: Server, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from ansible_collections.baremetal.llm.plugins.module_utils import _download as d\n"
        "d.download(d.Source(sys.argv[1], sha256=sys.argv[2]), pathlib.Path(sys.argv[3]))\n"
    )
    big = CONTENT * 200
    first = Answer(body=big[: len(big) // 2], length=len(big), headers={"ETag": '"one"'}, pause=30)
    server.script = [first]
    dest = tmp_path / "f.gguf"
    argv = [sys.executable, "-c", program, f"{server.url}/f.gguf", hashlib.sha256(big).hexdigest(), str(dest)]
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    part = dest.with_name("f.gguf.part")
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    have = part.stat().st_size
    assert have > 0
    server.script = [rest(have, content=big)]
    assert fetch(server, dest, sha256=hashlib.sha256(big).hexdigest()).resumed_from == have
    assert dest.read_bytes() == big


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "file://localhost{}"])
def test_local_files(tmp_path: Path, form: str) -> None:
    origin = tmp_path / "a model.gguf"
    origin.write_bytes(CONTENT)
    address = form.format(origin if form == "{}" else str(origin).replace(" ", "%20"))
    assert d.size_of(d.Source(address)) == len(CONTENT)
    assert d.download(d.Source(address, sha256=SHA256), tmp_path / "f").size == len(CONTENT)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_local_copy_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(CONTENT)
    status = origin.stat()
    part = d._Part(d.Source(str(origin)), tmp_path / "f")
    part.begin(f"{status.st_size}-{status.st_mtime_ns}")
    part.path.write_bytes(CONTENT[:HALF])
    assert d.download(d.Source(str(origin), sha256=SHA256), tmp_path / "f").resumed_from == HALF


def test_a_local_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(d.Unreachable, match=r"cannot be read on the target \(No such file or directory\)"):
        d.download(d.Source(f"file://{tmp_path}/none"), tmp_path / "f")


def test_size_of_a_served_file(server: Server) -> None:
    server.script = [Answer(), Answer(405, b""), Answer(404, b"")]
    assert d.size_of(d.Source(f"{server.url}/f")) == len(CONTENT)
    assert server.requests[0][0] == "HEAD /f"
    assert d.size_of(d.Source(f"{server.url}/f")) is None
    with pytest.raises(d.HTTPStatus):
        d.size_of(d.Source(f"{server.url}/f"))


def test_a_document_has_a_limit(server: Server) -> None:
    server.script = [Answer(), Answer()]
    assert d.read_document(d.Source(f"{server.url}/sums")) == CONTENT
    with pytest.raises(d.DownloadError, match="longer than 100 bytes"):
        d.read_document(d.Source(f"{server.url}/sums"), limit=100)


def test_space_is_asked_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    asked: list[str] = []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        return free_blocks(path, 4096)

    d.check_space(tmp_path / "not" / "yet", 4096, "It", statvfs)
    assert asked == [str(tmp_path)]


@pytest.mark.parametrize(
    ("url", "mirror", "expected"),
    [
        ("https://h.org/a/b%20c?v=1", "", "https://h.org/a/b%20c?v=1"),
        ("https://h.org/a/b%20c?v=1", "http://m:8/x/", "http://m:8/x/h.org/a/b%20c?v=1"),
        ("https://h.org/a/b%20c?v=1", "/srv/mirror", "/srv/mirror/h.org/a/b c"),
        ("https://h.org:444/a/b%20c", "file:///srv/mirror", "file:///srv/mirror/h.org:444/a/b%20c"),
        ("https://me:pw@h.org/a", "/srv/mirror", "/srv/mirror/h.org/a"),
        ("file:/a/b", "/srv/mirror", "file:/a/b"),
        ("/a/b", "http://m", "/a/b"),
    ],
)
def test_mirror(url: str, mirror: str, expected: str) -> None:
    assert d.mirrored(url, mirror) == expected


def test_only_one_works_in_a_directory(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with d.locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with d.locked(tmp_path):
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def leave_part(directory: Path, server: Server, content: bytes) -> None:
    """What a run that was killed leaves behind."""
    part = d._Part(d.Source(f"{server.url}/f.gguf"), directory / "f.gguf")
    part.begin('"one"')
    part.path.write_bytes(content)


def free_blocks(path: str, size: int) -> os.statvfs_result:
    figures = list(os.statvfs(path))
    figures[1], figures[4] = 1, size  # f_frsize, f_bavail
    return os.statvfs_result(figures)
