# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What vLLM 0.32 is told that changes how much memory it takes, and how many bytes its types have."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

_TYPES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
_FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")
_CACHE_TYPES = (
    *("auto", "float16", "bfloat16", *_FP8, "fp8_ds_mla", "nvfp4_ds_mla", "nvfp4", "nvfp4_4over6"),
    *("int8_per_token_head", "fp8_per_token_head", "int4_per_token_head"),
)


@dataclass(frozen=True)
class VllmSettings:
    """The options of ``vllm serve`` by their own names, every number explicit.

    The defaults are vLLM's; where vLLM chooses by the size of the GPU they are those of a GPU of less than 70 GiB
    (engine/arg_utils.py, get_batch_defaults).
    """

    max_model_len: int  # tokens of one sequence
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    tensor_parallel: int = 1  # GPUs of this host
    stages: int = 1  # --pipeline-parallel-size; the shape is then that of one stage (_vram_vllm_stage)
    copies: int = 1  # --data-parallel-size
    hosts: int = 1  # that share the model, with as many GPUs each
    kv_cache_dtype: str = "auto"
    block_size: int = 16  # tokens; attention backends may want more (64 with FlashMLA), and hybrids get a multiple
    dtype: str = "auto"
    enforce_eager: bool = False
    quantization: str = ""  # of weights that are not quantized in the files (fp8, mxfp8, ...)
    kv_cache_bytes: int | None = None  # --kv-cache-memory-bytes, per GPU; None: what one sequence of max_model_len needs
    prefix_caching: bool = True  # recurrent layers then keep two states for a sequence instead of one
    async_scheduling: bool = True  # two batches are then under way at a time
    hybrid_cache: bool = True  # False: --disable-hybrid-kv-cache-manager, where windows save nothing
    mamba_cache_dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    cpu_offload_bytes: int = 0  # --cpu-offload-gb, weights per GPU that stay in main memory
    cpu: bool = False  # vLLM for processors: everything lies in main memory, and there is no tensor parallelism to plan

    def __post_init__(self) -> None:
        least = {"max_model_len": 1, "max_num_seqs": 1, "max_num_batched_tokens": 1, "tensor_parallel": 1, "block_size": 1, "cpu_offload_bytes": 0}
        if min(self.stages, self.copies, self.hosts) < 1 or self.tensor_parallel * self.hosts % (self.stages * self.copies):
            text = f"{self.tensor_parallel} GPUs on each of {self.hosts} hosts cannot be divided into {self.stages} stages of {self.copies} copies"
            raise InputError(f"vLLM: {text}: correct pipeline_parallel or data_parallel.")
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"vLLM: {name} is {getattr(self, name)}, it must be at least {low}.")
        if self.kv_cache_dtype not in _CACHE_TYPES:
            raise InputError(f"vLLM: kv_cache_dtype is {self.kv_cache_dtype!r}, of which the size is not known here. Known: {', '.join(_CACHE_TYPES)}.")

    @property
    def degree(self) -> int:
        """Parts that each layer is divided into: vLLM's --tensor-parallel-size."""
        return self.tensor_parallel * self.hosts // (self.stages * self.copies)

    @property
    def tokens_in_flight(self) -> int:
        """Tokens that are scheduled and not settled yet (config/vllm.py, max_in_flight_tokens)."""
        return (2 if self.async_scheduling else 1) * self.max_num_batched_tokens


def model_bytes(settings: VllmSettings) -> int:
    """Of one number in weights that are not quantized, and in activations.

    vLLM runs a model of float32 in 16 bits as well if nothing is said (config/model.py, _get_and_verify_dtype).
    """
    return type_bytes(settings.dtype, 2)


def type_bytes(name: str, default: int) -> int:
    return _TYPES.get(name, default)


def head_bytes(key: int, value: int, settings: VllmSettings, fp8_scales: bool) -> int:
    """Bytes of one token in one head of one layer; ``value`` is 0 with MLA.

    Sources: v1/kv_cache_interface.py AttentionSpec.state_content_size_bytes; customize_spec of the backends triton_attn
    (a float32 scale beside keys and values) and flashinfer (NVFP4 with a scale for 16 numbers); MLAAttention.get_kv_cache_spec.
    """
    kind = settings.kv_cache_dtype
    if kind in ("fp8_ds_mla", "nvfp4_ds_mla"):
        if value:
            raise InputError(f"vLLM: kv_cache_dtype is {kind!r}, which only models with multi-head latent attention have. Use fp8.")
        return {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}[kind]
    if kind.startswith("nvfp4"):
        return sum(length // 2 + length // 16 for length in (key, value))
    if kind == "int4_per_token_head":
        return key // 2 + value // 2 + 8
    if kind.endswith("_per_token_head"):
        return key + value + 8
    if kind in _FP8 or (kind == "auto" and fp8_scales):
        return key + value
    return (key + value) * type_bytes(kind, model_bytes(settings))
