# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""model_info as Ansible calls it: paths, addresses, a hub and its mirrors, with real files and servers on loopback."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.baremetal.llm.plugins.modules import model_info
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import safetensors as st
from ansible_collections.baremetal.llm.tests.unit.fixtures.models.server import COMMIT, RangeServer, serving

TOKEN = "hf_canary1234567890"
LLAMA = 8_030_261_248


class Run:
    """Calls the module and holds what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.output = ""

    def __call__(self, model: str | Path, **options: t.Any) -> dict[str, t.Any]:
        with patch_module_args({"model": str(model), **options}), pytest.raises(SystemExit):
            model_info.main()
        self.output = self._capsys.readouterr().out
        return t.cast(dict[str, t.Any], json.loads(self.output))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """org/one: a GGUF. org/many: three GGUF files, one in two parts, and a projector. org/hf: safetensors. org/odd: neither."""
    root = tmp_path / "hub"
    for name in ("one", "many/Q8", "odd"):
        (root / "org" / name).mkdir(parents=True)
    llama = published.llama3_8b()
    published.write(llama, root / "org/one/llama-Q4_K_M.gguf")
    for name in ("a.gguf", "b.gguf"):
        published.write(llama, root / "org/many" / name)
    parts = llama.part(lambda name: not name.startswith("blk.")), llama.part(lambda name: name.startswith("blk."))
    for number, part in enumerate(parts):
        extra = {"split.no": number, "split.count": 2, "split.tensors.count": len(llama.tensors)}
        published.write(part, root / f"org/many/Q8/c-0000{number + 1}-of-00002.gguf", extra)
    projector = published.Published("clip", {"has_vision_encoder": True, "projector_type": "x"}, {"v.blk.0.ffn_up.weight": (32, 32)})
    published.write(projector, root / "org/many/mmproj-F16.gguf", {"general.type": "mmproj"})
    config = st.config("llama-3.1-8b")
    st.write(root / "org/hf", config, st.decoder(config), shards=4)
    (root / "org/odd/README.md").write_text("nothing")
    return root


@pytest.fixture
def server(hub: Path) -> Iterator[RangeServer]:
    with serving(hub) as one:
        yield one


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def test_everything_that_is_returned_is_documented_and_the_other_way_round(run: Run, hub: Path) -> None:
    documented = yaml.safe_load(model_info.RETURN)
    answer = run(hub / "org/one/llama-Q4_K_M.gguf", tensors=True)
    assert set(answer["model"]) == set(documented["model"]["contains"])
    added = {"invocation", "warnings"}  # by Ansible, which keeps the warnings of other modules that ran in this process
    assert set(answer) - added == {*documented, "changed"}
    types: dict[str, t.Any] = {"str": str, "int": int, "dict": (dict, type(None)), "list": list, "bool": bool}
    for name, about in documented["model"]["contains"].items():
        assert isinstance(answer["model"][name], types[about["type"]]), name
    assert set(yaml.safe_load(model_info.DOCUMENTATION)["options"]) == set(model_info.ARGUMENTS)


def test_a_path(run: Run, hub: Path) -> None:
    for model in (hub / "org/one/llama-Q4_K_M.gguf", f"file:{hub}/org/one/llama-Q4_K_M.gguf", hub / "org/one"):
        answer = run(model)
        assert (answer["changed"], answer["revision"]) == (False, "")
        assert (answer["model"]["parameters"], answer["model"]["format"]) == (LLAMA + 64, "gguf")
        assert answer["model"]["kv_bytes_per_token"] == 131072
        assert 0 < answer["bytes_fetched"] <= 1024 * 1024
        assert "tensors" not in answer["model"]
    for model in (hub / "org/hf", hub / "org/hf/config.json"):
        answer = run(model)
        assert (answer["model"]["parameters"], answer["model"]["format"], answer["model"]["name"]) == (LLAMA, "safetensors", "hf")
        assert len(answer["model"]["files"]) == 4


def test_an_address(run: Run, server: RangeServer) -> None:
    answer = run(f"{server.url}/org/one/llama-Q4_K_M.gguf?download=true", hub_token=TOKEN)
    assert answer["model"]["parameters"] == LLAMA + 64
    assert answer["bytes_fetched"] == server.sent < 1024 * 1024
    assert server.paths() == ["/org/one/llama-Q4_K_M.gguf?download=true"]
    assert "authorization" not in server.requests[0][1]  # the token is the hub's
    assert run(f"{server.url}/org/hf/")["model"]["parameters"] == LLAMA
    answer = run(f"{server.url}/org/many/Q8/c-00002-of-00002.gguf")
    assert (answer["model"]["parameters"], len(answer["model"]["files"])) == (LLAMA + 64, 2)
    answer = run(f"{server.url}/org/many/", files=["b.gguf", "mmproj-F16.gguf"])
    assert (answer["model"]["parameters"], answer["model"]["projector"]["type"]) == (LLAMA + 64, "x")


def test_a_hub(run: Run, server: RangeServer) -> None:
    server.token = TOKEN
    options = {"hub_endpoint": server.url, "hub_token": TOKEN}
    answer = run("hf:org/one", **options)
    assert (answer["model"]["parameters"], answer["revision"]) == (LLAMA + 64, COMMIT)
    assert server.paths() == ["/api/models/org/one/revision/main", f"/org/one/resolve/{COMMIT}/llama-Q4_K_M.gguf"]
    assert TOKEN not in run.output
    answer = run("hf:org/hf", revision="main", **options)
    assert (answer["model"]["parameters"], answer["model"]["name"]) == (LLAMA, "org/hf")
    answer = run("hf:org/many", files=["Q8/c-00001-of-00002.gguf", "Q8/c-00002-of-00002.gguf"], **options)
    assert [file["name"] for file in answer["model"]["files"]] == ["Q8/c-00001-of-00002.gguf", "Q8/c-00002-of-00002.gguf"]
    assert "HTTP 401: give a token" in run("hf:org/one", hub_endpoint=server.url)["msg"]


def test_files_that_are_redirected_get_no_token(run: Run, server: RangeServer, hub: Path) -> None:
    with serving(hub) as cdn:
        server.token, server.redirect = TOKEN, cdn.url
        assert run("hf:org/hf", hub_endpoint=server.url, hub_token=TOKEN)["model"]["parameters"] == LLAMA
        assert cdn.requests
        assert all("authorization" not in headers for _path, headers in cdn.requests)


def test_the_hub_of_the_environment(run: Run, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    assert run("hf:org/one")["revision"] == COMMIT


def test_a_mirror_that_is_a_directory_is_no_hub(run: Run, hub: Path, tmp_path: Path) -> None:
    place = tmp_path / "mirror/huggingface.co/org/one/resolve/main"
    place.parent.mkdir(parents=True)
    place.symlink_to(hub / "org/one")
    options = {"mirror": str(tmp_path / "mirror"), "hub_token": TOKEN}
    answer = run("hf:org/one", files=["llama-Q4_K_M.gguf"], **options)
    assert (answer["model"]["parameters"], answer["revision"]) == (LLAMA + 64, "")
    assert "has no config.json" in run("hf:org/one", **options)["msg"]


def test_a_mirror_that_is_a_server_gets_no_token(run: Run, hub: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/huggingface.co").symlink_to(hub)
    place = hub / "org/one/resolve/main"
    place.mkdir(parents=True)
    (place / "llama-Q4_K_M.gguf").symlink_to(hub / "org/one/llama-Q4_K_M.gguf")
    with serving(tmp_path / "mirror") as mirror:
        answer = run("hf:org/one", files=["llama-Q4_K_M.gguf"], mirror=mirror.url, hub_token=TOKEN)
        assert answer["model"]["parameters"] == LLAMA + 64
        assert mirror.paths()[0] == "/huggingface.co/api/models/org/one/revision/main"  # which it does not have
        assert all("authorization" not in headers for _path, headers in mirror.requests)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("hf:nonsense", {}, "write hf:owner/repository"),
        ("hf:org/none", {}, "HTTP 404"),
        ("hf:org/odd", {}, "holds neither a GGUF file nor config.json with safetensors: README.md"),
        ("hf:org/many", {}, "has several models: Q8/c-00001-of-00002.gguf, a.gguf, b.gguf. Name one"),
        ("hf:org/many", {"files": ["a.gguf", "b.gguf"]}, "has several models"),
        ("hf:org/many", {"files": ["mmproj-F16.gguf"]}, "is a projector: name the model"),
        ("hf:org/many", {"files": ["../one/x.gguf"]}, "does not lie with the model"),
        ("hf:org/many", {"files": ["README.md"]}, "is not a model that can be described"),
        ("hf:org/many", {"files": ["other.gguf"]}, "HTTP 404"),
        ("hf:org/one", {"hub_token": "two words"}, "holds blanks"),
        ("hf:org/one", {"revision": "v0"}, "HTTP 404"),
    ],
)
def test_what_is_wrong_is_told(run: Run, server: RangeServer, model: str, options: dict[str, t.Any], message: str) -> None:
    answer = run(model, hub_endpoint=server.url, **options)
    assert answer["failed"]
    assert message in answer["msg"]


def test_a_server_without_ranges(run: Run, server: RangeServer) -> None:
    server.ranges = False
    assert "use a server that supports ranges" in run(f"{server.url}/org/one/llama-Q4_K_M.gguf")["msg"]


def test_a_path_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path / "none.gguf")["msg"] == f"{tmp_path}/none.gguf does not exist."
    assert "no config.json" in run(tmp_path / "none/config.json")["msg"]


def test_an_address_that_is_no_hub(run: Run, server: RangeServer) -> None:
    answer = server.directory / "strange/api/models/org/one/revision/main"
    answer.parent.mkdir(parents=True)
    for text in ('{"x": 1}', '{"sha": "main", "siblings": []}'):
        answer.write_text(text)
        assert "does not answer as a hub does" in run("hf:org/one", hub_endpoint=f"{server.url}/strange")["msg"]
    answer.write_text("<html>")
    assert "holds no JSON that can be read" in run("hf:org/one", hub_endpoint=f"{server.url}/strange")["msg"]
