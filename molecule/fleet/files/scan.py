"""Which ports let this machine in: reads JSON, {address: [ports]}, and prints the same with those that are open."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import sys


def is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)  # refused or silent, it is closed
        return probe.connect_ex((address, port)) == 0


asked = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    futures = {(address, port): pool.submit(is_open, address, port) for address, ports in asked.items() for port in ports}
print(json.dumps({address: [port for port in ports if futures[address, port].result()] for address, ports in asked.items()}))
