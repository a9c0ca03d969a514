# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ledger over the real estimates of published models. Figures are those of the estimates' own tests; here it is what is made of them."""

from __future__ import annotations

import time
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._ledger import LLAMA, VLLM, Demand, Device, Machine, Policy, plan
from ansible_collections.baremetal.llm.plugins.module_utils._model_shape import ModelShape
from ansible_collections.baremetal.llm.plugins.module_utils._model_source import ModelName, read_model
from ansible_collections.baremetal.llm.plugins.module_utils._vram import GIB, MIB
from ansible_collections.baremetal.llm.tests.unit.fixtures.models import published, safetensors

NAMES = ("qwen3_8b", "qwen3_30b", "gemma3_12b", "deepseek_v2_lite", "granite_h_tiny", "nomic_embed")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelShape]:
    where = tmp_path_factory.mktemp("models")
    found = {name: read_model(ModelName(str(published.write(published.FAMILIES[name](), where / f"{name}.gguf")))).shape for name in NAMES}
    config = safetensors.config("qwen3-8b")
    found["vllm"] = read_model(ModelName(str(safetensors.write(where / "qwen3-8b", config, safetensors.decoder(config))))).shape
    return found


def host(*gibibytes: float) -> Machine:
    gpus = tuple(Device(index, "board", int(size * GIB), 400 * MIB, compute_capability="8.9") for index, size in enumerate(gibibytes))
    return Machine("gpu01", gpus, 64 * GIB, (tuple(range(len(gpus))),))


def demand(model: str, what: ModelShape, **options: t.Any) -> Demand:
    return Demand(model, LLAMA, "llama-router", what, options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gpus", [(), (10,), (24,), (12, 12), (80, 80)])
def test_every_kind_of_model_gets_a_plan_that_adds_up(shapes: dict[str, ModelShape], name: str, gpus: tuple[float, ...]) -> None:
    found = plan(host(*gpus), [demand("chat", shapes[name])], {}, [], Policy())
    assert found.fits
    assert all(account.free >= 0 for account in found.accounts)
    options = found.deployments[0].options
    assert 2048 <= options["context"] <= shapes[name].context_length
    assert len(options["gpus"]) <= len(gpus)


def test_a_larger_board_never_gives_less(shapes: dict[str, ModelShape]) -> None:
    for name in ("qwen3_8b", "qwen3_30b", "gemma3_12b"):
        given = []
        for gibibytes in range(6, 48, 2):
            found = plan(host(gibibytes), [demand("chat", shapes[name])], {}, [], Policy())
            options = found.deployments[0].options
            given.append(options["context"] * options["parallel"] if found.fits else 0)
        assert given == sorted(given), name


def test_engines_of_two_kinds_fill_a_board_and_no_more(shapes: dict[str, ModelShape]) -> None:
    fast = Demand("fast", VLLM, "vllm-fast", shapes["vllm"], {})
    found = plan(host(80), [fast, demand("chat", shapes["qwen3_30b"]), demand("embed", shapes["nomic_embed"], embeddings=True)], {}, [], Policy())
    assert found.fits
    options = found.deployments[0].options
    assert 0 <= found.accounts[0].free < 64 * MIB
    assert options["gpu_memory_utilization"] * 80 * GIB <= found.deployments[0].estimate.devices[0].total
    assert options["kv_cache_memory"] > 4 * GIB


@pytest.mark.parametrize(
    ("options", "gpus", "degree"),
    [
        ({"gpus": [0], "hosts": ["gpu02"], "tensor_parallel": 1, "pipeline_parallel": 2}, (12,), 1),
        ({"gpus": [0], "hosts": ["gpu02"], "tensor_parallel": 2}, (12,), 2),
        ({"gpus": [0, 1], "hosts": ["gpu02"], "tensor_parallel": 2, "pipeline_parallel": 2}, (12, 12), 2),
        ({"gpus": [0, 1], "pipeline_parallel": 2}, (12, 12), 1),
        ({"gpus": [0, 1, 2, 3], "tensor_parallel": 2, "data_parallel": 2}, (12, 12, 12, 12), 2),
        ({"hosts": ["gpu02"], "tensor_parallel": 2}, (), 0),
    ],
)
def test_a_host_has_its_part_of_a_model_alone(
    shapes: dict[str, ModelShape], options: dict[str, t.Any], gpus: tuple[float, ...], degree: int
) -> None:
    """16 GiB of weights, which no board of 12 GiB holds."""
    found = plan(host(*gpus), [Demand("giant", VLLM, "vllm", shapes["vllm"], {"context": 8192, **options})], {}, [], Policy())
    assert found.fits, [refusal.message for refusal in found.refusals]
    (deployment,) = found.deployments
    assert len(deployment.estimate.devices) == len(gpus)
    assert deployment.options.get("tensor_parallel", 0) == degree
    part = sum(usage.weights for usage in deployment.estimate.devices) or deployment.estimate.host.weights
    whole = shapes["vllm"].bytes
    assert part < whole * options.get("data_parallel", 1) * (0.7 if "hosts" in options else 1.2)
    if gpus:
        alone = plan(host(*gpus[:1]), [Demand("giant", VLLM, "vllm", shapes["vllm"], {"context": 8192})], {}, [], Policy())
        assert not alone.fits


def test_advice_on_real_models_helps(shapes: dict[str, ModelShape]) -> None:
    options = {"context": 40960, "parallel": 8, "kv_cache": "f16", "gpus": [0]}
    found = plan(host(24, 24), [demand("chat", shapes["qwen3_8b"], **options)], {}, [], Policy())
    changes = found.refusals[0].changes
    assert len(changes) >= 3
    for change in changes:
        again = demand("chat", shapes["qwen3_8b"], **{**options, **change.settings[0].values})
        assert plan(host(24, 24), [again], {}, [], Policy()).fits, change.message


def test_a_large_host_is_planned_in_two_seconds(shapes: dict[str, ModelShape]) -> None:
    demands = [demand(f"{name}-{number}", shapes[name]) for number in range(2) for name in NAMES]
    plan(host(24), demands[:6], {}, [], Policy())  # the first look at a model's tensors is slower, and is not what is measured
    begin = time.process_time()
    assert plan(host(*[24] * 8), demands, {}, [], Policy()).fits
    assert time.process_time() - begin < 2


def test_what_an_engine_refuses_is_said_of_host_and_model(shapes: dict[str, ModelShape]) -> None:
    off = demand("chat", shapes["qwen3_8b"], kv_cache="q8_0", flash_attention="off")
    with pytest.raises(InputError, match="^gpu01: the model chat: cache_v is 'q8_0'.*flash attention"):
        plan(host(24), [off], {}, [], Policy())
    with pytest.raises(InputError, match="^gpu01: the model fast: .*kv_cache_dtype is 'q8_0'"):
        plan(host(24), [Demand("fast", VLLM, "vllm-fast", shapes["vllm"], {"kv_cache": "q8_0"})], {}, [], Policy())
