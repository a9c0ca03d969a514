# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The little that we ask of a Docker engine, over its socket and without a library."""

from __future__ import annotations

import http.client
import json
import socket
import time
import typing as t
from pathlib import Path
from urllib.parse import quote

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

SOCKET = Path("/run/docker.sock")
_SECONDS = 30.0  # an engine under load lists its containers slowly
_STOP_SECONDS = 10  # the engine's own, where a container does not say


class DockerError(LLMError):
    """The engine refused a question, or did not answer."""


class NoDocker(DockerError):
    """Nobody listens at the socket."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Docker:
    """The engine at ``path``. Every method raises ``NoDocker`` if there is none, ``DockerError`` if it refuses."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._version = ""

    def running_containers(self, label: str = "") -> list[str]:
        """Ids of the running containers, paused ones included; with a label (``name`` or ``name=value``) of those that carry it."""
        filters = quote(json.dumps({"label": [label]} if label else {}))
        return [entry["Id"] for entry in self._get(f"/containers/json?filters={filters}")]

    def inspect(self, container: str) -> dict[str, t.Any] | None:
        """What the engine knows of a container; ``None`` if it has gone."""
        return self._get(f"/containers/{container}/json", gone_is_none=True)

    def image(self, reference: str) -> dict[str, t.Any] | None:
        """What the engine knows of an image (``name@sha256:...`` or an id); ``None`` if it does not have it."""
        return self._get(f"/images/{quote(reference, safe='/:@')}/json", gone_is_none=True)

    def engine_version(self) -> str:
        """Such as ``20.10.24+dfsg1``."""
        return str(self._get("/version")["Version"])

    def create(self, config: t.Mapping[str, t.Any]) -> str:
        """A container that does not run yet; returns its id."""
        return str(json.loads(self._act("POST", "/containers/create", (201,), config))["Id"])

    def run_once(self, container: str, seconds: float) -> tuple[int, str, str]:
        """Start a container, wait until it ends; its exit status and what it wrote to standard output and standard error."""
        self.start(container)
        status = json.loads(self._act("POST", f"/containers/{container}/wait", (200,), seconds=seconds))["StatusCode"]
        written = split_streams(self._act("GET", f"/containers/{container}/logs?stdout=1&stderr=1", (200,)))
        return int(status), written[1], written[2]

    def start(self, container: str) -> None:
        """One that runs is left alone."""
        self._act("POST", f"/containers/{container}/start", (204, 304))

    def stop(self, container: str) -> None:
        """Let it end what it is doing, for its own stop timeout. One that has gone is stopped."""
        if found := self.inspect(container):
            seconds = (found["Config"].get("StopTimeout") or _STOP_SECONDS) + 60
            self._act("POST", f"/containers/{container}/stop", (204, 304, 404), seconds=seconds)

    def remove(self, container: str) -> None:
        """With its anonymous volumes; one that runs is killed."""
        self._act("DELETE", f"/containers/{container}?force=1&v=1", (204, 404))

    def remove_image(self, reference: str) -> bool:
        """False if a container still uses it."""
        wanted = (200, 404)
        return self._ask(self._at(f"/images/{quote(reference, safe='/:@')}"), "DELETE")[0] in wanted

    def wait(self, seconds: float) -> None:
        """Return as soon as the engine answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._ask("/_ping")
                return
            except DockerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _get(self, path: str, gone_is_none: bool = False) -> t.Any:
        status, body, _version = self._ask(self._at(path))
        if status == 404 and gone_is_none:
            return None
        if status != 200:
            raise self._refusal(status, path, body)
        return json.loads(body)

    def _act(self, method: str, path: str, wanted: t.Collection[int], content: t.Any = None, seconds: float = _SECONDS) -> bytes:
        status, body, _version = self._ask(self._at(path), method, content, seconds)
        if status not in wanted:
            raise self._refusal(status, path, body)
        return body

    def _at(self, path: str) -> str:
        # Engines refuse versions of the API that are too old or too new for them, and name their own in every answer.
        self._version = self._version or self._ask("/_ping")[2]
        return f"/v{self._version}{path}" if self._version else path

    def _refusal(self, status: int, path: str, body: bytes) -> DockerError:
        return DockerError(f"The Docker engine at {self._path} answers {status} to {path.partition('?')[0]}: {body.decode(errors='replace').strip()}")

    def _ask(self, path: str, method: str = "GET", content: t.Any = None, seconds: float = _SECONDS) -> tuple[int, bytes, str]:
        connection = _Connection(self._path, seconds)
        body = None if content is None else json.dumps(content)
        try:
            connection.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers.get("Api-Version", "")
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoDocker(f"No Docker engine listens at {self._path}.") from None
        except PermissionError:
            raise DockerError(f"The Docker engine's socket {self._path} may not be opened by this user: run as root (become: true).") from None
        except (OSError, http.client.HTTPException) as exc:
            raise DockerError(f"The Docker engine at {self._path} does not answer: {exc}") from exc
        finally:
            connection.close()


def split_streams(log: bytes) -> dict[int, str]:
    """The text of each stream (1 standard output, 2 standard error) of a container's log: frames of a stream's number, three zeros, a length and bytes."""
    streams: dict[int, list[bytes]] = {1: [], 2: []}
    while len(log) >= 8:
        end = 8 + int.from_bytes(log[4:8], "big")
        streams.setdefault(log[0], []).append(log[8:end])
        log = log[end:]
    return {number: b"".join(parts).decode(errors="replace") for number, parts in streams.items()}


def has_cdi(version: str) -> bool:
    """Whether an engine hands GPUs out by CDI: from 25 on. Before that NVIDIA's runtime does."""
    return int(version.partition(".")[0]) >= 25
