"""The front door before a LiteLLM with a database: what it lets through, what it stops itself, and clients that are slow or gone."""

from __future__ import annotations

import collections
import contextlib
import datetime
import hashlib
import json
import re
import socket
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Admin, FrontDoor, Reply  # type: ignore[import-not-found]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

testinfra_hosts = ["ansible://gateways"]
CHAT = "/v1/chat/completions"
UNKNOWN_KEY = "sk-" + "0123456789abcdef" * 4  # LiteLLM's form, but LiteLLM does not know it
MALFORMED_KEYS = ["sk-short", "x" * 64, "sk-" + "a" * 40 + "'; DROP TABLE x; --", "sk-" + "a" * 129, "sk-" + "a" * 40 + "\\", "../../" + "a" * 40]
ADMIN = "admin.gateway.test"
ASK_AS_ADMINISTRATOR = """
import http.client, json, ssl, sys
given = json.load(sys.stdin)
door = http.client.HTTPSConnection("127.0.0.1", 443, context=ssl._create_unverified_context(), source_address=(given["source"], 0), timeout=60)
door.request("GET", given["path"], headers={"Host": given["name"], "Authorization": "Bearer " + given["key"]})
answer = door.getresponse()
print(json.dumps({"status": answer.status, "body": answer.read().decode(errors="replace")[:4000]}))
"""
TOKENS = """
import re, urllib.request
key = open("/etc/llm/llama-router/api-keys").read().strip()
request = urllib.request.Request("http://127.0.0.1:8081/metrics?model=tiny-a", headers={"Authorization": "Bearer " + key})
text = urllib.request.urlopen(request, timeout=20).read().decode()
print(*(re.search("^llamacpp:%s (.*)" % name, text, re.MULTILINE)[1] for name in ("n_decode_total", "requests_processing")))
"""


@pytest.fixture
def fresh_limits(host: t.Any, front_door: FrontDoor) -> t.Iterator[None]:
    """Nobody has used up anything, neither before the test nor after it."""
    fresh(host, front_door)
    yield
    fresh(host, front_door)


def fresh(host: t.Any, front_door: FrontDoor) -> None:
    host.check_output("systemctl restart llm-nginx")
    until(lambda: front_door.ask("GET", "/health").status == 200, 10, "Nginx answers after its restart")


def until(condition: t.Callable[[], t.Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


def connect(front_door: FrontDoor, receive_buffer: int = 0) -> t.Any:
    """With TLS, and nothing said yet."""
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.settimeout(60)
    plain.connect((front_door.address, front_door.port))
    return front_door.context.wrap_socket(plain, server_hostname=front_door.name)


def master_key(front_door: FrontDoor) -> str:
    return (front_door.secrets / "litellm_master_key").read_text().strip()


def log_of(host: t.Any, reply: Reply) -> dict[str, t.Any]:
    """What Nginx wrote down of a request."""
    for _attempt in range(20):
        found = host.run(f"journalctl --unit llm-nginx --output cat --no-pager --boot --lines 400 | grep {reply.headers['X-Request-ID']}").stdout
        if found:
            return t.cast("dict[str, t.Any]", json.loads(found.splitlines()[-1]))
        time.sleep(0.1)
    raise AssertionError("the request is not in the log")


def question(model: str = "tiny-a", max_tokens: int = 4, **more: t.Any) -> dict[str, t.Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens, **more}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, question()),
        ("/v1/completions", {"model": "tiny-a", "prompt": "Hello", "max_tokens": 4}),
        ("/v1/messages", question()),
        ("/v1/responses", {"model": "tiny-a", "input": "Hello", "max_output_tokens": 16}),
    ],
)
def test_what_clients_need_is_open(front_door: FrontDoor, path: str, body: dict[str, t.Any]) -> None:
    reply = front_door.ask("POST", path, front_door.key("laptop"), body)
    assert reply.status == 200, reply.body


def test_anthropics_clients_send_their_key_in_a_header_of_their_own(host: t.Any, front_door: FrontDoor) -> None:
    headers = {"x-api-key": front_door.key("laptop"), "anthropic-version": "2023-06-01", "Content-Type": "application/json"}
    reply = front_door.ask("POST", "/v1/messages", "", question(), **headers)
    assert reply.status == 200, reply.body
    assert reply.body["type"] == "message"
    assert log_of(host, reply)["client"] == "laptop"
    assert front_door.ask("POST", CHAT, "", question(), **headers).status == 401, "that header counts on their route alone"


@pytest.mark.parametrize(
    "path",
    [
        # LiteLLM's control, of which a master key would be enough
        *("/key/generate", "/key/list", "/user/new", "/team/new", "/model/new", "/spend/logs", "/config/yaml", "/global/spend/reset", "/sso/key/generate"),
        *("/mcp-rest/test/connection", "/v1/mcp/server", "/health/readiness", "/metrics", "/ui/", "/login", "/cache/flushall", "/openapi.json", "/docs"),
        # vLLM's and llama.cpp's
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache", "/server_info"),
        *("/tokenize", "/detokenize", "/slots", "/props", "/models/load", "/models/unload"),
        # below or beside what is open
        *("/v1/messages/batches", "/v1/messages/", "/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/v1/chat/completions/x", "/v1/files"),
        *("/chat/completions", "/openai/deployments/tiny-a/chat/completions", "/engines/tiny-a/completions", "/v1/models/../../key/list"),
        *("/v1/models/%2e%2e/%2e%2e/key/list", "/v1//models", "/v1/messages/count_tokens/../../../key/list", "/authorized", "/denied", "/431"),
    ],
)
def test_the_rest_does_not_exist(front_door: FrontDoor, path: str) -> None:
    for method in ("GET", "POST"):
        reply = front_door.ask(method, path, master_key(front_door), {} if method == "POST" else None)
        assert (reply.status, reply.body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("key", MALFORMED_KEYS)
def test_a_key_that_cannot_be_one_never_reaches_litellm(host: t.Any, front_door: FrontDoor, fresh_limits: None, key: str) -> None:
    reply = front_door.ask("POST", CHAT, key, question())
    assert (reply.status, reply.body["error"]["code"]) == (401, "invalid_api_key")
    assert log_of(host, reply)["backend"] == ""


def test_the_master_key_opens_nothing_from_outside(host: t.Any, front_door: FrontDoor, fresh_limits: None) -> None:
    reply = front_door.ask("POST", CHAT, master_key(front_door), question())
    assert (reply.status, reply.body["error"]["code"]) == (401, "invalid_api_key")
    assert log_of(host, reply)["backend"] == ""


def test_what_litellm_says_of_a_key_stays_behind_the_door(host: t.Any, front_door: FrontDoor, fresh_limits: None) -> None:
    reply = front_door.ask("POST", CHAT, UNKNOWN_KEY, question())
    assert (reply.status, reply.body["error"]["code"]) == (401, "invalid_api_key")
    said = json.dumps(reply.body)
    assert hashlib.sha256(UNKNOWN_KEY.encode()).hexdigest() not in said
    assert UNKNOWN_KEY[-4:] not in said
    assert not re.search("[0-9a-f]{16}", said)
    assert log_of(host, reply)["backend_status"] == "401", "the search would have found it: LiteLLM was asked"


@pytest.mark.parametrize(
    ("limit", "refusal"), [({"rpm_limit": 1}, (429, "Rate limit exceeded")), ({"max_budget": 0.0000001}, (422, "Budget has been exceeded"))]
)
def test_a_limit_is_told_without_the_hash_of_the_key(
    admin: Admin, front_door: FrontDoor, fresh_limits: None, limit: dict[str, float], refusal: tuple[int, str]
) -> None:
    """With a key that LiteLLM has and the inventory has not, which the door lets through."""
    status, words = refusal
    key = admin.make_key("door-limited", **limit)
    try:
        replies = [front_door.ask("POST", CHAT, key, question())]
        assert replies[0].status == 200, replies[0].body
        for _attempt in range(6):  # what it has spent is known a little later
            replies.append(front_door.ask("POST", CHAT, key, question()))
            time.sleep(0.5)
    finally:
        admin.remove_key("door-limited")
    refused = [reply for reply in replies if reply.status != 200]
    assert refused
    assert {reply.status for reply in refused} == {status}, refused[0].body
    for reply in refused:
        assert words in reply.body["error"]["message"]
        assert hashlib.sha256(key.encode()).hexdigest() not in json.dumps(reply.body)
        assert key not in json.dumps(reply.body)
    assert status != 429 or int(refused[0].headers["Retry-After"]) > 0


def test_a_flood_of_wrong_keys_costs_litellm_little(host: t.Any, front_door: FrontDoor, fresh_limits: None) -> None:
    def guess(number: int) -> Reply:
        return front_door.ask("POST", CHAT, f"sk-{number:064x}", question())

    with ThreadPoolExecutor(8) as pool:
        flood = [pool.submit(guess, number) for number in range(200)]
        times = []
        for _attempt in range(5):
            began = time.monotonic()
            assert front_door.ask("GET", "/v1/models", front_door.key("laptop")).status == 200
            times.append(time.monotonic() - began)
        counts = collections.Counter(one.result().status for one in flood)
    assert set(counts) == {401, 429}
    assert counts[401] <= 30, "20 at once and one a second reach LiteLLM"
    assert int(guess(0).headers["Retry-After"]) > 0
    assert max(times) < 5, times


def test_headers_and_bodies_have_a_size(front_door: FrontDoor) -> None:
    key = front_door.key("laptop")
    large = front_door.ask("GET", "/v1/models", key, **{"X-Large": "a" * 9000})
    assert (large.status, large.body["error"]["code"]) == (431, "headers_too_large")
    large = front_door.ask("POST", CHAT, key, **{"Content-Length": str(2**30)})
    assert (large.status, large.body["error"]["code"]) == (413, "request_too_large")


def test_a_slow_request_is_cut_and_a_slow_reader_is_not(front_door: FrontDoor) -> None:
    reader = SlowReader(front_door, seconds=14)
    silent = socket.create_connection((front_door.address, front_door.port))  # never begins with TLS
    dripping = [connect(front_door) for _number in range(5)]
    for one in dripping:
        one.sendall(f"POST {CHAT} HTTP/1.1\r\n".encode())
    began = time.monotonic()
    ended: dict[t.Any, float] = {}
    while len(ended) < len(dripping) + 1 and time.monotonic() - began < 20:
        for one in [one for one in (*dripping, silent) if one not in ended]:
            one.settimeout(0.05)
            try:
                if one is not silent:
                    one.sendall(b"X-Drip: 1\r\n")
                if not one.recv(1024):
                    ended[one] = time.monotonic() - began
            except TimeoutError:
                pass
            except OSError:
                ended[one] = time.monotonic() - began
        time.sleep(0.3)
    assert len(ended) == len(dripping) + 1, "not all of them were cut"
    assert min(ended.values()) > 5
    assert max(ended.values()) < 13, ended
    reader.finish()
    assert reader.took > 12, "the slow reader was to be slower than that"


def test_a_new_certificate_cuts_no_stream(host: t.Any, front_door: FrontDoor) -> None:
    before = {name: host.file(f"/etc/llm/nginx/server.{name}").content_string for name in ("crt", "key")}
    old = certificate(front_door)
    reader = SlowReader(front_door, seconds=6)
    reader.wait_for_tokens()
    try:
        for name, content in zip(("crt", "key"), signed_by_our_ca(front_door)):
            host.check_output(f"cat >/etc/llm/nginx/server.{name} <<'END'\n{content}\nEND")
        host.check_output("systemctl reload llm-nginx")
        until(lambda: certificate(front_door) != old, 5, "the new certificate")
        assert front_door.ask("GET", "/v1/models", front_door.key("laptop")).status == 200
        assert reader.thread.is_alive(), "the stream was to be longer than that"
        reader.finish()
    finally:
        for name, content in before.items():
            host.check_output(f"cat >/etc/llm/nginx/server.{name} <<'END'\n{content.rstrip()}\nEND")
        host.check_output("systemctl reload llm-nginx")
    until(lambda: certificate(front_door) == old, 5, "the old certificate")


def test_the_engine_stops_when_the_client_hangs_up(host: t.Any, front_door: FrontDoor) -> None:
    def made() -> int:
        return int(float(host.check_output("python3 -c %s", TOKENS).split()[0]))

    def working() -> int:
        return int(host.check_output("python3 -c %s", TOKENS).split()[1])

    host.check_output("systemctl set-property --runtime llm-llama-router CPUQuota=10%")  # nearer to the pace of a large model
    try:
        door = connect(front_door)
        body = json.dumps(question(max_tokens=1900, stream=True))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front_door.key('laptop')}\r\nContent-Type: application/json\r\n"
        door.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        seen = b""
        while seen.count(b"data:") < 10:
            seen += door.recv(4096)
        assert working() == 1
        before = made()
        door.close()
        time.sleep(1)
        after = made()
        until(lambda: working() == 0, 5, "the engine is idle")
        assert made() - after <= 2, "no more than the token that it had in hand"
        assert after - before < 1000, "the answer was to be longer than that"
    finally:
        host.check_output("systemctl set-property --runtime llm-llama-router CPUQuota=")


def test_the_administration_has_a_name_and_addresses_of_its_own(host: t.Any, front_door: FrontDoor) -> None:
    from_outside = front_door.ask("GET", "/key/list", master_key(front_door), Host=ADMIN)
    assert (from_outside.status, from_outside.body["error"]["code"]) == (403, "forbidden")

    def ask(path: str, name: str = ADMIN, source: str = "127.0.0.7", key: str = master_key(front_door)) -> dict[str, t.Any]:
        given = json.dumps({"path": path, "name": name, "source": source, "key": key})
        return t.cast("dict[str, t.Any]", json.loads(host.check_output("printf %%s %s | python3 -c %s", given, ASK_AS_ADMINISTRATOR)))

    assert ask("/key/list")["status"] == 200
    assert "html" in ask("/ui/")["body"]
    assert ask("/key/list", source="127.0.0.8")["status"] == 403
    assert ask("/key/list", name=front_door.name)["status"] == 404, "not under the clients' name"
    assert ask("/mcp-rest/test/connection")["status"] == 404
    assert ask("/key/list", key=front_door.key("laptop"))["status"] in (401, 403)


class SlowReader:
    """Reads a long stream of the real engine so slowly that it takes some seconds. ``finish`` says whether it came whole."""

    def __init__(self, front_door: FrontDoor, seconds: float) -> None:
        self.seconds, self.seen, self.took, self.error = seconds, b"", 0.0, ""
        self.body = json.dumps(question(max_tokens=1900, stream=True))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front_door.key('laptop')}\r\nContent-Type: application/json\r\n"
        self.socket = connect(front_door, receive_buffer=4096)
        self.socket.sendall(f"{head}Connection: close\r\nContent-Length: {len(self.body)}\r\n\r\n{self.body}".encode())
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        began = time.monotonic()
        self.socket.settimeout(30)
        try:
            while part := self.socket.recv(8192):
                self.seen += part
                # about 500 kB in all; what is left at the end is read at once
                time.sleep(max(0.0, began + self.seconds * min(1.0, len(self.seen) / 400_000) - time.monotonic()))
        except OSError as exc:
            self.error = str(exc)
        self.took = time.monotonic() - began

    def wait_for_tokens(self) -> None:
        until(lambda: self.seen.count(b"data:") > 10, 20, "tokens")

    def finish(self) -> None:
        self.thread.join(60)
        assert self.error == ""
        assert b"data: [DONE]" in self.seen[-200:], self.seen[-300:]


def certificate(front_door: FrontDoor) -> bytes:
    with connect(front_door) as door:
        return door.getpeercert(binary_form=True) or b""


def signed_by_our_ca(front_door: FrontDoor) -> tuple[str, str]:
    """Another certificate for the same name, and its key."""
    ca = x509.load_pem_x509_certificate(front_door.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(front_door.ca.with_name("ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "renewed")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(front_door.name)]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)  # type: ignore[arg-type]
        .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM).decode().strip(), pem.decode().strip()
