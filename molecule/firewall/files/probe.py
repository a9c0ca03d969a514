"""Which of the addresses and ports let this machine in: prints JSON, port by port "open", "refused" or "silent"; if the addresses differ, both."""

from __future__ import annotations

import json
import socket
import sys


def probe(address: str, port: str) -> str:
    try:
        with socket.create_connection((address, int(port)), timeout=3):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"


addresses, ports = sys.argv[1].split(","), sys.argv[2].split(",")
seen = {port: sorted({probe(address, port) for address in addresses}) for port in ports}
print(json.dumps({port: "/".join(found) for port, found in seen.items()}))
