# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_models import Access, ModelFiles, read_shapes
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError
from ansible_collections.baremetal.llm.plugins.module_utils._model_store import ModelStore, Settings
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published


@pytest.fixture
def source(tmp_path: Path) -> Path:
    small = published.Published("llama", published.llama3_8b().keys, {"token_embd.weight": (32, 32)})
    return published.write(small, tmp_path / "small.gguf")


def stored(source: Path, store: Path) -> None:
    """Download the model as role model_store does."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    models = ModelStore(Settings(store), [{"name": "small", "source": f"file:{source}", "files": [{"path": "small.gguf", "sha256": digest}]}])
    models.plan(check=False)
    models.fetch()


def test_a_model_in_the_store_needs_no_source(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    model = ModelFiles("small", f"file:{source}", ("small.gguf",))
    stored(source, store)
    source.unlink()
    assert read_shapes([model], Access(store))["small"].architecture == "llama"


@pytest.mark.parametrize("what", ["touched", "other source", "removed"])
def test_what_is_not_what_was_verified_is_read_from_its_source(source: Path, tmp_path: Path, what: str) -> None:
    store = tmp_path / "store"
    stored(source, store)
    kept = store / "small/small.gguf"
    other = tmp_path / "other.gguf"
    if what == "touched":
        kept.write_bytes(b"something else")
    elif what == "removed":
        kept.unlink()
    else:
        source.rename(other)
        kept.write_bytes(b"something else")
    model = ModelFiles("small", f"file:{other if what == 'other source' else source}", ("small.gguf",))
    assert read_shapes([model], Access(store))["small"].architecture == "llama"


def test_every_model_that_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    models = [ModelFiles("a", f"file:{broken}"), ModelFiles("good", f"file:{source}"), ModelFiles("z", f"file:{tmp_path}/absent.gguf")]
    with pytest.raises(MetadataError, match=r"llm_models\.a: .*broken\.gguf.* llm_models\.z: .*absent\.gguf"):
        read_shapes(models, Access(tmp_path / "store"))
