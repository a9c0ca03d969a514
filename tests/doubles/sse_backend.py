"""Stand-in for LiteLLM or for an engine: an HTTP server that streams at a pace, refuses and echoes on demand, to test what stands in front of it.

POST /v1/chat/completions with ``"stream": true`` sends ``max_tokens`` events, ``pause`` seconds apart, the first one after ``first`` seconds; with
``"status": n`` it answers n in LiteLLM's shape, a 401 with what LiteLLM says of a key. Where LiteLLM stands between and takes such fields out, they
may be in the text of the last message, as JSON. Each event begins with the time when it was sent, so that whoever gets it on the same machine knows
how long it was on its way. Everything else is echoed: the method, the raw path, the headers and the size of the body. GET /open says how many
streams are open. One process holds thousands of them. Run by hand: ``sse_backend.py --port 4000``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import typing as t

MODEL = "double"
LEAK = "Authentication Error, Invalid proxy server token passed. Received API Key = sk-...abcd, Key Hash (Token) = 0123abcd"
open_streams = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            method, path, _version = first.split(" ", 2)
            headers = {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
            sizes = [value for name, value in headers.items() if name.lower() == "content-length"]
            body = await reader.readexactly(int(sizes[0])) if sizes else b""
            await answer(writer, method, path, headers, body)
            await writer.drain()
    writer.close()


async def answer(writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    asked = json.loads(body) if body[:1] == b"{" else {}
    if asked.get("model", MODEL) != MODEL:
        write(writer, 400, {"error": {"message": f"Invalid model name {asked['model']}", "type": None, "param": None, "code": "400"}})
        return
    asked |= wishes(asked)
    if "status" in asked:
        message = LEAK if asked["status"] == 401 else "litellm says no"
        write(writer, asked["status"], {"error": {"message": message, "type": "auth_error", "param": None, "code": "x"}})
    elif asked.get("stream"):
        await stream(writer, asked.get("max_tokens", 5), asked.get("pause", 0.01), asked.get("first", 0))
    elif path == "/open":
        write(writer, 200, {"open": open_streams})
    else:
        models = [{"id": MODEL, "object": "model"}]
        write(writer, 200, {"data": models, "method": method, "path": path, "headers": headers, "size": len(body)})


def wishes(asked: dict[str, t.Any]) -> dict[str, t.Any]:
    """What is asked of the stand-in in the text of the last message."""
    content = (asked.get("messages") or [{}])[-1].get("content")
    with contextlib.suppress(ValueError):
        found = json.loads(content) if isinstance(content, str) and content[:1] == "{" else {}
        return found if isinstance(found, dict) else {}
    return {}


def write(writer: asyncio.StreamWriter, status: int, content: dict[str, t.Any]) -> None:
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nX-LiteLLM-Model-Api-Base: http://127.0.0.1:8081\r\n\r\n"
    )
    writer.write(head.encode() + body)


async def stream(writer: asyncio.StreamWriter, tokens: int, pause: float, first: float) -> None:
    """The pace does not drift: each event has its time, however long the one before it took."""
    global open_streams  # noqa: PLW0603 - one number for the whole stand-in
    open_streams += 1
    try:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        due = time.monotonic() + first
        for number in range(tokens):
            await asyncio.sleep(max(0, due - time.monotonic()))
            if writer.is_closing():
                return
            event(writer, {"content": f"{time.time():.6f} word{number} "})
            await writer.drain()
            due += pause
        event(writer, {}, "stop")
        line = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
    finally:
        open_streams -= 1


def event(writer: asyncio.StreamWriter, delta: dict[str, str], finish: str | None = None) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    said = {"id": "double", "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL, "choices": [choice]}
    line = f"data: {json.dumps(said)}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(line), line))


async def run(bind: str, port: int) -> None:
    async with await asyncio.start_server(serve, bind, port, backlog=2048, limit=2**26) as server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4000)
    options = parser.parse_args()
    asyncio.run(run(options.bind, options.port))


if __name__ == "__main__":
    main()
