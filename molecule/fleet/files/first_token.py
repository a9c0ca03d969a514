"""Runs on a server that is still to come: waits until its llama.cpp has said something, and prints when that was."""

from __future__ import annotations

import re
import sys
import time
import urllib.request
from pathlib import Path

KEYS = Path("/etc/llm/llama-router/api-keys")
address, model = sys.argv[1:]
while True:
    time.sleep(0.2)
    try:
        key = KEYS.read_text().strip()
        request = urllib.request.Request(f"http://{address}:8081/metrics?model={model}&autoload=false", headers={"Authorization": f"Bearer {key}"})
        said = re.search(r"^llamacpp:tokens_predicted_total (\d+)", urllib.request.urlopen(request, timeout=5).read().decode(), re.MULTILINE)
        if said and int(said[1]) > 0:
            print(time.time())
            break
    except OSError:  # no key, no server or no model yet
        pass
