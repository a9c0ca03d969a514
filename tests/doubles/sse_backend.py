"""Stand-in for LiteLLM: an HTTP server that streams, refuses and echoes on demand, to test what stands in front of it.

POST /v1/chat/completions with ``"stream": true`` sends ``max_tokens`` events, ``pause`` seconds apart; with
``"status": n`` it answers n in LiteLLM's shape, a 401 with what LiteLLM says of a key. It has one model, ``double``. Everything else is echoed: the
method, the raw path, the headers and the size of the body. Run by hand: ``sse_backend.py --port 4000``.
"""

from __future__ import annotations

import argparse
import json
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "double"
LEAK = "Authentication Error, Invalid proxy server token passed. Received API Key = sk-...abcd, Key Hash (Token) = 0123abcd"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = json.loads(body) if body[:1] == b"{" else {}
        if asked.get("model", MODEL) != MODEL:
            self.answer(400, {"error": {"message": f"Invalid model name {asked['model']}", "type": None, "param": None, "code": "400"}})
        elif "status" in asked:
            message = LEAK if asked["status"] == 401 else "litellm says no"
            self.answer(asked["status"], {"error": {"message": message, "type": "auth_error", "param": None, "code": "x"}})
        elif asked.get("stream"):
            self.stream(asked.get("max_tokens", 5), asked.get("pause", 0.01))
        else:
            models = [{"id": MODEL, "object": "model"}]
            self.answer(200, {"data": models, "method": self.command, "path": self.path, "headers": dict(self.headers), "size": len(body)})

    do_POST = do_GET

    def answer(self, status: int, content: dict[str, t.Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-LiteLLM-Model-Api-Base", "http://127.0.0.1:8081")
        self.end_headers()
        self.wfile.write(body)

    def stream(self, tokens: int, pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = [json.dumps({"choices": [{"index": 0, "delta": {"content": f"word{n} "}}]}) for n in range(tokens)]
        for event in [*events, "[DONE]"]:
            line = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: t.Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4000)
    options = parser.parse_args()
    ThreadingHTTPServer((options.bind, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
