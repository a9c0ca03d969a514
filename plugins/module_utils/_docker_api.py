# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The few questions that we ask a Docker engine, over its socket and without a library."""

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
        # Engines refuse versions of the API that are too old or too new for them, and name their own in every answer.
        self._version = self._version or self._ask("/_ping")[2]
        status, body, _version = self._ask(f"/v{self._version}{path}" if self._version else path)
        if status == 404 and gone_is_none:
            return None
        if status != 200:
            raise DockerError(f"The Docker engine at {self._path} answers {status} to {path.partition('?')[0]}: {body.decode(errors='replace').strip()}")
        return json.loads(body)

    def _ask(self, path: str) -> tuple[int, bytes, str]:
        connection = _Connection(self._path, _SECONDS)
        try:
            connection.request("GET", path)
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
