# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a tiny Llama in the format of model hubs: real files for the real vLLM, where no hub can be reached.

Two layers with random weights and a BPE tokenizer trained on a few hundred words. As the GGUF of tiny_gguf.py it says words without a
meaning and never ends by itself: a reply is always as long as the request's max_tokens (or the context). Equal arguments give equal bytes.

    python tests/models/tiny_safetensors.py DIRECTORY [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import typing as t

import numpy as np
from safetensors.numpy import save_file
from tiny_gguf import TEMPLATE, WORDS  # type: ignore[import-not-found]
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

LAYERS = 2
WIDTH = 256
HEADS = 4  # 64 wide each
KV_HEADS = 2  # so that two processes can share them
FEED_FORWARD = 512
CONTEXT = 8192
SPECIAL = ("<unk>", "<s>", "</s>")

Tensors = dict[str, np.ndarray[t.Any, t.Any]]


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all bytes, so any prompt can be read
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=[AddedToken(token, special=True) for token in SPECIAL], initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return made


def tensors(seed: int, speakable: np.ndarray[t.Any, t.Any]) -> Tensors:
    # RandomState's streams are frozen for good, unlike those of numpy's newer generators.
    random = np.random.RandomState(seed)
    head = WIDTH // HEADS

    def weights(rows: int, columns: int) -> np.ndarray[t.Any, t.Any]:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def into_residual(columns: int) -> np.ndarray[t.Any, t.Any]:
        matrix = weights(WIDTH, columns)
        matrix[0] = 0
        return matrix

    # The first dimension of the residual stream is a constant that no layer writes to. Through it the output pushes down everything but
    # words: bytes would print as garbage, an end would make replies of random length.
    embedding, output = weights(len(speakable), WIDTH) * 10, weights(len(speakable), WIDTH) * 10
    embedding[:, 0] = 4
    output[:, 0] = 0
    output[~speakable] = 0
    output[~speakable, 0] = -1000
    result = {"model.embed_tokens.weight": embedding, "lm_head.weight": output, "model.norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        block = {
            "input_layernorm": np.ones(WIDTH, np.float32),
            "self_attn.q_proj": weights(WIDTH, WIDTH),
            "self_attn.k_proj": weights(KV_HEADS * head, WIDTH),
            "self_attn.v_proj": weights(KV_HEADS * head, WIDTH),
            "self_attn.o_proj": into_residual(WIDTH),
            "post_attention_layernorm": np.ones(WIDTH, np.float32),
            "mlp.gate_proj": weights(FEED_FORWARD, WIDTH),
            "mlp.up_proj": weights(FEED_FORWARD, WIDTH),
            "mlp.down_proj": into_residual(FEED_FORWARD),
        }
        result.update({f"model.layers.{layer}.{name}.weight": tensor for name, tensor in block.items()})
    return result


def config(vocabulary: int) -> dict[str, t.Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write(directory: str | pathlib.Path, seed: int = 1) -> None:
    """Write the model into ``directory``, which is made."""
    place = pathlib.Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    words = sorted(made.get_vocab().items(), key=lambda item: item[1])
    # In a byte-level vocabulary a G with a dot is the blank in front of a word.
    speakable = np.array([token.startswith("\u0120") and len(token) > 2 for token, _index in words])
    made.save(str(place / "tokenizer.json"))
    save_file(tensors(seed, speakable), place / "model.safetensors", metadata={"format": "pt"})
    documents = {
        "config.json": config(len(words)),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": SPECIAL[0],
            "bos_token": SPECIAL[1],
            "eos_token": SPECIAL[2],
            "model_max_length": CONTEXT,
            "chat_template": TEMPLATE,
        },
    }
    for name, content in documents.items():
        (place / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in place.iterdir():
        file.chmod(0o644)  # safetensors gives its files to their owner alone


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random-weight Llama as safetensors.")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.directory, arguments.seed)


if __name__ == "__main__":
    main()
