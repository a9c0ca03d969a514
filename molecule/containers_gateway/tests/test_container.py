"""LiteLLM in its container with its database: that it holds what the native way holds. Then another image, and the other way to run it. In this order."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest
from conftest import Admin, FrontDoor, chat, play, shell, until  # type: ignore[import-not-found]

NAME = "llm-litellm"
SERVER = "postgresql@15-llm"
STARTS_WITHIN = 240  # seconds; 30 on an idle machine, of which this one need not be
MIGRATIONS = "/app/.venv/lib/python3*/site-packages/litellm_proxy_extras/migrations"
PROXY_SERVER = "/app/.venv/lib/python3*/site-packages/litellm/proxy/proxy_server.py"
EVERYWHERE = (
    "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; find /etc /run /tmp /var/lib/llm /var/lib/docker /var/log -xdev -type f -size -1024k -exec cat {} +"
)
Row = tuple[str, ...]


def inspected(machine: str) -> dict[str, t.Any]:
    (about,) = json.loads(shell(machine, f"docker inspect {NAME}"))
    return dict(about)


def started(machine: str) -> tuple[str, str]:
    about = inspected(machine)
    return about["Id"], about["State"]["StartedAt"]


def process(machine: str, what: str) -> str:
    """Of the container's own; its first one is the engine's, which only waits for the others."""
    return shell(machine, f"pgrep --oldest --uid {NAME} --full '{what}'").strip()


def keys(admin: Admin) -> list[Row]:
    statement = 'SELECT token, key_alias, max_budget FROM "LiteLLM_VerificationToken" ORDER BY 1'
    return [tuple(line.split("|")) for line in admin.query(statement).splitlines()]


def spent(admin: Admin, alias: str) -> float:
    return float(admin.query(f"SELECT spend FROM \"LiteLLM_VerificationToken\" WHERE key_alias = '{alias}'"))


def total(admin: Admin) -> float:
    """What all keys have spent. It only grows, and what was spent last is written some seconds later."""
    return float(admin.query('SELECT sum(spend) FROM "LiteLLM_VerificationToken"'))


def derived(machine: str, *steps: str) -> str:
    """Another image, of the one that runs; returns its id."""
    shell(machine, f"docker tag {inspected(machine)['Image']} litellm:test")
    lines = "\\n".join(("FROM litellm:test", *(f"RUN {step}" for step in steps)))
    return shell(machine, f"printf '{lines}\\n' | docker build --quiet --network none -").strip()


def seen_by_nobody(machine: str) -> str:
    return shell(machine, f"(runuser --user nobody -- sh -c '{EVERYWHERE}' 2>/dev/null || true) | tr --complement --delete '[:print:]'")


def run_with(inventory: Path, image: str, *more: str) -> t.Any:
    return play(inventory, "gateway", "--extra-vars", f"litellm_image={image}", *more)


def test_a_token_streams_through_it_and_is_paid_for(admin: Admin, front_door: FrontDoor) -> None:
    before = spent(admin, "counted")
    assert front_door.stream("counted", 20).pace.total > 0
    seconds = until(lambda: spent(admin, "counted") > before, 120, "what was spent is in the database")
    assert chat(front_door, "sk-" + "0" * 64).status == 401
    assert chat(front_door, front_door.key("only-a"), "tiny-b").status in (401, 403)
    print(f"spend was written after {seconds:.1f} s")


def test_it_may_do_nothing_that_it_need_not(machine: str) -> None:
    about = inspected(machine)
    pid = about["State"]["Pid"]
    assert shell(machine, f"stat --format=%U /proc/{pid}").strip() == NAME
    status = dict(line.split(":\t", 1) for line in shell(machine, f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, 0, "1", "2")
    mounts = {line.split()[4]: line.split()[5].split(",") for line in shell(machine, f"cat /proc/{pid}/mountinfo").splitlines()}
    assert [path for path in ("/", "/etc/llm/litellm") if "ro" not in mounts[path]] == []
    assert "noexec" in mounts["/tmp"]


def test_no_secret_is_where_others_read(machine: str, inventory: Path) -> None:
    secrets = {name: (inventory / ".secrets" / name).read_text().strip() for name in ("litellm_salt_key", "litellm_master_key", "engine_key")}
    told = shell(machine, f"docker inspect {NAME}; docker logs {NAME} 2>&1; journalctl --no-pager --output=json")
    seen = seen_by_nobody(machine)
    assert "start.py" in seen
    assert [name for name, secret in secrets.items() if secret in told or secret in seen] == []
    assert "TestCanary" not in seen
    shell(machine, "echo TestCanary >/tmp/canary && chmod a+r /tmp/canary")
    assert "TestCanary" in seen_by_nobody(machine)
    shell(machine, "rm /tmp/canary")


def test_a_killed_query_engine_comes_back(admin: Admin, front_door: FrontDoor, machine: str) -> None:
    key = admin.make_key("test-engine")
    shell(machine, f"kill -KILL {process(machine, '[q]uery-engine')}")
    seconds = until(lambda: chat(front_door, key).status == 200, 60, "a key that nobody remembers is looked up")
    admin.remove_key("test-engine")
    print(f"the engine killed: a new key was looked up after {seconds:.1f} s")


def test_a_killed_litellm_comes_back(admin: Admin, front_door: FrontDoor, machine: str) -> None:
    before = started(machine)
    shell(machine, f"kill -KILL {process(machine, '^python .*start.py')}")
    seconds = until(lambda: admin.database() == "connected", STARTS_WITHIN, "it runs again, with its database")
    assert started(machine) != before
    assert chat(front_door, front_door.key("laptop")).status == 200
    print(f"LiteLLM killed: back after {seconds:.1f} s")


def test_without_the_database_at_its_start_it_waits_for_it(admin: Admin, front_door: FrontDoor, machine: str) -> None:
    """Left to itself, it would answer 401 for ever and say that it is ready."""
    shell(machine, f"systemctl stop {SERVER} && docker kill {NAME} && docker start {NAME}")
    try:
        for _look in range(10):
            assert chat(front_door, front_door.key("laptop")).status in (502, 503)
            assert admin.database() == ""
            time.sleep(1)
        began = time.monotonic()
        shell(machine, f"docker stop {NAME}")  # while it waits
        assert time.monotonic() - began < 15
        shell(machine, f"docker start {NAME}")
        time.sleep(3)
    finally:
        shell(machine, f"systemctl start {SERVER}")
    until(lambda: admin.database() == "connected", STARTS_WITHIN, "it runs, with its database")
    assert chat(front_door, front_door.key("laptop")).status == 200


def test_what_was_spent_last_is_written_when_the_machine_stops(admin: Admin, front_door: FrontDoor, machine: str) -> None:
    before, key = spent(admin, "counted"), front_door.key("counted")
    used = [chat(front_door, key).body["usage"] for _time in range(3)]
    shell(machine, f"systemctl stop docker.socket docker.service {SERVER}")  # all at once, as a machine that stops does
    shell(machine, f"systemctl start {SERVER} docker.service")
    until(lambda: admin.database() == "connected", STARTS_WITHIN, "it runs, with its database")
    paid = sum(one["prompt_tokens"] * 1000 + one["completion_tokens"] * 2000 for one in used) / 1e6
    assert spent(admin, "counted") - before == pytest.approx(paid)


def test_it_comes_back_with_the_machines_engine(admin: Admin, front_door: FrontDoor, machine: str) -> None:
    shell(machine, "systemctl restart docker")
    until(lambda: admin.database() == "connected", STARTS_WITHIN, "it runs again")
    assert chat(front_door, front_door.key("laptop")).status == 200


def test_another_salt_key_is_refused_before_anything_is_changed(machine: str, inventory: Path) -> None:
    before = started(machine)
    run = play(inventory, "gateway", "--extra-vars", f"llm_salt_key={'x' * 64}")
    assert run.rc != 0
    assert "litellm_salt_key is not the one with which this database was written" in run.said
    assert started(machine) == before
    assert "xxxxxxxx" not in shell(machine, "cat /etc/llm/litellm/salt")


@pytest.fixture
def backup(machine: str, inventory: Path, identity: Path, public: str, tmp_path: Path) -> dict[str, str]:
    """One made now, as restore.yml is told of it."""
    run = play(inventory, "backup", "--extra-vars", json.dumps({"backup_encrypt_to": [public], "llm_backup_copies": str(tmp_path)}))
    assert run.rc == 0, run.said[-3000:]
    (made,) = (tmp_path / machine).iterdir()
    return {"restore_from": str(made), "restore_identity": str(identity)}


def test_a_backup_is_put_in_place(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path, backup: dict[str, str]) -> None:
    there, ran = keys(admin), started(machine)
    late = admin.make_key("test-late")
    assert chat(front_door, late).status == 200
    run = play(inventory, "restore", "--extra-vars", json.dumps({**backup, "restore_keep_old": False}))
    assert run.rc == 0, run.said[-3000:]
    assert started(machine)[0] == ran[0]
    assert started(machine)[1] > ran[1]
    assert keys(admin) == there
    assert admin.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'litellm_%'") == "0"
    assert [chat(front_door, key).status for key in (front_door.key("laptop"), late)] == [200, 401]


def test_an_image_that_cannot_make_its_tables_changes_nothing(admin: Admin, machine: str, inventory: Path) -> None:
    before, there = started(machine), keys(admin)
    image = derived(
        machine, f"cd {MIGRATIONS} && mkdir 99990101000000_broken && echo ALTER TABLE no_such ADD COLUMN a int >99990101000000_broken/migration.sql"
    )
    run = run_with(inventory, image)
    assert run.rc != 0
    assert "cannot make its tables in a copy of litellm, so nothing was changed" in run.said
    assert started(machine) == before
    assert keys(admin) == there


def test_an_image_that_does_not_start_goes_back_with_its_tables(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path) -> None:
    there, ran = keys(admin), inspected(machine)["Image"]
    image = derived(
        machine,
        f"cd {MIGRATIONS} && mkdir 99990101000000_new && echo CREATE TABLE of_the_new_image \\(a int\\) >99990101000000_new/migration.sql",
        f"""echo "if \\"--port\\" in sys.argv: raise RuntimeError" >>$(echo {PROXY_SERVER})""",
    )
    run = run_with(inventory, image, "--extra-vars", "litellm_start_timeout=90")
    assert run.rc != 0
    assert f"LiteLLM {image} did not do its work on {machine}, so {ran} runs again, with the database as it was before" in run.said
    assert inspected(machine)["Image"] == ran
    assert admin.query("SELECT to_regclass('of_the_new_image')") == ""
    assert keys(admin) == there
    assert chat(front_door, front_door.key("laptop")).status == 200


def test_another_image(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path) -> None:
    there = keys(admin)
    image = derived(machine, f"cd {MIGRATIONS} && mkdir 99990101000000_new && echo CREATE TABLE of_the_new_image \\(a int\\) >99990101000000_new/migration.sql")
    run = run_with(inventory, image)
    assert run.rc == 0, run.said[-3000:]
    assert inspected(machine)["Image"] == image
    assert admin.query("SELECT to_regclass('of_the_new_image')") == "of_the_new_image"
    assert admin.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'litellm_%'") == "0"
    assert keys(admin) == there
    assert chat(front_door, front_door.key("laptop")).status == 200


def test_native_and_back(admin: Admin, front_door: FrontDoor, machine: str, inventory: Path) -> None:
    assert play(inventory, "gateway").rc == 0  # the inventory's image
    there, paid = keys(admin), total(admin)
    for deployment, unit, container in (("native", "active", ""), ("container", "inactive", NAME)):
        run = play(inventory, "gateway", "--extra-vars", f"litellm_deployment={deployment}")
        assert run.rc == 0, run.said[-3000:]
        assert shell(machine, f"systemctl show --value --property=ActiveState {NAME}").strip() == unit
        assert shell(machine, "docker container ls --all --format='{{.Names}}'").strip() == container
        assert keys(admin) == there
        assert total(admin) >= paid > 0
        assert chat(front_door, front_door.key("laptop")).status == 200
    assert shell(machine, "find /etc/systemd/system /opt/llm -name '*litellm*' -not -name '*.service.d' -not -path '*guard*'") == ""


@pytest.fixture(autouse=True)
def limits_are_fresh(machine: str, front_door: FrontDoor) -> None:
    """What a test has used up is not held against the next one."""
    shell(machine, "systemctl restart llm-nginx")
    until(lambda: answers(front_door), 10, "Nginx answers")


def answers(front_door: FrontDoor) -> bool:
    try:
        return bool(front_door.ask("GET", "/health").status == 200)
    except OSError:
        return False
