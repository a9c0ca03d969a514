# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The VRAM ledger of a host: who takes what of every GPU and of main memory, or why it cannot be.

The same question always gets the same answer: nothing depends on how much memory happens to be free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_advice import refusals
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_answer import deployment
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_auto import share_out
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import Book
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_changes import MODELS_MAX, Proposal
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_llama import llama_wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_place import settle
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_vllm import vllm_wish
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_wish import Wish, named
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import (
    LLAMA,
    RAM,
    VLLM,
    Account,
    Budget,
    Change,
    Demand,
    Deployment,
    Device,
    Entry,
    Machine,
    Plan,
    Policy,
    Process,
    Refusal,
    Setting,
)

__all__ = [
    "LLAMA",
    "RAM",
    "VLLM",
    "Account",
    "Budget",
    "Change",
    "Demand",
    "Deployment",
    "Device",
    "Entry",
    "Machine",
    "Plan",
    "Policy",
    "Process",
    "Refusal",
    "Setting",
    "plan",
]

_WISHES = {LLAMA: llama_wish, VLLM: vllm_wish}


def plan(machine: Machine, demands: Sequence[Demand], models_max: Mapping[str, int], budgets: Sequence[Budget], policy: Policy) -> Plan:
    """The plan of one host. ``models_max`` is per service of llama_router; a missing one means that all its models may be loaded together.

    First every deployment gets its GPUs and the least that it is of use with; if that does not fit, the plan has refusals. Then what is
    left is given to whatever was left to us. Raises InputError for options that no engine would take.
    """
    wishes = [_wish(demand, machine) for demand in demands]
    book = Book(machine, models_max, budgets, policy)
    settle(book, wishes)

    def replan(proposals: Sequence[Proposal]) -> Book | None:
        try:
            return _again(book, demands, proposals)
        except InputError:
            return None

    refused = refusals(book, replan)
    share_out(book)
    return Plan(
        machine.host,
        machine.source,
        book.accounts(),
        tuple(deployment(book, number) for number in range(len(demands))),
        refused,
        tuple(dict.fromkeys(warning for wish in wishes for warning in wish.warnings)),
    )


def _wish(demand: Demand, machine: Machine) -> Wish:
    if demand.engine not in _WISHES:
        raise InputError(f"{machine.host}: the model {demand.model} has the engine {demand.engine!r}; the ledger knows: {', '.join(_WISHES)}.")
    with named(machine.host, demand.model):
        return _WISHES[demand.engine](demand, machine)


def _again(book: Book, demands: Sequence[Demand], proposals: Sequence[Proposal]) -> Book:
    """The same host with other options."""
    models_max = {**book.models_max, **{proposal.service: proposal.values[MODELS_MAX] for proposal in proposals if proposal.number is None}}
    changed = list(demands)
    for proposal in proposals:
        if proposal.number is not None:
            demand = changed[proposal.number]
            changed[proposal.number] = replace(demand, options={**demand.options, **proposal.values})
    again = Book(book.machine, models_max, book.budgets, book.policy)
    settle(again, [_wish(demand, book.machine) for demand in changed])
    return again
