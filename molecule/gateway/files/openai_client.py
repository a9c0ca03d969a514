"""A client as programs have it: the package openai, through the front door. Reads one job, answers with one line of JSON."""

import json
import ssl
import sys
import threading
import time

import httpx
import openai


def ask(client: openai.OpenAI, one: dict) -> dict:
    began, text, tokens = time.monotonic(), "", {}
    try:
        if one.get("wait"):
            time.sleep(one["wait"])
        if one["model"] == "":
            return {"status": 200, "models": sorted(model.id for model in client.models.list())}
        stream = client.chat.completions.create(
            model=one["model"],
            messages=[{"role": "user", "content": one.get("prompt", "Hello")}],
            max_tokens=one.get("max_tokens", 4),
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if chunk.usage:
                tokens = {"prompt": chunk.usage.prompt_tokens, "completion": chunk.usage.completion_tokens}
    except openai.APIStatusError as exc:
        return {"status": exc.status_code, "said": exc.response.text, "seconds": time.monotonic() - began}
    except openai.OpenAIError as exc:
        return {"status": 0, "said": repr(exc), "seconds": time.monotonic() - began}
    return {"status": 200, "text": text, **tokens, "seconds": time.monotonic() - began}


job = json.load(sys.stdin)
trusted = ssl.create_default_context(cadata=job["ca"])
answers: list = [None] * len(job["asks"])
with httpx.Client(verify=trusted, limits=httpx.Limits(max_connections=None), timeout=120) as transport:
    client = openai.OpenAI(base_url="https://127.0.0.1/v1", api_key=job["key"], max_retries=0, http_client=transport)

    def run(number: int) -> None:
        answers[number] = ask(client, job["asks"][number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(answers))]
    for thread in threads:
        thread.start()
        if not job["at_once"]:
            thread.join()
    for thread in threads:
        thread.join()
print(json.dumps(answers))
