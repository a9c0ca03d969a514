# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The models of a running llama.cpp router: which are loaded, and a wait until they are."""

from __future__ import annotations

import json
import time
import typing as t
import urllib.error
import urllib.request
from collections.abc import Callable

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError

POLL = 0.25  # seconds
ANSWER = 10  # seconds that one request may take
START = 60  # seconds in which the router must answer for the first time: a crash loop need not be watched for longer
GRACE = 3  # seconds after its first answer in which the router begins to load by itself what it loads at start-up
SERVING = ("loaded", "sleeping")  # a sleeping model wakes at its next request


class RouterError(LLMError):
    """The router answers, but not as it should."""


class ModelFailed(RouterError):
    """A model cannot be loaded."""

    def __init__(self, model: str, port: str, message: str) -> None:
        super().__init__(message)
        self.model = model
        self.port = port  # with it the router marks the model's lines in its log


class Router:
    """The management API of one router."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        # a proxy of the environment is for the world outside, never for our own services
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def models(self) -> dict[str, dict[str, t.Any]]:
        """Name -> status. Asking wakes no model and keeps none awake."""
        return {entry["id"]: entry["status"] for entry in self._call("/models")["data"]}

    def load(self, model: str) -> None:
        """Begin to load the model; whether that succeeds, its status will tell."""
        try:
            self._call("/models/load", {"model": model})
        except urllib.error.HTTPError as exc:
            if exc.code != 400:  # 400: it began by itself in the meantime
                raise RouterError(f"the router answers {exc.code} to loading the model {model}") from exc

    def _call(self, path: str, body: dict[str, t.Any] | None = None) -> t.Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data=data, headers=self._headers)  # noqa: S310 - http, to our own service
        with self._opener.open(request, timeout=ANSWER) as answer:
            return json.load(answer)


def wait_until_loaded(
    router: Router,
    names: t.Sequence[str],
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Wait until the router serves all these models; return those that it had to be asked for.

    One that is not loaded, because it failed or made room for another, is asked for once; its next failure is final.
    """
    begin = clock()
    answered_since = 0.0
    asked: list[str] = []
    while True:
        try:
            models = router.models()
        except urllib.error.HTTPError as exc:
            if exc.code != 503:  # 503: still starting
                raise RouterError(f"the router answers {exc.code} to GET /models; is its API key the right one?") from exc
            state = "it is still starting"
        except (OSError, ValueError, KeyError) as exc:
            state = f"no answer ({exc})"
        else:
            answered_since = answered_since or clock()
            waiting = {name: status for name, status in _pick(models, names).items() if status["value"] not in SERVING}
            if not waiting:
                return asked
            for name, status in waiting.items():
                if name in asked:
                    _refuse_failed(name, status)
                elif status.get("failed") or (status["value"] == "unloaded" and clock() - answered_since > GRACE):
                    router.load(name)
                    asked.append(name)
            state = "not loaded yet: " + ", ".join(f"{name} ({status['value']})" for name, status in waiting.items())
        if not answered_since and clock() >= begin + min(START, timeout):
            raise RouterError(f"the router does not run: {state}")
        if clock() >= begin + timeout:
            raise RouterError(f"the router did not load all models within {timeout:g} s: {state}")
        sleep(POLL)


def _pick(models: dict[str, dict[str, t.Any]], names: t.Sequence[str]) -> dict[str, dict[str, t.Any]]:
    for name in names:
        if name not in models:
            known = ", ".join(sorted(models)) or "none"
            raise RouterError(f"the router does not know the model {name}; it knows: {known}")
    return {name: models[name] for name in names}


def _refuse_failed(name: str, status: dict[str, t.Any]) -> None:
    if status.get("failed"):
        arguments = status.get("args", [])
        port = arguments[arguments.index("--port") + 1] if "--port" in arguments else ""
        code = status.get("exit_code")
        raise ModelFailed(name, port, f"the model {name} cannot be loaded: its process ended with exit code {code}")


def complaints(log: str, port: str) -> list[str]:
    """What the process of one model complained about in the router's log, without the time stamps."""
    found = []
    for line in log.splitlines():
        _before, _mark, text = line.partition(f"[{port}] ")
        if text.startswith("error"):  # before its logger runs
            found.append(text)
        elif text.split(" ", 2)[1:2] == ["E"]:
            found.append(text.split(" ", 2)[2].strip())
    return list(dict.fromkeys(found))[-8:]
