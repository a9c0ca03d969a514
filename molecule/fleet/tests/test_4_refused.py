"""Mistakes in the inventory: site.yml says what is wrong, where and what to do, before it changes anything anywhere."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ADDRESSES, LLAMA, VLLM, Fleet, Run  # type: ignore[import-not-found]


class Case(t.NamedTuple):
    file: str
    change: t.Callable[[t.Any], t.Any]
    because: tuple[str, ...]


def long(**options: t.Any) -> t.Callable[[t.Any], t.Any]:
    return lambda variables: variables["llm_models"]["long"].update(options)


def too_large(variables: dict[str, t.Any]) -> None:
    """30 billion parameters, all on a board of 12 GiB."""
    model = {"source": "file:/srv/llm/mirror/qwen3_30b.gguf", "sha256": "0" * 64, "context": 16384, "n_cpu_moe": 0}
    variables["llm_models"]["chat"].update(model)
    variables["llm_gpus"] = "{{ [{'name': 'RTX A2000 12GB'}] if inventory_hostname is search('llama') else [] }}"


ALL = "group_vars/all.yml"
CASES = {
    "a route to a model that nobody serves": Case(
        ALL,
        lambda variables: variables["llm_routes"]["auto"]["models"].append({"model": "coder"}),
        ("llm_routes.auto.models has coder, which no host serves", "there is: chat, long"),
    ),
    "two hosts with one address": Case(
        f"host_vars/{LLAMA}.yml",
        lambda variables: variables.update(llm_address=ADDRESSES[VLLM]),
        (LLAMA, VLLM, ADDRESSES[VLLM]),
    ),
    "a flag that vLLM no longer has": Case(ALL, long(extra={"swap-space": 4}), (VLLM, "swap-space", "which vLLM no longer has", "kv_offload")),
    "a flag that vLLM never had": Case(ALL, long(extra={"max-model-length": 1024}), (VLLM, "max-model-length", "max-model-len")),
    "a quantization without its plugin": Case(ALL, long(quantization="bitsandbytes"), (VLLM, "bitsandbytes", "vllm-bnb-plugin")),
    "a model that the GPU cannot hold": Case(ALL, too_large, (LLAMA, "GPU 0", "MiB short", "n_cpu_moe")),
}


@pytest.fixture(scope="module")
def runs(fleet: Fleet) -> dict[str, Run]:
    """Two at a time: a run waits for other processes most of its time."""

    def refused(case: Case) -> Run:
        with fleet.mistaken(case.file, case.change) as copy:
            return copy.site()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(refused, CASES.values())))


@pytest.mark.parametrize("mistake", CASES)
def test_it_is_refused(runs: dict[str, Run], mistake: str) -> None:
    run, case = runs[mistake], CASES[mistake]
    assert run.rc != 0
    said = "\n".join(f"{where}: {message}" for where, message in run.failed.items())
    for text in case.because:
        assert text in said, said
    assert run.changed_hosts() == set(), run.changed
