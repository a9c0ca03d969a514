"""Every field of a key, as a client with the package openai meets it, and the playbook that brings keys.

What takes its time, an expiry and a grace, begins early and ends late, with other tests between: their order in this file matters.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Admin, until  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parents[1]
PYTHON = "/opt/llm/litellm/current/bin/python"
FRONT_DOOR = "baremetal.llm.nginx : Keys | Write the keys and the limits, and reload"
LITELLM = "Keys | Make LiteLLM's what the inventory says"
Answer = dict[str, t.Any]
REFUSED_FOR_MONEY = (400, 422, 429)
RENEWS = "SELECT budget_reset_at FROM \"LiteLLM_VerificationToken\" WHERE key_alias = 'turned'"


class Run(t.NamedTuple):
    rc: int
    said: str
    changed: list[str]  # names of tasks
    seconds: float


@dataclass(frozen=True)
class Owner:
    """Who has the inventory."""

    inventory: Path
    secrets: Path
    scratch: Path

    def play(self, playbook: str = "keys", *arguments: str, **variables: t.Any) -> Run:
        given = self.scratch / "given.yml"
        given.write_text(yaml.safe_dump(variables))
        command: list[t.Any] = [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, ROOT / f"playbooks/{playbook}.yml"]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        began = time.monotonic()
        done = subprocess.run([*command, "-e", f"@{given}", *arguments], env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        tasks = [task for play in json.loads(done.stdout[done.stdout.index("{") :])["plays"] for task in play["tasks"]]
        changed = [task["task"]["name"] for task in tasks if any(result.get("changed") for result in task["hosts"].values())]
        return Run(done.returncode, done.stdout + done.stderr, changed, seconds)

    @property
    def keys(self) -> list[dict[str, t.Any]]:
        return list(yaml.safe_load((self.inventory.parent / "group_vars/all.yml").read_text())["llm_keys"])

    def file(self, name: str) -> Path:
        return self.secrets / "keys" / name


@dataclass(frozen=True)
class OpenAI:
    machine: str
    secrets: Path

    def ask(self, key: str, *asks: Answer | str, at_once: bool = False) -> list[Answer]:
        """``key`` is a key, or the name of one."""
        value = key if key.startswith("sk-") else (self.secrets / "keys" / key).read_text().strip()
        job = {
            "key": value,
            "ca": (self.secrets / "tls/ca.crt").read_text(),
            "at_once": at_once,
            "asks": [{"model": one} if isinstance(one, str) else one for one in asks],
        }
        command = ["docker", "exec", "-i", self.machine, PYTHON, "-c", (HERE / "files/openai_client.py").read_text()]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return t.cast("list[Answer]", json.loads(done.stdout))

    def statuses(self, key: str, *asks: Answer | str, at_once: bool = False) -> list[int]:
        return [answer["status"] for answer in self.ask(key, *asks, at_once=at_once)]


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Owner:
    return Owner(Path(os.environ["MOLECULE_INVENTORY_FILE"]), secrets, tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def client(machine: str, secrets: Path) -> OpenAI:
    return OpenAI(machine, secrets)


@pytest.fixture(scope="module", autouse=True)
def as_it_was(owner: Owner, admin: Admin) -> t.Iterator[None]:
    """Nothing is there of the keys that these tests make, not even of a run that was stopped."""
    forget(owner, admin)
    yield
    forget(owner, admin)


def forget(owner: Owner, admin: Admin) -> None:
    for name in ("fresh", "brief", "turned"):
        for path in owner.secrets.glob(f"keys/{name}*"):
            path.unlink()
        admin.remove_key(name)
        admin.remove_key(f"{name}.previous")


def test_a_second_run_changes_nothing(owner: Owner) -> None:
    run = owner.play()
    assert (run.rc, run.changed) == (0, [])
    print(f"playbooks/keys.yml without a change: {run.seconds:.1f} s")


def test_new_changed_and_revoked(owner: Owner, client: OpenAI) -> None:
    fresh = {"name": "fresh", "models": ["tiny-b"]}
    check = owner.play("keys", "--check", "--diff", llm_keys=[*owner.keys, fresh])
    assert check.rc == 0
    assert client.statuses("fresh", "tiny-b") == [401]
    made = owner.play("keys", "--diff", llm_keys=[*owner.keys, fresh, TURNED])
    assert made.rc == 0, made.said[-2000:]
    print(f"playbooks/keys.yml with two new keys: {made.seconds:.1f} s")
    assert client.statuses("turned", {"model": "tiny-a", "max_tokens": 20}) == [200]  # it has spent something when it is rotated
    allowed, forbidden = client.statuses("fresh", "tiny-b", "tiny-a")
    assert (allowed, forbidden in (401, 403)) == (200, True)
    changed = owner.play(llm_keys=[*owner.keys, {**fresh, "models": ["tiny-a"]}, TURNED])
    assert changed.changed == [LITELLM]
    assert client.statuses("fresh", "tiny-a") == [200]
    value = owner.file("fresh").read_text().strip()
    gone = owner.play("keys", "--diff", llm_keys=[*owner.keys, {"name": "fresh", "state": "absent"}, TURNED])
    assert gone.rc == 0
    assert not owner.file("fresh").exists()
    assert client.statuses(value, "tiny-a") == [401]
    for said in (check.said, made.said, gone.said):
        assert value not in said


def logged(admin: Admin, hashes: str) -> float:
    return float(admin.query(f'SELECT sum(spend) FROM "LiteLLM_SpendLogs" WHERE api_key IN ({hashes})') or 0)


def spend(admin: Admin, alias: str) -> float:
    return float(admin.query(f"SELECT spend FROM \"LiteLLM_VerificationToken\" WHERE key_alias = '{alias}'") or 0)


TURNED = {"name": "turned", "max_budget": 100, "budget_duration": "30d", "grace": "150s"}


@dataclass(frozen=True)
class Turning:
    """A run that rotates one key and makes another that ends soon."""

    old: str = field(repr=False)
    new: str = field(repr=False)
    spent: float  # by the old key, before
    renews: str  # when its budget begins anew
    brief: dict[str, t.Any]
    ends: dt.datetime
    over: dt.datetime  # the grace, at the latest
    said: str = field(repr=False)

    @property
    def keys(self) -> list[dict[str, t.Any]]:
        return [self.brief, TURNED]


def wait_for(moment: dt.datetime) -> None:
    time.sleep(max(0.0, (moment - dt.datetime.now(dt.timezone.utc)).total_seconds()))


@pytest.fixture(scope="module")
def turning(owner: Owner, admin: Admin) -> Turning:
    until(lambda: spend(admin, "turned") > 0, 60, "what was spent is in the database")
    old, spent, renews = owner.file("turned").read_text().strip(), spend(admin, "turned"), admin.query(RENEWS)
    ends = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=80)
    brief = {"name": "brief", "expires": ends.isoformat()}
    run = owner.play("keys", "-vvv", "--diff", llm_keys=[*owner.keys, brief, TURNED], llm_rotate="turned")
    assert run.rc == 0, run.said[-2000:]
    over = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=151)
    return Turning(old, owner.file("turned").read_text().strip(), spent, renews, brief, ends, over, run.said)


def test_a_rotation_with_grace(owner: Owner, client: OpenAI, admin: Admin, turning: Turning) -> None:
    assert client.statuses("brief", "tiny-b") == [200]
    assert turning.new != turning.old
    assert owner.file("turned.previous").read_text().split()[0] == turning.old
    assert turning.new not in turning.said
    assert turning.old not in turning.said
    assert client.statuses(turning.old, "tiny-a") == [200]
    assert client.statuses(turning.new, "tiny-a") == [200]
    assert spend(admin, "turned") >= turning.spent  # it goes on from there
    assert admin.query(RENEWS) == turning.renews  # on the same day as before
    budgets = admin.query("SELECT max_budget FROM \"LiteLLM_VerificationToken\" WHERE key_alias LIKE 'turned%'").split()
    assert sum(map(float, budgets)) == pytest.approx(100 + turning.spent, rel=1e-6)


def test_all_models_and_some(client: OpenAI) -> None:
    assert client.statuses("laptop", "tiny-a", "tiny-b", "auto") == [200, 200, 200]
    allowed, forbidden = client.ask("only-a", "tiny-a", "tiny-b")
    assert allowed["status"] == 200
    assert forbidden["status"] in (401, 403)
    assert "tiny-b" in forbidden["said"]
    assert client.ask("only-a", "")[0]["models"] == ["tiny-a"]


def test_a_route_is_allowed_by_its_name_and_its_models_are_not(client: OpenAI) -> None:
    through, direct = client.ask("only-auto", "auto", "tiny-a")
    assert through["status"] == 200
    assert direct["status"] in (401, 403)


BUDGETS = {
    "poor": "\"LiteLLM_VerificationToken\" WHERE key_alias = 'poor'",
    "of-broke": "\"LiteLLM_TeamTable\" WHERE team_id = 'broke'",
    "of-eve": "\"LiteLLM_UserTable\" WHERE user_id = 'eve'",
}


def refused_for_money(client: OpenAI, name: str) -> bool:
    return client.ask(name, "tiny-a")[0]["status"] in REFUSED_FOR_MONEY


def test_what_is_spent_ends_a_key_a_team_and_a_user(client: OpenAI, admin: Admin) -> None:
    for name, budget in BUDGETS.items():
        if float(admin.query(f"SELECT spend FROM {budget}")) == 0:  # not so where these tests ran before
            assert client.statuses(name, "tiny-a") == [200], name
        until(partial(refused_for_money, client, name), 30, f"the budget of {name} is used up")
        (said,) = client.ask(name, "tiny-a")
        assert "budget" in said["said"].lower(), said
    assert client.statuses("saver", "tiny-a", "tiny-a") == [200, 200]


def test_requests_a_minute_of_a_key_and_of_a_team(client: OpenAI) -> None:
    assert sorted(client.statuses("slow", *["tiny-b"] * 5)) == [200, 200, 429, 429, 429]
    both = client.statuses("of-lab", "tiny-a", "tiny-a") + client.statuses("of-lab-too", "tiny-a", "tiny-a", "tiny-a")
    assert sorted(both) == [200, 200, 200, 429, 429]
    assert client.statuses("of-lab", "tiny-b")[0] in (401, 403, 429)


def test_tokens_a_minute(client: OpenAI) -> None:
    statuses = client.statuses("terse", *[{"model": "tiny-b", "max_tokens": 12}] * 5)
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_requests_at_the_same_time(client: OpenAI) -> None:
    long = {"model": "tiny-a", "max_tokens": 800}
    assert sorted(client.statuses("single", long, {"model": "tiny-b", "wait": 0.5}, at_once=True)) == [200, 429]
    assert client.statuses("single", "tiny-b") == [200]


def test_a_key_reaches_no_other_route_of_litellm(admin: Admin, secrets: Path) -> None:
    mine = Admin(admin.machine, (secrets / "keys/laptop").read_text().strip())
    for method, path in (("GET", "/key/list"), ("POST", "/key/generate"), ("GET", "/user/list"), ("POST", "/team/new")):
        assert mine.call(method, path, {} if method == "POST" else None).status in (401, 403), path


def test_an_expiry_needs_no_run(owner: Owner, client: OpenAI, turning: Turning) -> None:
    wait_for(turning.ends + dt.timedelta(seconds=5))
    assert client.statuses("brief", "tiny-b") == [401]
    after = owner.play(llm_keys=[*owner.keys, *turning.keys])
    assert (after.rc, after.changed) == (0, [FRONT_DOOR])
    assert "The key of brief expired on" in after.said
    assert client.statuses("brief", "tiny-b") == [401]


def test_spend_is_exact_after_parallel_streams(owner: Owner, client: OpenAI, admin: Admin) -> None:
    before = spend(admin, "counted")
    asks = [{"model": model, "max_tokens": 5 + number, "prompt": f"Count {number}"} for number, model in enumerate(["tiny-a", "tiny-b"] * 12)]
    answers = client.ask("counted", *asks, at_once=True)
    assert [answer["status"] for answer in answers] == [200] * 24
    prices = {"tiny-a": (0.001, 0.002), "tiny-b": (0.0005, 0.0005)}
    cost = sum(answer["prompt"] * prices[ask["model"]][0] + answer["completion"] * prices[ask["model"]][1] for ask, answer in zip(asks, answers))
    until(lambda: abs(spend(admin, "counted") - before - cost) < 1e-9, 90, f"{cost} is spent")
    report = owner.play("spend")
    assert report.rc == 0, report.said[-2000:]
    (newest,) = sorted((owner.inventory.parent / ".reports/spend").glob("*.csv"))[-1:]
    rows = [row for row in csv.DictReader(newest.open()) if row["key"] == "counted"]
    assert sum(float(row["spend"]) for row in rows) == pytest.approx(spend(admin, "counted"), rel=1e-9)
    assert {row["model"] for row in rows} == {"tiny-a", "tiny-b"}
    print(f"24 streams cost {cost:.4f}; the report has {len(rows)} rows of that key")


def test_what_is_wrong_is_refused_before_anything_changes(owner: Owner, admin: Admin) -> None:
    before = admin.query('SELECT key_alias, rpm_limit, max_budget FROM "LiteLLM_VerificationToken" ORDER BY key_alias')
    wrong = [
        {"name": "laptop"},
        {"name": "new-a", "models": ["tiny-c"]},
        {"name": "new-b", "max_budget": 5},
        {"name": "new-c", "team": "lab", "requests_per_minute": 100},
        {"name": "new-d", "expires": "soon"},
    ]
    run = owner.play(llm_keys=[*owner.keys, *wrong])
    assert run.rc != 0
    for said in (
        "names laptop 2 times",
        "new-a may use 'tiny-c', which is neither in llm_models nor in llm_routes: did you mean tiny-",
        "new-b has max_budget without budget_duration",
        "new-d has expires 'soon'",
    ):
        assert said in run.said, said
    run = owner.play(llm_keys=[*owner.keys, wrong[3]])
    assert "new-c has requests_per_minute 100, more than the 3 of its team lab" in run.said
    assert admin.query('SELECT key_alias, rpm_limit, max_budget FROM "LiteLLM_VerificationToken" ORDER BY key_alias') == before


def test_a_grace_ends(owner: Owner, client: OpenAI, admin: Admin, turning: Turning) -> None:
    wait_for(turning.over + dt.timedelta(seconds=5))
    assert client.statuses(turning.old, "tiny-a") == [401]  # LiteLLM ended it, no run did
    assert client.statuses(turning.new, "tiny-a") == [200]
    assert owner.play(llm_keys=[*owner.keys, *turning.keys]).changed == ["Keys | Rotate those that are due", LITELLM, FRONT_DOOR]
    assert not owner.file("turned.previous").exists()
    assert admin.query("SELECT max_budget FROM \"LiteLLM_VerificationToken\" WHERE key_alias LIKE 'turned%'") == "100"
    hashes = ", ".join(f"'{hashlib.sha256(value.encode()).hexdigest()}'" for value in (turning.old, turning.new))
    until(lambda: spend(admin, "turned") == pytest.approx(logged(admin, hashes), rel=1e-9), 60, "the key has been charged what both have spent")
    assert owner.play(llm_keys=[*owner.keys, *turning.keys]).changed == []


def test_what_is_listed_no_more_goes_when_told_so(owner: Owner, client: OpenAI, turning: Turning) -> None:
    done = owner.play(llm_keys=owner.keys, llm_keys_purge=True)
    assert done.rc == 0, done.said[-3000:]
    assert client.statuses(turning.new, "tiny-a") == [401]
    assert not owner.file("turned").exists()
    assert owner.file("turned.removed").read_text().strip() == turning.new, "nobody named it, so its value is kept"
