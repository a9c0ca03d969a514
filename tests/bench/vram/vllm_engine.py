# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# mypy: ignore-errors
"""Starts a real vLLM engine on the CPU with random weights and tells the cache that it made. Runs in vLLM's environment, see vllm.py.

    VLLM_CPU_KVCACHE_SPACE=GiB python vllm_engine.py MODEL_DIRECTORY MAX_MODEL_LEN
"""

import json
import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

from vllm import LLM, TokensPrompt


def main():
    directory, length = sys.argv[1], int(sys.argv[2])
    engine = LLM(
        model=directory, skip_tokenizer_init=True, load_format="dummy", enforce_eager=True, max_model_len=length, max_num_batched_tokens=2048, max_num_seqs=8
    )
    engine.generate(TokensPrompt(prompt_token_ids=list(range(1, 50))), use_tqdm=False)  # the cache is used, not only made
    cache = engine.llm_engine.vllm_config.cache_config
    told = {"tokens": cache.kv_cache_size_tokens, "blocks": cache.num_gpu_blocks, "state": cache.mamba_ssm_cache_dtype, "mode": cache.mamba_cache_mode}
    print("ANSWER " + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
