"""model_download as Ansible calls it: real files, real servers on loopback, the real huggingface_hub."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import sys
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.module_utils import _model_store
from ansible_collections.baremetal.llm.plugins.modules import model_download

BIG = b"GGUF" + bytes(range(256)) * 400
SMALL = b'{"architectures": ["LlamaForCausalLM"]}'
TOKEN = "hf_canary1234567890"


def _double() -> t.Any:
    path = Path(__file__).parents[3] / "doubles" / "hub.py"
    spec = importlib.util.spec_from_file_location("hub_double", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_double"] = module
    spec.loader.exec_module(module)
    return module


hub_double = _double()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[t.Any]:
    repo = tmp_path / "hub" / "org" / "coder"
    (repo / "Q4").mkdir(parents=True)
    (repo / "Q4" / "coder.gguf").write_bytes(BIG)
    (repo / "config.json").write_bytes(SMALL)
    (tmp_path / "hub" / "org" / "secret").mkdir()
    (tmp_path / "hub" / "org" / "secret" / "secret.gguf").write_bytes(BIG + b"secret")
    double = hub_double.HubDouble(tmp_path / "hub", private={"org/secret": TOKEN})
    yield double
    double.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


class Run:
    """Calls the module and holds what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], root: Path) -> None:
        self._capsys, self._root = capsys, root
        self.output = ""

    def __call__(self, models: list[dict[str, t.Any]], check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"root": str(self._root), "models": models, "tools_python": "/nowhere", **options}
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            model_download.main()
        self.output = self._capsys.readouterr().out
        return t.cast(dict[str, t.Any], json.loads(self.output))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], root: Path) -> Run:
    return Run(capsys, root)


def local(tmp_path: Path, content: bytes = BIG, **extra: t.Any) -> dict[str, t.Any]:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(content)
    return {
        "name": "own",
        "source": f"file:{origin}",
        "files": [{"path": "own.gguf", "sha256": sha256(content)}],
        **extra,
    }


def hosted(**extra: t.Any) -> dict[str, t.Any]:
    files = [{"path": "Q4/coder.gguf"}, {"path": "config.json"}]
    return {"name": "coder", "source": "hf:org/coder", "files": files, **extra}


def statuses(result: dict[str, t.Any], model: str) -> list[str]:
    return [file["status"] for file in result["models"][model]["files"]]


def no_reading(path: Path) -> str:
    raise AssertionError(f"{path} was read")


def test_local_file_check_run_again(run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = local(tmp_path)
    planned = run([model], check=True)
    assert planned["changed"] and statuses(planned, "own") == ["would_download"]
    assert not root.exists()
    first = run([model])
    assert planned["diff"] == first["diff"]
    assert first["diff"]["before"] == "own/own.gguf: (absent)\n"
    assert first["diff"]["after"] == f"own/own.gguf: sha256 {sha256(BIG)}, {len(BIG)} bytes\n"
    file = {"path": "own.gguf", "sha256": sha256(BIG), "size": len(BIG), "status": "downloaded"}
    assert first["models"] == {"own": {"dir": str(root / "own"), "revision": "", "files": [file]}}
    assert sorted(p.name for p in (root / "own").iterdir()) == [".verified.json", "own.gguf"]
    monkeypatch.setattr(_model_store, "sha256_of", no_reading)
    again = run([model])
    assert not again["changed"] and statuses(again, "own") == ["present"]


def test_everybody_may_read_whatever_the_umask_is(run: Run, root: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run([local(tmp_path, files=[{"path": "sub/own.gguf", "sha256": sha256(BIG)}])])
    finally:
        os.umask(before)
    for path in (root, root / "own", root / "own" / "sub"):
        assert path.stat().st_mode & 0o777 == 0o755
    assert (root / "own/sub/own.gguf").stat().st_mode & 0o777 == 0o644


def test_verify_always_finds_what_size_and_time_hide(run: Run, root: Path, tmp_path: Path) -> None:
    run([local(tmp_path)])
    file = root / "own" / "own.gguf"
    status = file.stat()
    file.write_bytes(b"x" + BIG[1:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not run([local(tmp_path)])["changed"]
    result = run([local(tmp_path)], verify="always")
    assert result["diff"]["before"] == f"own/own.gguf: sha256 {sha256(b'x' + BIG[1:])}\n"
    assert file.read_bytes() == BIG
    assert not run([local(tmp_path)], verify="always")["changed"]


def test_a_good_file_that_somebody_else_put_there_is_taken_over(run: Run, root: Path, tmp_path: Path) -> None:
    (root / "own").mkdir(parents=True)
    (root / "own" / "own.gguf").write_bytes(BIG)
    assert not run([local(tmp_path)], check=True)["changed"]
    assert not run([local(tmp_path)])["changed"]
    assert json.loads((root / "own" / ".verified.json").read_text())["files"]["own.gguf"]["sha256"] == sha256(BIG)


def test_a_new_sum_replaces_the_file_and_other_files_stay(run: Run, root: Path, tmp_path: Path) -> None:
    run([local(tmp_path)])
    (root / "own" / "notes.txt").write_text("mine")
    result = run([local(tmp_path, b"GGUF new")])
    assert result["diff"]["before"] == f"own/own.gguf: sha256 {sha256(BIG)}\n"
    assert (root / "own" / "own.gguf").read_bytes() == b"GGUF new"
    assert (root / "own" / "notes.txt").read_text() == "mine"


def test_several_files_from_a_web_directory_and_one_that_fails(run: Run, root: Path, hub: t.Any) -> None:
    files = [{"path": "Q4/coder.gguf", "sha256": sha256(BIG)}, {"path": "config.json", "sha256": "0" * 64}]
    model = {"name": "web", "source": f"{hub.url}/org/coder/resolve/main/", "files": files}
    failed = run([model])
    assert f"expected sha256 {'0' * 64}, found {sha256(SMALL)}" in failed["msg"]
    assert (root / "web" / "Q4" / "coder.gguf").read_bytes() == BIG
    assert not (root / "web" / "config.json").exists()
    files[1]["sha256"] = sha256(SMALL)
    assert statuses(run([model]), "web") == ["present", "downloaded"]


def test_all_errors_are_reported_at_once(run: Run, tmp_path: Path) -> None:
    gone = [
        {"name": name, "source": f"file:{tmp_path}/{name}", "files": [{"path": name, "sha256": "0" * 64}]}
        for name in "ab"
    ]
    message = run(gone)["msg"]
    assert f"{tmp_path}/a cannot be read" in message and f"{tmp_path}/b cannot be read" in message


def test_a_source_that_is_not_there_yet_is_a_warning_in_check_mode(run: Run, tmp_path: Path) -> None:
    model = local(tmp_path)
    (tmp_path / "origin.gguf").unlink()
    result = run([model], check=True)
    assert statuses(result, "own") == ["would_download"]
    assert "cannot be read on the target" in run.output


@pytest.mark.parametrize("check", [True, False])
def test_no_space_for_all_together(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    second = {**local(tmp_path), "name": "two"}
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((1, 1, 0, 0, len(BIG) * 2 - 1, 0, 0, 0, 0, 255)))
    monkeypatch.setattr(_model_store.check_space, "__defaults__", (os.statvfs,))
    message = run([local(tmp_path), second], check=check)["msg"]
    assert f"Downloading own/own.gguf, two/own.gguf needs {2 * len(BIG)} bytes" in message
    assert not (root / "own").exists()


def test_a_file_without_a_sum(run: Run, tmp_path: Path) -> None:
    model = local(tmp_path, files=[{"path": "own.gguf"}])
    message = run([model], check=True)["msg"]
    assert "has no sha256: give it as llm_models.own.files" in message
    assert run([model], allow_unverified=True)["changed"]
    assert not run([model], allow_unverified=True)["changed"]
    assert not run([model], allow_unverified=True, verify="always")["changed"]


def test_one_file_needs_no_name(run: Run, root: Path, tmp_path: Path) -> None:
    run([local(tmp_path, files=[])], allow_unverified=True)
    assert (root / "own" / "origin.gguf").read_bytes() == BIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Own"}, "cannot name a model"),
        ({"name": "../own"}, "cannot name a model"),
        ({"source": "ftp://host/f"}, "begin it with hf:"),
        ({"source": "hf:justone"}, "write hf:owner/repository"),
        ({"source": "http://mirror.example.org/coder/", "files": []}, "lists no files"),
        ({"files": [{"path": "../own/x", "sha256": "0" * 64}]}, "would not lie in the model's directory"),
        ({"files": [{"path": "/etc/passwd", "sha256": "0" * 64}]}, "would not lie in the model's directory"),
        ({"files": [{"path": ".verified.json", "sha256": "0" * 64}]}, "would not lie in the model's directory"),
        ({"files": [{"path": "a.part", "sha256": "0" * 64}]}, "would not lie in the model's directory"),
        ({"files": [{"path": "a", "sha256": "beef"}]}, "give 64 hexadecimal digits"),
        ({"files": [{"path": "a"}, {"path": "b"}]}, "end the source with '/'"),
        ({"source": "hf:org/coder", "files": [{"path": "a"}, {"path": "a"}]}, "is listed twice"),
    ],
)
def test_bad_input_changes_nothing(
    run: Run, root: Path, tmp_path: Path, change: dict[str, t.Any], message: str
) -> None:
    result = run([local(tmp_path, **change)])
    assert result["failed"] and message in result["msg"]
    assert not root.exists()


def test_the_same_model_twice(run: Run, tmp_path: Path) -> None:
    assert "The model own is listed twice" in run([local(tmp_path), local(tmp_path)])["msg"]


def test_hub_check_run_again(run: Run, root: Path, hub: t.Any) -> None:
    planned = run([hosted()], check=True, hub_endpoint=hub.url)
    assert statuses(planned, "coder") == ["would_download", "would_download"]
    assert not root.exists()
    first = run([hosted()], hub_endpoint=hub.url)
    assert first["diff"] == planned["diff"]
    assert first["models"]["coder"]["revision"] == hub.commit("org/coder")
    assert (root / "coder" / "Q4" / "coder.gguf").read_bytes() == BIG
    assert (root / "coder" / "config.json").read_bytes() == SMALL
    assert sorted(p.name for p in root.iterdir()) == ["coder"]
    hub.requests.clear()
    again = run([hosted()], hub_endpoint=hub.url)
    assert not again["changed"] and statuses(again, "coder") == ["present", "present"]
    assert hub.requests == []


def test_the_hub_can_come_from_the_environment(run: Run, hub: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert run([hosted()])["changed"]


def test_a_branch_stays_where_it_was(run: Run, root: Path, hub: t.Any) -> None:
    first = run([hosted()], hub_endpoint=hub.url)
    (hub.directory / "org/coder/Q4/coder.gguf").write_bytes(BIG + b"newer")
    assert not run([hosted()], hub_endpoint=hub.url)["changed"]
    newer = run([hosted(revision=hub.commit("org/coder"))], hub_endpoint=hub.url)
    assert newer["models"]["coder"]["revision"] != first["models"]["coder"]["revision"]
    assert statuses(newer, "coder") == ["downloaded", "present"]
    assert (root / "coder" / "Q4" / "coder.gguf").read_bytes() == BIG + b"newer"


def test_a_private_repository_and_its_token(run: Run, root: Path, hub: t.Any, tmp_path: Path) -> None:
    model = {"name": "secret", "source": "hf:org/secret", "files": [{"path": "secret.gguf"}]}
    assert "HTTP 401" in run([model], hub_endpoint=hub.url)["msg"]
    refused = run([model], hub_endpoint=hub.url, hub_token="hf_wrong_canary")
    assert "the token that was given may not read it" in refused["msg"]
    assert "hf_wrong_canary" not in json.dumps({**refused, "invocation": None})
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    assert statuses(run([model], hub_endpoint=hub.url, hub_token_file=str(token_file)), "secret") == ["downloaded"]
    assert TOKEN not in run.output
    hub.requests.clear()
    (root / "secret" / "secret.gguf").unlink()
    run([model], hub_endpoint=hub.url, hub_token=TOKEN)
    assert TOKEN not in run.output
    assert any(server == "cdn" for server, *_rest in hub.requests)
    for server, _method, _path, headers in hub.requests:
        assert headers.get("authorization") == (f"Bearer {TOKEN}" if server == "hub" else None)
    assert not [path for path in root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"source": "hf:org/none"}, "HTTP 404"),
        ({"revision": "v9"}, "HTTP 404"),
        ({"files": [{"path": "none.gguf"}]}, "has no file none.gguf"),
        ({"files": [{"path": "config.json", "sha256": "0" * 64}]}, f"but {'0' * 64} is given"),
    ],
)
def test_what_the_hub_does_not_have(run: Run, hub: t.Any, model: dict[str, t.Any], message: str) -> None:
    assert message in run([hosted(**model)], check=True, hub_endpoint=hub.url)["msg"]


def test_nobody_at_the_hubs_address(run: Run, hub: t.Any) -> None:
    hub.close()
    result = run([hosted()], hub_endpoint=hub.url)
    assert f"{hub.url}/org/coder could not be asked" in result["msg"]
    planned = run([hosted()], check=True, hub_endpoint=hub.url)
    assert statuses(planned, "coder") == ["would_download", "would_download"]


def test_a_hub_download_is_resumed(run: Run, root: Path, hub: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: t.Any, body: t.Any, out: t.BinaryIO, digest: t.Any) -> None:
        out.write(body.stream.read(5000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ansible_collections.baremetal.llm.plugins.module_utils._download._stream", full)
        assert "full after 5000 bytes" in run([hosted(files=[{"path": "Q4/coder.gguf"}])], hub_endpoint=hub.url)["msg"]
    assert run([hosted()], hub_endpoint=hub.url)["changed"]
    ranges = [headers.get("range") for server, _method, path, headers in hub.requests if server == "cdn"]
    assert ranges == [None, "bytes=5000-"]


def test_files_in_xet_storage_come_through_the_library(run: Run, root: Path, hub: t.Any) -> None:
    hub.xet = True
    assert run([hosted()], hub_endpoint=hub.url)["changed"]
    assert (root / "coder" / "Q4" / "coder.gguf").read_bytes() == BIG
    assert (root / "coder" / "Q4" / "coder.gguf").stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in root.iterdir()) == ["coder"]
    agents = [headers["user-agent"] for server, _method, _path, headers in hub.requests if server == "cdn"]
    assert len(agents) == 1 and "hf_hub/" in agents[0]
    assert not run([hosted()], hub_endpoint=hub.url, verify="always")["changed"]


@pytest.fixture
def whole(hub: t.Any) -> dict[str, t.Any]:
    """A repository as many are: weights in parts, once more as one, and in other formats."""
    names = ("model-00001-of-2.safetensors", "model-00002-of-2.safetensors", "consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin")
    for name in (*names, "config.json", "tokenizer.json", "1_Pooling/config.json", "original/params.json", "README.md", ".gitattributes"):
        path = hub.directory / "org" / "whole" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BIG if name.endswith((".safetensors", ".bin")) else SMALL)
    return {"name": "whole", "source": "hf:org/whole"}


def test_a_whole_repository_is_what_an_engine_needs_of_it(run: Run, root: Path, hub: t.Any, whole: dict[str, t.Any]) -> None:
    planned = run([whole], check=True, hub_endpoint=hub.url)
    assert (planned["changed"], root.exists()) == (True, False)
    done = run([whole], hub_endpoint=hub.url)
    wanted = ["1_Pooling/config.json", "config.json", "model-00001-of-2.safetensors", "model-00002-of-2.safetensors", "tokenizer.json"]
    assert [file["path"] for file in done["models"]["whole"]["files"]] == wanted
    assert sorted(str(path.relative_to(root / "whole")) for path in (root / "whole").rglob("*") if path.is_file()) == [".verified.json", *wanted]
    hub.requests.clear()
    assert not run([whole], hub_endpoint=hub.url)["changed"]
    assert hub.requests == []


def test_a_whole_repository_that_was_begun_is_finished(run: Run, root: Path, hub: t.Any, whole: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = model_download.ModelStore._fetch

    def killed(self: t.Any, file: t.Any) -> None:
        if file.path.endswith("00002-of-2.safetensors"):
            raise model_download.LLMError("killed")
        fetch(self, file)

    monkeypatch.setattr(model_download.ModelStore, "_fetch", killed)
    assert run([whole], hub_endpoint=hub.url)["msg"] == "killed"
    monkeypatch.undo()
    assert statuses(run([whole], hub_endpoint=hub.url), "whole").count("downloaded") == 1
    assert not run([whole], hub_endpoint=hub.url)["changed"]


def test_a_repository_without_safetensors_is_no_directory_for_an_engine(run: Run, hub: t.Any) -> None:
    told = run([hosted(files=[])], hub_endpoint=hub.url)["msg"]
    assert "has no safetensors" in told
    assert "name the files in llm_models.coder.files" in told


def test_a_mirror_of_files_cannot_say_what_a_repository_holds(run: Run, tmp_path: Path, whole: dict[str, t.Any]) -> None:
    assert "cannot be asked: name the files in llm_models.whole.files" in run([whole], mirror=str(tmp_path))["msg"]


def test_before_the_library_is_there_a_check_says_that_it_does_not_know(run: Run, hub: t.Any, whole: dict[str, t.Any], without_library: None) -> None:
    planned = run([whole], check=True, hub_endpoint=hub.url)
    assert planned["changed"]
    assert "which are not known yet" in planned["diff"]["after"]


def test_a_mirror_directory_needs_no_hub(run: Run, root: Path, tmp_path: Path, without_library: None) -> None:
    held = tmp_path / "mirror" / "huggingface.co" / "org" / "coder" / "resolve" / "main" / "Q4" / "coder.gguf"
    held.parent.mkdir(parents=True)
    held.write_bytes(BIG)
    model = hosted(files=[{"path": "Q4/coder.gguf", "sha256": sha256(BIG)}])
    assert run([model], mirror=str(tmp_path / "mirror"))["changed"]
    assert (root / "coder" / "Q4" / "coder.gguf").read_bytes() == BIG
    assert "has no sha256" in run([hosted()], mirror=str(tmp_path / "mirror"))["msg"]


def test_a_web_mirror_is_no_place_for_the_token(run: Run, hub: t.Any) -> None:
    assert run([hosted()], mirror=hub.url, hub_token=TOKEN)["changed"]
    assert all(path.startswith("/huggingface.co/") for server, _method, path, _headers in hub.requests if server == "hub")
    assert not any("authorization" in headers for *_rest, headers in hub.requests)


def test_a_web_mirror_of_plain_files_is_enough_if_all_sums_are_given(
    run: Run, hub: t.Any, without_library: None
) -> None:
    model = hosted(files=[{"path": "Q4/coder.gguf", "sha256": sha256(BIG)}])
    assert run([model], mirror=hub.url)["changed"]
    assert not [path for _server, _method, path, _headers in hub.requests if "/api/" in path]


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_without_the_library(run: Run, root: Path, hub: t.Any, without_library: None) -> None:
    planned = run([hosted()], check=True, hub_endpoint=hub.url)
    assert planned["changed"] and statuses(planned, "coder") == ["would_download", "would_download"]
    assert planned["diff"]["after"].startswith("coder/Q4/coder.gguf: sha256 not known yet\n")
    assert hub.requests == []
    assert "need huggingface_hub, which neither the target's Python nor /nowhere has" in run([hosted()])["msg"]


def test_the_tools_environment_takes_over(
    run: Run, tmp_path: Path, without_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def respawn(python: str) -> None:
        started.append(python)
        print("{}")
        raise SystemExit(0)

    monkeypatch.setattr(model_download, "respawn_module", respawn)
    python = tmp_path / "python"
    python.touch()
    run([hosted()], tools_python=str(python))
    run([hosted()], tools_python=str(python), check=True)
    assert started == [str(python)] * 2
