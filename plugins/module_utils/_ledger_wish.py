# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one deployment asks for: the values that the user wrote, and which of the others are left to the ledger."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import Demand
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import parse_size
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import Settings

FIRST_CONTEXT = 4096  # tokens: with less a chat model is of little use
UNLIMITED_CONTEXT = 131072  # as far as we go by ourselves with a model that names no limit
MOST_PARALLEL = 4  # requests that we plan for by ourselves

Rung = tuple[int, int]  # tokens of each request, requests at once


@dataclass(frozen=True)
class Wish:
    """A demand, read. ``free`` are the catalogue's words that were left to us, ``ladder`` the values of context and parallel that we may give."""

    demand: Demand
    settings: Settings  # on the lowest rung, and one device
    free: frozenset[str]
    ladder: tuple[Rung, ...]
    gpus: tuple[int, ...] | None  # None: we place it
    tensor_parallel: int | None = None  # vLLM; None: we choose
    utilization: float | None = None  # vLLM's share of a GPU, if the user wrote it
    asleep: int = 0  # bytes that its idle process keeps on each GPU
    most_parallel: int = 0  # vLLM: full-length requests that more memory would still serve
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> ModelShape:
        return self.demand.shape

    @property
    def key(self) -> tuple[str, str]:
        return self.demand.service, self.demand.model


@contextmanager
def named(host: str, model: str) -> Iterator[None]:
    """What an engine's estimate refuses is said of this model on this host."""
    try:
        yield
    except InputError as exc:
        if str(exc).startswith(f"{host}: "):
            raise
        raise InputError(f"{host}: the model {model}: {exc}") from exc


class Options:
    """The options of one demand with their values checked; an error names the host, the model, the option and the value."""

    def __init__(self, host: str, model: str, options: Mapping[str, t.Any]) -> None:
        self._where = f"{host}: the model {model}"
        self._options = options

    def given(self, name: str) -> bool:
        return self._options.get(name) not in (None, "auto")

    def get(self, name: str, default: t.Any = None) -> t.Any:
        return self._options[name] if self.given(name) else default

    def error(self, name: str, allowed: str) -> InputError:
        return InputError(f"{self._where} has {name}: {self._options.get(name)!r}; allowed: {allowed}.")

    def whole(self, name: str, minimum: int = 0) -> int | None:
        """A whole number; text of digits too, as ``extra`` may have it."""
        if not self.given(name):
            return None
        value = self._options[name]
        if isinstance(value, str) and value.lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(name, f"auto, or a whole number of at least {minimum}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """true and false, and the words that llama-server takes for them."""
        value = str(self.get(name, default)).lower()
        if value not in ("true", "false", "on", "off", "1", "0", "enabled", "disabled"):
            raise self.error(name, "true or false")
        return value in ("true", "on", "1", "enabled")

    def number(self, name: str) -> float:
        """A number of at least 0; 0 if none is given."""
        try:
            value = float(self.get(name, 0))
        except (TypeError, ValueError):
            value = -1.0
        if not value >= 0:
            raise self.error(name, "a number of at least 0")
        return value

    def size(self, name: str) -> int | None:
        """Bytes of a text such as 4G; a bare number is bytes already, as vLLM has it."""
        if not self.given(name):
            return None
        value = self._options[name]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        return parse_size(value, f"{self._where}: {name}")

    def gpus(self, known: t.Collection[int], what: str) -> tuple[int, ...] | None:
        """The GPUs that the user named; ``what`` tells which there are."""
        if not self.given("gpus"):
            return None
        named = self._options["gpus"]
        if not isinstance(named, (list, tuple)) or any(isinstance(index, bool) or not isinstance(index, int) for index in named):
            raise self.error("gpus", "auto, or a list of GPU indexes such as [0, 1]; [] for none")
        missing = [index for index in named if index not in known]
        if missing:
            raise InputError(f"{self._where} is placed on GPU {missing[0]}, but the host has {what}: correct gpus, or leave it out.")
        return tuple(named)


def ladder(trained: int, context: int | None, parallel: int | None, whole_context: bool = False) -> tuple[Rung, ...]:
    """What we may give, from the least to the most; each rung doubles one of the two, the context first.

    ``trained`` is the context that the model was trained for, 0 if it names none; ``whole_context`` (embedding models) first gives
    every request its whole context, and only then more requests.
    """
    most = trained or UNLIMITED_CONTEXT
    contexts = [context] if context else [*_doubled(min(FIRST_CONTEXT, most), most), most]
    parallels = [parallel] if parallel else [*_doubled(1, MOST_PARALLEL), MOST_PARALLEL]
    rungs = [(contexts[0], parallels[0])]
    longer, more = contexts[1:], parallels[1:]
    while longer or more:
        tokens, requests = rungs[-1]
        lengthen = bool(longer) and (whole_context or not more or len(contexts) - len(longer) <= len(parallels) - len(more))
        rungs.append((longer.pop(0), requests) if lengthen else (tokens, more.pop(0)))
    return tuple(rungs)


def _doubled(first: int, below: int) -> list[int]:
    numbers = []
    while first < below:
        numbers.append(first)
        first *= 2
    return numbers


def beyond_training(demand: Demand, context: int | None, stretched: bool, how: t.Callable[[float, int], str]) -> tuple[str, ...]:
    """A warning if each request may be longer than what the model has seen, with the stretching that it needs."""
    trained = demand.shape.context_length
    if not context or not trained or context <= trained or stretched:
        return ()
    factor = -(-context * 4 // trained) / 4  # quarters: a factor that is used for no longer prompts costs quality on short ones
    return (
        f"{demand.model}: context: {context} is more than the {trained} tokens that the model was trained for; its answers "
        f"degrade beyond that unless its positions are stretched: {how(factor, trained)}",
    )
