"""Stand-in for a model hub: the part of the Hugging Face Hub's HTTP API that huggingface_hub needs to fetch files.

It serves DIRECTORY/<owner>/<repository>/<file>. Files that end in .gguf or .safetensors are kept as the hub keeps large
files: listed with their SHA-256 and sent by another server (the "CDN") to which the address redirects. Every repository
has the one branch ``main``. Run by hand: ``hub.py DIRECTORY --port 8000 --private owner/repository=TOKEN``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".gguf", ".safetensors")
MIRRORED = "/huggingface.co"  # it is also a mirror of the public hub
_API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|paths-info)/([^/]+)")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class HubDouble:
    """The hub and its CDN, on two ports. ``requests`` holds (server, method, path, headers) of all requests."""

    def __init__(
        self,
        directory: Path,
        *,
        private: dict[str, str] | None = None,
        bind: str = "127.0.0.1",
        port: int = 0,
        bytes_per_second: int = 0,
        xet: bool = False,
    ) -> None:
        self.directory = directory
        self.private = private or {}
        self.bytes_per_second = bytes_per_second
        self.xet = xet  # says that large files are in Xet storage, but sends them over HTTP all the same
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        self._servers = [
            ThreadingHTTPServer((bind, port), _handler(self, "hub", _Hub)),
            ThreadingHTTPServer((bind, port + 1 if port else 0), _handler(self, "cdn", _CDN)),
        ]
        self.url, self.cdn_url = [f"http://{bind}:{server.server_address[1]}" for server in self._servers]
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def commit(self, repo: str) -> str:
        """Stands for the repository's content, as a git commit would."""
        digest = hashlib.sha1(repo.encode())
        for path in sorted(p for p in (self.directory / repo).rglob("*") if p.is_file()):
            digest.update(str(path).encode() + path.read_bytes())
        return digest.hexdigest()

    def names(self, repo: str) -> list[str]:
        directory = self.directory / repo
        return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())

    def file(self, repo: str, path: str) -> Path | None:
        found = self.directory / repo / path
        return found if found.is_file() and ".." not in path else None


def _handler(hub: HubDouble, name: str, base: type[_Answers]) -> type[_Answers]:
    return type(name, (base,), {"hub": hub, "name": name})


class _Answers(BaseHTTPRequestHandler):
    hub: HubDouble
    name: str

    def do_GET(self) -> None:
        self.hub.requests.append((self.name, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        path = unquote(urlsplit(self.path).path)
        self.respond(path[len(MIRRORED) :] if path.startswith(MIRRORED + "/") else path)

    do_HEAD = do_GET
    do_POST = do_GET

    def respond(self, path: str) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        rate = self.hub.bytes_per_second
        step = rate // 10 or len(body) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            if rate:
                time.sleep(0.1)

    def log_message(self, format: str, *args: t.Any) -> None:
        pass


class _Hub(_Answers):
    def respond(self, path: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        api, resolve = _API.fullmatch(path), _RESOLVE.fullmatch(path)
        repo, revision = (api[1], api[3]) if api else (resolve[1], resolve[2]) if resolve else ("", "")
        token = self.hub.private.get(repo)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self.send(401, b'{"error": "Invalid username or password."}', X_Error_Code="RepoNotFound")
        elif not repo or not (self.hub.directory / repo).is_dir():
            self.send(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
        elif revision not in ("main", self.hub.commit(repo)):
            self.send(404, b'{"error": "Invalid rev id"}', X_Error_Code="RevisionNotFound")
        elif api:
            siblings = [{"rfilename": name} for name in self.hub.names(repo)]
            answer: t.Any = {"id": repo, "modelId": repo, "sha": self.hub.commit(repo), "tags": [], "siblings": siblings}
            if api[2] == "paths-info":
                answer = [info for info in (self._info(repo, name) for name in parse_qs(body).get("paths", [])) if info]
            self.send(200, json.dumps(answer).encode(), Content_Type="application/json")
        elif resolve:
            self._resolve(repo, resolve[3])

    def _info(self, repo: str, path: str) -> dict[str, t.Any] | None:
        file = self.hub.file(repo, path)
        if not file:
            return None
        content = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        info: dict[str, t.Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path.endswith(LARGE):
            info["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            if self.hub.xet:
                info["xetHash"] = info["lfs"]["oid"]
        return info

    def _resolve(self, repo: str, path: str) -> None:
        file = self.hub.file(repo, path)
        if not file:
            self.send(404, b"", X_Error_Code="EntryNotFound")
        elif path.endswith(LARGE):
            content = file.read_bytes()
            self.send(
                302,
                Location=f"{self.hub.cdn_url}/{repo}/{path}?Signature=short-lived",
                X_Repo_Commit=self.hub.commit(repo),
                X_Linked_ETag=f'"{hashlib.sha256(content).hexdigest()}"',
                X_Linked_Size=str(len(content)),
            )
        else:
            content = file.read_bytes()
            self.send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')


class _CDN(_Answers):
    def respond(self, path: str) -> None:
        if "Authorization" in self.headers:
            self.send(400, b"a signed address takes no token")
            return
        content = (self.hub.directory / path.lstrip("/")).read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        span = _RANGE.fullmatch(self.headers.get("Range", ""))
        if span and self.headers.get("If-Range", etag) == etag:
            start = int(span[1])
            if start >= len(content):
                self.send(416, Content_Range=f"bytes */{len(content)}")
                return
            part = content[start : int(span[2]) + 1 if span[2] else None]
            self.send(206, part, ETag=etag, Content_Range=f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        else:
            self.send(200, content, ETag=etag)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="the CDN gets the next one")
    parser.add_argument("--private", action="append", default=[], metavar="REPOSITORY=TOKEN")
    parser.add_argument("--bytes-per-second", type=int, default=0)
    options = parser.parse_args()
    private = dict(entry.split("=", 1) for entry in options.private)
    HubDouble(
        options.directory,
        private=private,
        bind=options.bind,
        port=options.port,
        bytes_per_second=options.bytes_per_second,
    )
    threading.Event().wait()


if __name__ == "__main__":
    main()
