# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask a model through the front door: its tokens as they arrive, then the figures, then the same without a key.

    demo/stream.py --url https://127.0.0.1:8443 --ca ca.crt --key-file keys/demo --model demo --prompt 'Hello?'

Exit code: 0 all well, 1 no complete answer, 2 wrong arguments, 3 the tokens came in a heap, 4 not turned away without a key.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".collections"))

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._pace import HEAP, Pace, explain, milliseconds
from ansible_collections.baremetal.llm.plugins.module_utils._stream import (
    Endpoint,
    Question,
    refusal,
    stream,
)

NO_ANSWER, HEAPED, OPEN_DOOR = 1, 3, 4
TURNED_AWAY = (401, 429)  # 429: too many have tried without a key just now
BOLD, DIM, GREEN, RED = "1", "2", "32", "31"


def paint(style: str, text: str) -> str:
    """Coloured on a terminal, and only there."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{style}m{text}\033[0m"


def say(text: str) -> None:
    print(text, end="", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stream an answer through the front door and time it.")
    parser.add_argument("--url", required=True, help="the front door, for example https://127.0.0.1:8443")
    parser.add_argument("--ca", type=Path, help="the certificate authority to trust (default: the system's)")
    parser.add_argument("--server-name", help="the name in the certificate (default: the host of the URL)")
    parser.add_argument("--key-file", type=Path, required=True, help="file with the API key")
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for the whole answer")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    return parser.parse_args()


def row(name: str, value: str) -> None:
    print(f"  {paint(DIM, name.ljust(20))} {value}")


def report(pace: Pace) -> None:
    speed = "-" if pace.tokens_per_second is None else f"{pace.tokens_per_second:.0f}"
    row("time to first token", milliseconds(pace.first_token))
    row("tokens per second", f"{speed} ({pace.tokens} tokens in {pace.total:.2f} s)")
    row("gap between tokens", f"median {milliseconds(pace.gap_median)}, longest {milliseconds(pace.gap_max)}")
    row("tokens came", paint(RED if pace.delivery == HEAP else GREEN, explain(pace)))


def main() -> int:
    given = arguments()
    try:
        key = given.key_file.read_text().strip()
    except OSError as exc:
        print(f"The key cannot be read from {given.key_file} ({exc.strerror}).", file=sys.stderr)
        return 2
    try:
        endpoint = Endpoint(
            given.url,
            api_key=key,
            ca_file=str(given.ca) if given.ca else None,
            server_name=given.server_name,
            timeout=given.timeout,
        )
        question = Question(given.model, given.prompt, given.max_tokens)
        if not given.json:
            print(f"{paint(BOLD, given.model)} {paint(DIM, 'at ' + given.url)}\n{paint(DIM, '>')} {given.prompt}\n")
        answer = stream(endpoint, question, on_token=None if given.json else say)
        if not given.json:
            print("\n")
            report(answer.pace)
        stranger = refusal(endpoint, question)
    except LLMError as exc:
        print(f"\n{exc}", file=sys.stderr)
        return NO_ANSWER

    status = stranger.status if stranger else 200
    if given.json:
        print(json.dumps({**dataclasses.asdict(answer), "without_key": status}, indent=2))
    else:
        style = GREEN if status in TURNED_AWAY else RED
        row("without a key", paint(style, f"{status} {http.client.responses.get(status, '')}"))
    if status not in TURNED_AWAY:
        return OPEN_DOOR
    return HEAPED if answer.pace.delivery == HEAP else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
