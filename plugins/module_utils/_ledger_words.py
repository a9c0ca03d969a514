# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The words of the VRAM ledger: what a machine has, what is asked of it, and the plan that answers. All sizes are bytes."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB, MemoryEstimate, Usage

LLAMA = "llama_router"
VLLM = "vllm"
RAM = "ram"


@dataclass(frozen=True)
class Process:
    """Somebody else's process on a GPU."""

    pid: int
    name: str
    memory: int


@dataclass(frozen=True)
class Device:
    """One GPU. ``driver`` is what the driver keeps of ``total`` for itself, ``others`` are processes that are not ours."""

    index: int
    name: str
    total: int
    driver: int = 0
    display: bool = False
    compute_capability: str = ""
    uuid: str = ""
    others: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Machine:
    """``tensor_parallel`` and ``unfit`` are what ``_gpu_topology.topology`` found; ``source`` says where the figures are from."""

    host: str
    gpus: tuple[Device, ...]
    ram: int
    tensor_parallel: tuple[tuple[int, ...], ...] = ()
    unfit: tuple[tuple[tuple[int, ...], str], ...] = ()
    source: str = "nvml"  # nvml, llm_gpus or ram


@dataclass(frozen=True)
class Demand:
    """One deployment: the catalogue's entry with the placement's values over it, and what the model's files say.

    All demands of one llama_router ``service`` share a router, and with it its limit of loaded models.
    """

    model: str
    engine: str
    service: str
    shape: ModelShape
    options: Mapping[str, t.Any]
    draft: ModelShape | None = None


@dataclass(frozen=True)
class Budget:
    """What another service may take: Ollama, Qdrant. ``gpu`` None is main memory."""

    name: str
    gpu: int | None
    size: int


@dataclass(frozen=True)
class Policy:
    """What is never given away: for the unknown (``margin``), for a desktop, for others by agreement."""

    margin: int = 512 * MIB  # on each GPU
    reserved: Mapping[int, int] = field(default_factory=dict)  # per GPU
    display: int = 512 * MIB  # where a display is driven
    ram_reserved: int = GIB  # operating system and small services
    ram_margin: int = 512 * MIB


@dataclass(frozen=True)
class Entry:
    """What one taker has of one account. Only models have a service, terms, and may be asleep or not resident."""

    name: str
    kind: str  # model, budget, display, driver, reserved, others, margin
    size: int
    service: str = ""
    asleep: int = 0  # what its idle process keeps
    resident: bool = True  # False: in the worst case others of its router are loaded instead
    terms: Usage | None = None

    def as_dict(self) -> dict[str, t.Any]:
        data: dict[str, t.Any] = {"name": self.name, "kind": self.kind, "bytes": self.size}
        if self.terms is not None:
            data |= {"service": self.service, "asleep": self.asleep, "resident": self.resident, "terms": self.terms.terms()}
        return data


@dataclass(frozen=True)
class Account:
    """One GPU, or main memory, and who takes what of it."""

    place: str  # gpu0, ram
    title: str  # GPU 0, RAM
    name: str
    total: int
    entries: tuple[Entry, ...]

    @property
    def free(self) -> int:
        """What is left in the worst case; negative: what is short."""
        return self.total - sum(entry.size for entry in self.entries if entry.resident)

    def as_dict(self) -> dict[str, t.Any]:
        unit = "RAM" if self.place == RAM else "VRAM"
        data = {"place": self.place, "title": self.title, "name": self.name, "total": self.total, "free": self.free, "unit": unit}
        return {**data, "entries": [entry.as_dict() for entry in self.entries]}


@dataclass(frozen=True)
class Deployment:
    """A demand as it will run. ``decided`` are the values that were left to us, ``options`` all that matter for memory."""

    model: str
    engine: str
    service: str
    gpus: tuple[int, ...]
    decided: Mapping[str, t.Any]
    options: Mapping[str, t.Any]
    why: tuple[str, ...]
    estimate: MemoryEstimate

    def as_dict(self) -> dict[str, t.Any]:
        estimate = {"devices": [usage.terms() for usage in self.estimate.devices], "host": self.estimate.host.terms()}
        return {
            "model": self.model,
            "engine": self.engine,
            "service": self.service,
            "gpus": list(self.gpus),
            "decided": dict(self.decided),
            "options": dict(self.options),
            "why": list(self.why),
            "estimate": estimate,
            "notes": list(self.estimate.notes),
        }


@dataclass(frozen=True)
class Setting:
    """New values for the options of one model; an empty ``model`` means the host's own variables."""

    model: str
    values: Mapping[str, t.Any]


@dataclass(frozen=True)
class Change:
    """One way out of a refusal; with more than one setting all of them are needed."""

    settings: tuple[Setting, ...]
    message: str

    def as_dict(self) -> dict[str, t.Any]:
        first, *more = [{"model": setting.model, "set": dict(setting.values)} for setting in self.settings]
        return {**first, "message": self.message, **({"more": more} if more else {})}


@dataclass(frozen=True)
class Refusal:
    """Why it cannot be. ``shortfall`` is 0 where memory is not the reason."""

    place: str
    shortfall: int
    message: str
    changes: tuple[Change, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        data = asdict(self)
        return {**data, "changes": [change.as_dict() for change in self.changes]}


@dataclass(frozen=True)
class Plan:
    """The answer for one host."""

    host: str
    source: str
    accounts: tuple[Account, ...]
    deployments: tuple[Deployment, ...]
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.refusals

    def as_dict(self) -> dict[str, t.Any]:
        """The plan as plain data, as modules return it and reports read it."""
        return {
            "host": self.host,
            "source": self.source,
            "fits": self.fits,
            "accounts": [account.as_dict() for account in self.accounts],
            "deployments": [deployment.as_dict() for deployment in self.deployments],
            "refusals": [refusal.as_dict() for refusal in self.refusals],
            "warnings": list(self.warnings),
        }
