"""The program of somebody who uses the fleet: it knows an address, a certificate authority, a key and names of models, nothing else.

Reads one line of JSON: host, ca, key, timeout, questions (each the body of a chat completion) and repeat. Asks all questions at once; with
repeat it asks them again and again with that many seconds in between, until its input is closed. Prints a line of JSON for each answer.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
import typing as t

JOB = json.loads(sys.stdin.readline())
ENOUGH = threading.Event()


def ask(question: dict[str, t.Any]) -> None:
    began = time.monotonic()
    seen: dict[str, t.Any] = {"model": question["model"], "status": 0, "text": "", "finish": "", "done": False, "error": "", "retry": None}
    try:
        context = ssl.create_default_context(cadata=JOB["ca"])
        connection = http.client.HTTPSConnection(JOB["host"], timeout=JOB["timeout"], context=context)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {JOB['key']}"} if JOB["key"] else {})}
        connection.request("POST", "/v1/chat/completions", json.dumps({**question, "stream": True}), headers)
        response = connection.getresponse()
        seen.update(status=response.status, retry=response.getheader("Retry-After"))
        if response.status != 200:
            seen["error"] = response.read().decode(errors="replace")
        else:
            for line in response:
                hear(line.decode().strip(), seen)
    except (OSError, http.client.HTTPException) as exc:
        seen["error"] = f"{type(exc).__name__}: {exc}"
    print(json.dumps({**seen, "began": began, "seconds": time.monotonic() - began}), flush=True)


def hear(line: str, seen: dict[str, t.Any]) -> None:
    if line == "data: [DONE]":
        seen["done"] = True
    elif line.startswith("data: "):
        event = json.loads(line[len("data: ") :])
        if "error" in event:
            seen["error"] = json.dumps(event["error"])
        for choice in event.get("choices", []):
            said = choice["delta"].get("content") or ""
            seen["text"] += said
            seen["finish"] = choice.get("finish_reason") or seen["finish"]


def keep_asking(question: dict[str, t.Any]) -> None:
    ask(question)
    while JOB["repeat"] and not ENOUGH.wait(JOB["repeat"]):
        ask(question)


people = [threading.Thread(target=keep_asking, args=[question]) for question in JOB["questions"]]
for person in people:
    person.start()
sys.stdin.read()
ENOUGH.set()
for person in people:
    person.join()
