# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a tiny GGUF model: a real file for the real llama.cpp, where no model hub can be reached.

A few Llama layers with random weights, so the words it says mean nothing; but it loads in a blink, keeps a KV
cache of every type, applies its chat template and streams printable words. It never ends by itself: a reply is
always as long as the request's max_tokens (or the context). Equal arguments give equal bytes.

    python tests/models/tiny_gguf.py OUT [--seed 1] [--name tiny] [--layers 2]
"""

from __future__ import annotations

import argparse
import pathlib
import typing as t

import gguf
import numpy as np

LAYERS = 2
WIDTH = 128
HEADS = 4  # 32 wide each: one block of every quantised KV type
KV_HEADS = 2
FEED_FORWARD = 256
CONTEXT = 8192

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

WORDS = """
a able about above after again air all along also always amber among an and animal answer any apple are around as ask
at autumn away back bank basket be beach because bed before begin behind below between big bird black blue boat body
book both bread bridge bright bring brown build but by call calm can candle car carry castle cat change child circle
city clear clock close cloud coat cold color come corner could country cup dance dark day deep desert dog door down
dream drift drink dry each early earth east easy eat end enough even evening every eye face fall family far farm fast
feather feel few field find fire first fish five floor flower fly follow food for forest four free friend from full
garden gentle give glass go gold good grass great green ground grow hand happy harbor hard hat have hear heart heavy
help her here high hill him his hold home honey horse hour house how hundred ice idea if in island it join journey
jump just keep kind kitchen lake lamp land language large last late laugh learn leave left letter light like lily line
listen little long look low make map maple many market meadow middle milk mind minute moon morning mountain mouse move
music name near never new next night north notice now number ocean of often old olive on one only open orange other
our out over own page paper part path people picture place plant play
""".split()  # noqa: SIM905


def vocabulary() -> tuple[list[str], list[int]]:
    """Tokens and their types: SentencePiece's specials, all 256 bytes (any prompt can be read), the words."""
    kind = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + [f"\u2581{word}" for word in WORDS]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL] * len(WORDS)
    return tokens, [int(item) for item in types]


def tensors(seed: int, speakable: np.ndarray[t.Any, t.Any], layers: int = LAYERS) -> dict[str, np.ndarray[t.Any, t.Any]]:
    # RandomState's streams are frozen for good, unlike those of numpy's newer generators.
    random = np.random.RandomState(seed)
    head = WIDTH // HEADS

    def weights(rows: int, columns: int) -> np.ndarray[t.Any, t.Any]:
        return (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def into_residual(columns: int) -> np.ndarray[t.Any, t.Any]:
        matrix = weights(WIDTH, columns)
        matrix[0] = 0
        return matrix

    # The first dimension of the residual stream is a constant that no layer writes to. Through it the output
    # pushes down everything but words: bytes would print as garbage, an end would make replies of random length.
    embedding, output = weights(len(speakable), WIDTH) * 10, weights(len(speakable), WIDTH) * 10
    embedding[:, 0] = 4
    output[:, 0] = 0
    output[~speakable] = 0
    output[~speakable, 0] = -1000
    result = {"token_embd.weight": embedding, "output.weight": output, "output_norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(layers):
        block = {
            "attn_norm": np.ones(WIDTH, np.float32),
            "attn_q": weights(WIDTH, WIDTH),
            "attn_k": weights(KV_HEADS * head, WIDTH),
            "attn_v": weights(KV_HEADS * head, WIDTH),
            "attn_output": into_residual(WIDTH),
            "ffn_norm": np.ones(WIDTH, np.float32),
            "ffn_gate": weights(FEED_FORWARD, WIDTH),
            "ffn_up": weights(FEED_FORWARD, WIDTH),
            "ffn_down": into_residual(FEED_FORWARD),
        }
        result.update({f"blk.{layer}.{name}.weight": tensor for name, tensor in block.items()})
    return result


def write(path: str | pathlib.Path, seed: int = 1, name: str = "tiny", layers: int = LAYERS) -> None:
    """Write the model to ``path``, whose directory must exist."""
    tokens, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for key, tensor in tensors(seed, np.array(types) == int(gguf.TokenType.NORMAL), layers).items():
        writer.add_tensor(key, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random-weight GGUF model.")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="tiny")
    parser.add_argument("--layers", type=int, default=LAYERS, help="how large it is")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, args.seed, args.name, args.layers)


if __name__ == "__main__":
    main()
