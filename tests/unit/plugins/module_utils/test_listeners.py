# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._listeners import Listener, listeners

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTEN, ESTABLISHED = "0A", "01"


class Proc:
    """A /proc with processes and sockets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, str] = {"tcp": HEAD, "tcp6": HEAD}
        (path / "net").mkdir(parents=True)

    def socket(self, port: int, inode: int, state: str = LISTEN, table: str = "tcp", uid: int = 0) -> None:
        self._lines[table] += f"   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1\n"
        (self.path / "net" / table).write_text(self._lines[table])

    def process(self, pid: int, comm: str, inodes: list[int], cgroup: str = "0::/\n") -> None:
        place = self.path / str(pid)
        (place / "fd").mkdir(parents=True)
        (place / "comm").write_text(f"{comm}\n")
        (place / "cgroup").write_text(cgroup)
        for number, inode in enumerate(inodes, 3):
            os.symlink(f"socket:[{inode}]", place / "fd" / str(number))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def test_a_listener_has_its_program_and_unit(proc: Proc) -> None:
    proc.socket(8081, 11)
    proc.socket(8081, 12, ESTABLISHED)
    proc.process(40, "llama-server", [11], "0::/system.slice/llm-llama-router.service\n")
    proc.process(50, "client", [12])
    assert listeners(proc.path) == [Listener(8081, "llama-server", 40, "llm-llama-router", user="root")]


def test_the_unit_of_a_machine_in_a_container_with_the_older_cgroups(proc: Proc) -> None:
    proc.socket(443, 7, table="tcp6")
    proc.process(9, "nginx", [7], "12:pids:/docker/0f/system.slice/llm-nginx.service\n1:name=systemd:/docker/0f/system.slice/llm-nginx.service\n0::/\n")
    proc.process(10, "sh", [], "0::/user.slice/session-1.scope\n")
    assert listeners(proc.path) == [Listener(443, "nginx", 9, "llm-nginx", user="root")]


def test_systemd_holds_the_socket_of_a_service_that_it_starts_on_demand(proc: Proc) -> None:
    proc.socket(22, 5)
    proc.socket(23, 6)
    proc.process(1, "systemd", [5, 6], "0::/init.scope\n")
    proc.process(300, "sshd", [5], "0::/system.slice/ssh.service\n")
    assert listeners(proc.path) == [Listener(22, "sshd", 300, "ssh", user="root"), Listener(23, "systemd", 1, "", user="root")]


def test_what_may_not_be_looked_at_has_no_name(proc: Proc) -> None:
    proc.socket(80, 5)
    proc.socket(80, 6, table="tcp6")
    proc.socket(81, 7, uid=59999)
    assert listeners(proc.path) == [Listener(80, user="root"), Listener(81, user="59999")]


def test_a_machine_without_tables_has_no_listeners(tmp_path: Path) -> None:
    assert listeners(tmp_path) == []


def test_this_very_process_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert (port, os.getpid()) in {(listener.port, listener.pid) for listener in listeners()}
    assert port not in {listener.port for listener in listeners()}
