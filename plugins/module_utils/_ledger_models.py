# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shapes of the models that a host shall serve: out of its store where they lie there already, otherwise from their source."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import MetadataError, ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._model_source import ModelName, read_model
from ansible_collections.baremetal.llm.plugins.module_utils._model_store import kept

_AT_ONCE = 8  # headers that are read at the same time


@dataclass(frozen=True)
class ModelFiles:
    """A model of the catalogue: where it comes from, and which of its files describe it (weights and projector)."""

    name: str
    source: str
    files: tuple[str, ...] = ()
    revision: str = ""


@dataclass(frozen=True)
class Access:
    """How to get at sources, as the role model_store does. ``store`` is the directory of all models."""

    store: Path
    mirror: str = ""
    endpoint: str = ""
    token: str = field(default="", repr=False)


def read_shapes(models: Sequence[ModelFiles], access: Access) -> dict[str, ModelShape]:
    """The shape of every model by its name. Raises one MetadataError that says what is wrong with which."""
    errors: list[str] = []
    shapes: dict[str, ModelShape] = {}

    def read(model: ModelFiles) -> None:
        try:
            shapes[model.name] = read_model(_name(model, access)).shape
        except LLMError as exc:
            errors.append(f"llm_models.{model.name}: {exc}")

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        list(pool.map(read, {model.name: model for model in models}.values()))
    if errors:
        raise MetadataError(" ".join(sorted(errors)))
    return shapes


def _name(model: ModelFiles, access: Access) -> ModelName:
    local = kept(access.store, {"name": model.name, "source": model.source, "revision": model.revision}, model.files)
    if local:
        return ModelName(str(local), model.files)
    single = not model.source.startswith("hf:") and not model.source.endswith("/")
    return ModelName(
        model=model.source,
        files=() if single else model.files,
        revision=model.revision,
        mirror=access.mirror,
        endpoint=access.endpoint,
        token=access.token,
    )
