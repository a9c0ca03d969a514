# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a plan is refused, and the changes nearest to what was asked with which it would not be; each one was planned again."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Iterator, Mapping, Sequence

from ansible_collections.baremetal.llm.plugins.module_utils._ledger_answer import counted, no_tensor_parallel, title
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_book import PLACE, Book, Running
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_changes import MODELS_MAX, Proposal, proposals, steps
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_place import fit_for_tensor_parallel
from ansible_collections.baremetal.llm.plugins.module_utils._ledger_words import RAM, VLLM, Account, Change, Refusal, Setting
from ansible_collections.baremetal.llm.plugins.module_utils._vram import mib, shown
from ansible_collections.baremetal.llm.plugins.module_utils._vram_fit import fewest
from ansible_collections.baremetal.llm.plugins.module_utils._vram_llama import LlamaSettings

MOST_CHANGES = 5  # in one refusal
MOST_TOGETHER = 12  # whoever would have to change more than that makes a new plan instead
_NAMED = 6  # takers in one sentence

Replan = Callable[[Sequence[Proposal]], t.Optional[Book]]  # None: the engine or the ledger refuses these values


def refusals(book: Book, replan: Replan) -> tuple[Refusal, ...]:
    accounts = {account.place: account for account in book.accounts()}
    return (
        *(_divided(book, running) for running in book.running.values() if not fit_for_tensor_parallel(book, _divided_over(running))),
        *(_too_little_cache(book, number, replan) for number, running in sorted(book.running.items()) if running.lacking),
        *(_short(book, accounts[place], replan) for place in book.short()),
    )


def _short(book: Book, account: Account, replan: Replan) -> Refusal:
    place, shortfall = account.place, -account.free
    changes = tuple(_found(book, place, replan)) or tuple(_together(book, place, replan))
    message = f"{book.machine.host}: {_called(account)} is {counted(mib(shortfall))} MiB short: {_takers(account)}.{_strangers(book, account)}"
    message += _undivided(book, account)
    if not changes:
        message += _hopeless(book, account)
    return Refusal(place, shortfall, message, changes)


def _found(book: Book, place: str, replan: Replan) -> Iterator[Change]:
    """Single changes that end it and begin nothing new, in the order of what they cost."""
    given: list[Proposal] = []
    for proposal in sorted(proposals(book, place), key=lambda proposal: proposal.loss):
        if any(one.number == proposal.number and set(one.values) < set(proposal.values) for one in given):
            continue  # a part of it is enough
        after = replan([proposal])
        if after is not None and _helps(book, place, after):
            yield Change((_setting(book, proposal),), f"{_says(book, proposal)}{_saves(book, after, place, proposal)}")
            given.append(proposal)
            if len(given) == MOST_CHANGES:
                return


def _together(book: Book, place: str, replan: Replan) -> Iterator[Change]:
    """Where no single change is enough: as many of them as it takes, and then without those that were not needed."""
    all_steps = list(steps(book, place))

    def enough(chosen: Sequence[Proposal]) -> bool:
        after = replan(chosen) if chosen else None
        return after is not None and _helps(book, place, after)

    count = fewest(1, len(all_steps), lambda count: enough(all_steps[:count]))
    if count is None or count > MOST_TOGETHER:
        return
    chosen = all_steps[:count]
    for proposal in all_steps[:count]:
        fewer = [other for other in chosen if other is not proposal]
        if enough(fewer):
            chosen = fewer
    yield Change(_merged(book, chosen), "together: " + "; ".join(_says(book, proposal) for proposal in chosen))


def _helps(before: Book, place: str, after: Book) -> bool:
    lacking = {number for number, running in before.running.items() if running.lacking}
    return (
        place not in after.short()
        and set(after.short()) <= set(before.short())
        and all(not running.lacking or number in lacking for number, running in after.running.items())
        and all(fit_for_tensor_parallel(after, _divided_over(running)) for running in after.running.values())
    )


def _too_little_cache(book: Book, number: int, replan: Replan) -> Refusal:
    running = book.running[number]
    options, model = running.wish.demand.options, running.wish.demand.model
    said = next(word for word in ("kv_cache_memory", "gpu_memory_utilization") if word != "kv_cache_memory" or running.wish.utilization is None)
    tokens, place = running.wish.ladder[running.rung][0], running.places[0]
    each = " on each GPU" if running.gpus else ""
    message = (
        f"{book.machine.host}: {model} has {said}: {options.get(said)}, which is {counted(mib(running.lacking))} MiB too little{each} for the cache "
        f"of one request of {tokens} tokens"
    )
    changes = []
    for proposal in sorted(proposals(book, place), key=lambda proposal: proposal.loss):
        after = replan([proposal]) if proposal.number == number else None
        if after is not None and not after.running[number].lacking and not after.short():
            changes.append(Change((_setting(book, proposal),), _says(book, proposal)))
    return Refusal(place, running.lacking, f"{message}.", tuple(changes[:MOST_CHANGES]))


def _divided(book: Book, running: Running) -> Refusal:
    """The user asked for tensor parallelism over GPUs that cannot."""
    reason = no_tensor_parallel(book, running, running.gpus)
    said = f"tensor_parallel: {len(running.gpus)} over GPUs {', '.join(map(str, running.gpus))}"
    return Refusal(PLACE.format(running.gpus[0]), 0, f"{book.machine.host}: {running.wish.demand.model} has {said}, but {reason}.")


def _divided_over(running: Running) -> tuple[int, ...]:
    return () if isinstance(running.settings, LlamaSettings) else running.gpus


def _called(account: Account) -> str:
    return f"{'main memory' if account.place == RAM else f'{account.title} ({account.name})'} with {shown(account.total)}"


def _takers(account: Account) -> str:
    entries = sorted((entry for entry in account.entries if entry.resident), key=lambda entry: -entry.size)
    named = [f"{'other processes' if entry.kind == 'others' else entry.name} {shown(entry.size)}" for entry in entries[:_NAMED]]
    rest = sum(entry.size for entry in entries[_NAMED:])
    return ", ".join([*named, *([f"{len(entries) - _NAMED} more {shown(rest)}"] if rest else [])])


def _strangers(book: Book, account: Account) -> str:
    if account.place == RAM or not any(entry.kind == "others" for entry in account.entries):
        return ""
    device = book.devices[account.place]
    largest_first = sorted(device.others, key=lambda process: (-process.memory, process.pid))
    named = ", ".join(f"{process.name} (pid {process.pid}) {mib(process.memory)} MiB" for process in largest_first)
    return f" The other processes are {named}: end them, or count them in llm_vram_reserved for GPU {device.index}."


def _undivided(book: Book, account: Account) -> str:
    """Why a model of vLLM stands there alone, where more GPUs were ours to use."""
    for running in book.running.values():
        wish, named = running.wish, running.wish.gpus or [device.index for device in book.machine.gpus]
        if wish.demand.engine == VLLM and wish.tensor_parallel is None and len(named) > len(running.gpus) == 1 and running.at(account.place).total:
            return f" {wish.demand.model} is not divided over several GPUs: {no_tensor_parallel(book, running, named)}."
    return ""


def _hopeless(book: Book, account: Account) -> str:
    """No change of ours helps; say what is too large."""
    there = [running for running in book.running.values() if running.at(account.place).total]
    taken = sum(entry.size for entry in account.entries if entry.kind != "model")
    if not there:
        return " No model of ours is there: lower the budgets or what is reserved."
    largest = max(there, key=lambda running: running.at(account.place).weights)
    weights, name = largest.at(account.place).weights, largest.wish.demand.model
    if weights > account.total - taken:
        can = shown(account.total - taken)
        return f" The weights of {name} alone ({shown(weights)}) are more than it can give ({can}): take a smaller model or quantisation."
    return f" Nothing that could be changed in the options is enough: place fewer models there, or a smaller quantisation of {name}."


def _setting(book: Book, proposal: Proposal) -> Setting:
    return Setting("" if proposal.number is None else book.running[proposal.number].wish.demand.model, proposal.values)


def _merged(book: Book, chosen: Sequence[Proposal]) -> tuple[Setting, ...]:
    """One setting for each model."""
    values: dict[str, dict[str, t.Any]] = {}
    for proposal in chosen:
        setting = _setting(book, proposal)
        values.setdefault(setting.model, {}).update(setting.values)
    return tuple(Setting(model, found) for model, found in values.items())


def _says(book: Book, proposal: Proposal) -> str:
    model = _setting(book, proposal).model
    told = ", ".join(f"{word}: {_shown(value)}" for word, value in proposal.values.items())
    return f"{f'{model}: ' if model else ''}{told}{proposal.remark}"


def _saves(before: Book, after: Book, place: str, proposal: Proposal) -> str:
    saved = after.free(place) - before.free(place)
    return f" (frees {shown(saved)} of {title(place)})" if saved > 0 and MODELS_MAX not in proposal.values else ""


def _shown(value: t.Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)
