# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Talks to the oracle: many questions to one process, which is started again if a question kills it."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t
from pathlib import Path

GPUS = 4


class Place(t.NamedTuple):
    """Bytes on one device, or on the host, as llama.cpp divides them."""

    model: int
    context: int
    compute: int

    @property
    def total(self) -> int:
        return sum(self)


class Answer(t.NamedTuple):
    devices: tuple[Place, ...]
    host: Place

    @classmethod
    def of(cls, data: t.Mapping[str, t.Any]) -> Answer:
        return cls(tuple(Place(*one.values()) for one in data["devices"]), Place(*data["host"].values()))

    def over(self, devices: int, main: int) -> Answer:
        """On all ``devices``: with split mode none llama.cpp tells only of the one that it uses."""
        if len(self.devices) == devices:
            return self
        nothing = Place(0, 0, 0)
        return Answer(tuple(self.devices[0] if number == main else nothing for number in range(devices)), self.host)


class Refused(Exception):
    """llama.cpp does not run this; the text says why."""


class Oracle:
    """A running vram-oracle."""

    def __init__(self, program: Path) -> None:
        self.command = [str(program), str(GPUS)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process:
            self._process.communicate()

    def ask(self, question: t.Mapping[str, t.Any]) -> Answer:
        """What a model takes."""
        return Answer.of(self.put(question))

    def put(self, question: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """The answer as it comes."""
        if self._process is None:
            quiet = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # gdb's would stand between the answers
            pipes: dict[str, t.Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(self.command, **pipes, env=quiet, text=True)
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            status, self._process = self._process.wait(), None
            raise Refused(f"llama.cpp ended with status {status}")
        data: dict[str, t.Any] = json.loads(line)
        if "error" in data:
            raise Refused(data["error"].strip())
        return data
