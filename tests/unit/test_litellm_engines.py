# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the role litellm lets Prisma's query engines listen. With the real kernel, Nginx and LiteLLM: molecule/gateway_faults."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import socket
import sys
import types
import typing as t
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles/litellm/files/llm_engines.py"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[types.ModuleType]:
    """With rules in force, and ports that may be taken on this machine: four of them, the first is nobody's."""
    spec = importlib.util.spec_from_file_location("llm_engines", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("LLM_ENGINE_PORTS", "24100-24103")
    monkeypatch.setattr(module, "guarded", lambda: True)
    monkeypatch.setattr(module.threading, "Timer", Kept)
    monkeypatch.setattr(Kept, "held", [])
    yield module
    for name in Kept.held:
        name()


class Kept:
    """A timer whose time never comes."""

    held: t.ClassVar[list[t.Callable[[], None]]] = []

    def __init__(self, _seconds: float, release: t.Callable[[], None]) -> None:
        self.held.append(release)

    def start(self) -> None:
        pass


def test_no_two_engines_get_the_same_port_and_none_the_first(engines: types.ModuleType) -> None:
    assert {engines.claim() for _engine in range(3)} == {24101, 24102, 24103}
    with pytest.raises(engines.Unguarded, match="None of the ports 24101 to 24103 is free for a query engine: litellm_engine_ports"):
        engines.claim()


def test_a_port_on_which_somebody_listens_is_not_free(engines: types.ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 24102)):
        assert {engines.claim() for _engine in range(2)} == {24101, 24103}
        with pytest.raises(engines.Unguarded, match="is free"):
            engines.claim()


def test_a_port_is_free_again_after_an_engine_that_never_came(engines: types.ModuleType) -> None:
    for _engine in range(3):
        engines.claim()
    Kept.held.pop()()
    assert engines.claim() in engines.ports()


def test_without_the_rules_no_engine_is_started(engines: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "guarded", lambda: False)
    with pytest.raises(engines.Unguarded, match="no query engine is started"):
        engines.claim()
    with pytest.raises(engines.Unguarded, match="systemctl restart llm-litellm-guard"):
        engines.wait(-1)


def test_rules_that_come_late_are_waited_for(engines: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([False, False, True])
    monkeypatch.setattr(engines, "guarded", lambda: next(looks))
    monkeypatch.setattr(engines.time, "sleep", lambda _seconds: None)
    engines.wait(60)


@pytest.mark.parametrize(("said", "expected"), [(errno.EHOSTUNREACH, True), (errno.ECONNREFUSED, False), (0, False), (errno.EAGAIN, False)])
def test_the_rules_are_seen_by_what_their_first_port_says(monkeypatch: pytest.MonkeyPatch, said: int, expected: bool) -> None:
    spec = importlib.util.spec_from_file_location("llm_engines", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("LLM_ENGINE_PORTS", "24100-24103")
    asked: list[t.Any] = []

    class Probe(socket.socket):
        def connect_ex(self, address: t.Any) -> int:
            asked.append(address)
            return said

    monkeypatch.setattr(module.socket, "socket", Probe)
    assert module.guarded() is expected
    assert asked == [("127.0.0.1", 24100)]


@pytest.mark.parametrize("client", ["def get_open_port(): return 40000", "def another_way(): return 40000"])
def test_prismas_client_takes_the_ports_that_are_claimed(engines: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: str) -> None:
    package = tmp_path / "prisma/engine"
    package.mkdir(parents=True)
    (tmp_path / "prisma/__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(client)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("prisma", "prisma.engine", "prisma.engine.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    engines.install()
    if "get_open_port" in client:
        assert importlib.import_module("prisma.engine.utils").get_open_port() in (24101, 24102, 24103)
    else:
        with pytest.raises(engines.Unguarded, match="in another way"):
            importlib.import_module("prisma.engine.utils")
    for name in ("prisma", "prisma.engine", "prisma.engine.utils"):
        sys.modules.pop(name, None)
