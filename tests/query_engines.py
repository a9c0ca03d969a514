"""Prisma's query engines on a machine under test, as a user of that machine reaches them: who does reads and writes every table of LiteLLM."""

from __future__ import annotations

import json
import subprocess

# Asks every port on which somebody listens what only a query engine knows.
ASK = """
import http.client, json
QUESTION = json.dumps({"query": "query { result: findManyLiteLLM_VerificationToken { token } }", "variables": {}})
lines = [line.split() for name in ("tcp", "tcp6") for line in open("/proc/net/" + name).readlines()[1:]]
ports = {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A"}
said = {}
for port in sorted(ports):
    for address in ("127.0.0.1", "::1"):
        for method, path, body in (("GET", "/status", None), ("POST", "/", QUESTION)):
            asked = http.client.HTTPConnection(address, port, timeout=3)
            try:
                asked.request(method, path, body, {"Content-Type": "application/json"})
                said.setdefault(port, []).append(asked.getresponse().read(100000).decode(errors="replace"))
            except (OSError, http.client.HTTPException):
                pass
            finally:
                asked.close()
print(json.dumps(said))
"""


def engines_for(user: str, machine: str) -> dict[int, str]:
    """The ports that answer this user as a query engine does, and what they say of LiteLLM's keys."""
    command = ["docker", "exec", "--interactive", machine, "runuser", "--user", user, "--", "python3", "-"]
    said = json.loads(subprocess.run(command, input=ASK, capture_output=True, text=True, check=True).stdout)
    found = {int(port): "".join(answers) for port, answers in said.items()}
    return {port: text for port, text in found.items() if '{"status":"ok"}' in text.replace(" ", "") or '"result"' in text}
