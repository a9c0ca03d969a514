# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pieces of files, from a disk and from a real server on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _ranges as r
from ansible_collections.baremetal.llm.plugins.module_utils._download import DownloadError, HTTPStatus, Source, Unreachable
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError, Missing
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.server import RangeServer, serving

SIZE = 20 * 1024 * 1024


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Holds big.bin, whose every block of 64 bytes begins with its own number."""
    content = b"".join(number.to_bytes(8, "little") + bytes(56) for number in range(SIZE // 64))
    (tmp_path / "big.bin").write_bytes(content)
    (tmp_path / "small.json").write_text("{}")
    (tmp_path / "empty").touch()
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[RangeServer]:
    with serving(directory) as one:
        yield one


def number_at(ranges: r.Ranges, offset: int) -> int:
    return int.from_bytes(ranges.read(offset, 8), "little")


@pytest.mark.parametrize("place", ["disk", "server"])
def test_any_piece_of_a_file(place: str, directory: Path, server: RangeServer) -> None:
    files: r.Files = r.LocalFiles(directory) if place == "disk" else r.WebFiles(f"{server.url}/")
    with files.open("big.bin") as big:
        assert big.size == SIZE
        for number in (0, 1, 5000, 5001, 4, SIZE // 64 - 1):
            assert number_at(big, number * 64) == number
        with pytest.raises(MetadataError, match="damaged or not complete"):
            big.read(SIZE - 4, 8)
        with pytest.raises(MetadataError, match="damaged or not complete"):
            big.read(-1, 8)
    assert files.document("small.json") == b"{}"
    assert files.fetched == big.fetched + 2
    with pytest.raises(Missing):
        files.open("other.bin")
    with pytest.raises(Missing):
        files.document("other.json")


def test_reading_on_costs_few_requests_and_little_more_than_what_is_read(server: RangeServer) -> None:
    with r.WebFiles(f"{server.url}/").open("big.bin") as big:
        for offset in range(0, 6 * 1024 * 1024, 64):
            assert number_at(big, offset) == offset // 64
        assert len(server.requests) <= 7
        assert big.fetched == server.sent
        assert 6 * 1024 * 1024 <= big.fetched <= 6 * 1024 * 1024 + r.LONGEST


def test_what_is_skipped_is_not_fetched(server: RangeServer) -> None:
    with r.WebFiles(f"{server.url}/").open("big.bin") as big:
        assert number_at(big, 64) == 1
        assert number_at(big, SIZE - 64) == SIZE // 64 - 1
        assert big.fetched == server.sent < 2 * r.SHORTEST


def test_a_limit_bounds_what_is_fetched(directory: Path) -> None:
    with r.LocalRanges(directory / "big.bin", limit=r.SHORTEST + 100) as big:
        big.read(0, 64)
        big.read(r.SHORTEST, 100)  # the read-ahead is cut to what is left
        with pytest.raises(MetadataError, match="header of more than"):
            big.read(r.SHORTEST + 100, 1)
        assert big.fetched <= r.SHORTEST + 100


def test_a_server_without_ranges_is_told_apart(server: RangeServer) -> None:
    server.ranges = False
    with pytest.raises(r.RangesUnsupported, match=r"does not send parts of files \(HTTP 200\)"):
        r.HTTPRanges(Source(f"{server.url}/big.bin"))


@pytest.mark.parametrize(
    ("headers", "error", "message"),
    [
        ({"Content_Range": "bytes 64-127/20971520"}, DownloadError, "another part"),
        ({"Content_Range": "pages 1-2/3"}, r.RangesUnsupported, "does not send parts"),
        ({"Content_Range": "bytes 0-63/*"}, r.RangesUnsupported, "does not send parts"),
    ],
)
def test_an_answer_that_was_not_asked_for(server: RangeServer, headers: dict[str, str], error: type[Exception], message: str) -> None:
    server.tamper = headers
    with pytest.raises(error, match=message):
        r.HTTPRanges(Source(f"{server.url}/big.bin"))


def test_a_file_that_changes_while_it_is_read(server: RangeServer) -> None:
    with r.HTTPRanges(Source(f"{server.url}/big.bin")) as big:
        server.tamper = {"ETag": '"another"'}
        with pytest.raises(MetadataError, match="changed while it was read"):
            big.read(SIZE - 64, 8)


def test_a_file_on_disk_that_becomes_shorter(directory: Path) -> None:
    with r.LocalRanges(directory / "big.bin") as big:
        os.truncate(directory / "big.bin", 1024)
        with pytest.raises(MetadataError, match="became shorter"):
            big.read(0, 64)


def test_passing_failures_are_tried_again_and_lasting_ones_are_told(server: RangeServer) -> None:
    pauses: list[float] = []
    source = Source(f"{server.url}/big.bin")
    server.fail = [503, 500]
    assert r.HTTPRanges(source, sleep=pauses.append).size == SIZE
    assert pauses == [1.0, 2.0]
    server.fail = [503] * r.ATTEMPTS
    with pytest.raises(HTTPStatus, match="HTTP 503"):
        r.HTTPRanges(source, sleep=pauses.append)
    server.fail = [403]
    with pytest.raises(HTTPStatus, match="give a token"):
        r.HTTPRanges(source, sleep=pauses.append)
    assert not server.fail
    server.cut = 10
    with pytest.raises(Unreachable, match="could not be fetched"):
        r.HTTPRanges(source, sleep=pauses.append)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Unreachable):
        r.HTTPRanges(Source("http://127.0.0.1:9/big.bin"), sleep=lambda _seconds: None)


def test_the_token_goes_to_its_server_and_no_further(server: RangeServer, directory: Path) -> None:
    with serving(directory) as other:
        server.token, server.redirect = "hf_canary", other.url
        with r.WebFiles(f"{server.url}/", token="hf_canary").open("big.bin") as big:
            assert number_at(big, SIZE - 64) == SIZE // 64 - 1
        assert all(headers["authorization"] == "Bearer hf_canary" for _path, headers in server.requests)
        assert len(other.requests) == 2
        assert all("authorization" not in headers and "range" in headers for _path, headers in other.requests)


def test_a_mirror_gets_no_token(server: RangeServer, directory: Path) -> None:
    (directory / "models.example.org/a b").mkdir(parents=True)
    os.link(directory / "big.bin", directory / "models.example.org/a b/big.bin")
    for mirror in (server.url, str(directory), f"file://{directory}"):
        files = r.WebFiles("https://models.example.org/a%20b/", token="hf_canary", mirror=mirror)
        with files.open("big.bin") as big:
            assert number_at(big, 64) == 1
        with pytest.raises(Missing):
            files.document("other.json")
    assert server.requests
    assert all("authorization" not in headers for _path, headers in server.requests)


def test_a_query_follows_every_name(server: RangeServer) -> None:
    r.WebFiles(f"{server.url}/", query="?download=true").document("small.json")
    assert server.paths() == ["/small.json?download=true"]


@pytest.mark.parametrize(("name", "message"), [(".", "not a file"), ("pipe", "not a file"), ("x" * 300, "cannot be read")])
def test_what_is_no_file_is_refused_at_once(directory: Path, name: str, message: str) -> None:
    os.mkfifo(directory / "pipe")
    with pytest.raises(MetadataError, match=message):
        r.LocalRanges(directory / name)


def test_an_empty_file(server: RangeServer, directory: Path) -> None:
    with pytest.raises(MetadataError, match="empty"):
        r.HTTPRanges(Source(f"{server.url}/empty"))
    with r.LocalRanges(directory / "empty") as empty, pytest.raises(MetadataError, match="ends at 0"):
        empty.read(0, 1)
