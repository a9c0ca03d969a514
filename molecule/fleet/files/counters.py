"""An engine's own counters: reads JSON, url and key, and prints the lines of its metrics that say how much it has been asked and has said."""

from __future__ import annotations

import json
import re
import sys
import urllib.request

NAMES = {
    "prompt": ("llamacpp:prompt_tokens_total", "vllm:prompt_tokens_total"),
    "said": ("llamacpp:tokens_predicted_total", "vllm:generation_tokens_total"),
    "running": ("llamacpp:requests_processing", "vllm:num_requests_running"),
}
job = json.load(sys.stdin)
request = urllib.request.Request(job["url"], headers={"Authorization": f"Bearer {job['key']}"})
text = urllib.request.urlopen(request, timeout=20).read().decode()
values = {name: float(value) for name, value in re.findall(r"^([a-z:_]+)(?:\{.*\})? ([0-9.e+]+)$", text, re.MULTILINE)}
print(json.dumps({ours: int(sum(values.get(name, 0) for name in names)) for ours, names in NAMES.items()}))
