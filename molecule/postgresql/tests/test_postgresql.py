"""Who gets in and who does not, what an owner may do, and what a restart and a killed server leave: each tried with the real client."""

from __future__ import annotations

import socket
import time
import typing as t
from pathlib import Path

import pytest
import yaml

testinfra_hosts = ["ansible://all"]
DATABASES = yaml.safe_load((Path(__file__).parents[1] / "group_vars/all.yml").read_text())["given"]
OWNER, WRITER, KEYLESS = DATABASES
WITH_PASSWORD = (OWNER, WRITER)
PLACES = ("127.0.0.1", "/var/run/postgresql")


def ask(host: t.Any, statement: str, *, database: str = "litellm", place: str = "127.0.0.1", user: str = "litellm", password: str = OWNER["password"]) -> t.Any:
    command = "PGPASSWORD=%s PGCONNECT_TIMEOUT=5 psql --no-psqlrc --no-password --tuples-only --no-align --host=%s --username=%s --dbname=%s --command=%s"
    return host.run(command, password, place, user, database, statement)


def administrator(host: t.Any, statement: str, database: str = "postgres") -> str:
    command = "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname=%s --command=%s"
    return str(host.check_output(command, database, statement))


def version(host: t.Any) -> str:
    return "15" if "bookworm" in host.ansible.get_variables()["inventory_hostname"] else "17"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("one", WITH_PASSWORD, ids=lambda one: one["owner"])
def test_each_owner_gets_in_with_its_password(host: t.Any, place: str, one: dict[str, t.Any]) -> None:
    seen = ask(host, "SELECT current_user, current_database()", database=one["name"], place=place, user=one["owner"], password=one["password"])
    assert seen.stdout.strip() == f"{one['owner']}|{one['name']}", seen.stderr


@pytest.mark.parametrize("place", PLACES)
def test_nobody_else_gets_in(host: t.Any, place: str) -> None:
    assert "password authentication failed" in ask(host, "SELECT 1", place=place, password="x" * 32).stderr
    assert "no password supplied" in ask(host, "SELECT 1", place=place, password="").stderr
    for database, user in (("postgres", "litellm"), ("notes", "litellm"), ("litellm", "writer"), ("template1", "litellm"), ("litellm", "root")):
        assert "no pg_hba.conf entry" in ask(host, "SELECT 1", database=database, place=place, user=user).stderr, (database, user)
    said = ask(host, "SELECT 1", database="postgres", place=place, user="postgres").stderr
    assert ("Peer authentication failed" if place.startswith("/") else "no pg_hba.conf entry") in said


def test_a_system_user_gets_in_without_a_password_and_only_it(host: t.Any) -> None:
    command = "runuser --user %s -- psql --no-psqlrc --no-password --tuples-only --no-align --username=keyless --dbname=keyless --command='SELECT current_user'"
    assert host.check_output(command, KEYLESS["system_user"]) == "keyless"
    assert "Peer authentication failed" in host.run(command, "nobody").stderr
    assert "no pg_hba.conf entry" in ask(host, "SELECT 1", database="keyless", user="keyless", password="x" * 32).stderr
    assert administrator(host, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'keyless'") == "t"


def test_pg_hba_is_not_all_that_keeps_an_owner_out(host: t.Any) -> None:
    may = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE datallowconn AND has_database_privilege('litellm', datname, 'CONNECT')"
    assert administrator(host, may) == "litellm"


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("CREATE ROLE more", "permission denied to create role"),
        ("CREATE DATABASE more", "permission denied to create database"),
        ("ALTER ROLE litellm SUPERUSER", "must be superuser|permission denied to alter role"),
        ("ALTER SYSTEM SET work_mem = '1GB'", "permission denied|must be superuser"),
        ("SET ROLE postgres", "permission denied to set role"),
        ("SELECT pg_read_file('/etc/passwd')", "permission denied"),
        ("COPY (SELECT 1) TO PROGRAM 'id'", "permission denied to COPY|must be superuser"),
        ("COPY (SELECT 1) TO '/tmp/x'", "permission denied to COPY|must be superuser"),
        ("SELECT rolpassword FROM pg_authid", "permission denied"),
        ("CREATE EXTENSION dblink", "permission denied|not available"),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IS DISTINCT FROM current_user", "permission denied|must be a"),
        ("CREATE TABLE pg_catalog.mine (a int)", "permission denied"),
    ],
)
def test_an_owner_can_do_nothing_else(host: t.Any, statement: str, refusal: str) -> None:
    seen = ask(host, statement)
    assert seen.rc != 0
    assert any(part in seen.stderr for part in refusal.split("|")), seen.stderr


def test_an_owner_works_in_its_database(host: t.Any) -> None:
    seen = ask(
        host, "DROP TABLE IF EXISTS public.kept; CREATE TABLE public.kept (a int); INSERT INTO public.kept VALUES (7); CREATE SCHEMA own; DROP SCHEMA own"
    )
    assert seen.rc == 0, seen.stderr


def test_the_connection_limit_holds(host: t.Any) -> None:
    more = " & ".join(["PGPASSWORD=%s psql --no-psqlrc --host=127.0.0.1 --username=writer --dbname=notes --command='SELECT pg_sleep(3)'"] * 4)
    seen = host.run(f"{more} & wait", *[WRITER["password"]] * 4)
    assert seen.stderr.count("too many connections for role") == 1, seen.stderr


def test_the_data_has_checksums_and_passwords_are_scram(host: t.Any) -> None:
    assert administrator(host, "SHOW data_checksums") == "on"
    assert administrator(host, "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256$%'") == "2"


def test_it_is_the_distributions_and_only_it_runs(host: t.Any) -> None:
    assert host.check_output("pg_lsclusters --no-header").split()[:4] == [version(host), "llm", "5432", "online"]
    assert len(host.check_output("pg_lsclusters --no-header").splitlines()) == 1
    assert not host.file("/etc/postgresql-common/createcluster.d/llm.conf").exists


def test_it_is_tuned_for_the_machine(host: t.Any) -> None:
    memory = int(host.check_output("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert administrator(host, "SELECT setting::int / 128 FROM pg_settings WHERE name = 'shared_buffers'") == str(max(128, min(2048, memory // 16)))
    assert administrator(host, "SHOW jit") == "off"
    assert administrator(host, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"


def test_the_port_is_closed_from_elsewhere(host: t.Any) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    assert {line.split()[3] for line in listening} <= {"127.0.0.1:5432", "[::1]:5432"}
    assert listening
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.check_output("hostname -I").split()[0], 5432), timeout=5)


def test_a_restart_keeps_the_data_and_so_does_a_kill(host: t.Any) -> None:
    host.check_output("systemctl restart postgresql")
    wait(host)
    unit = f"postgresql@{version(host)}-llm"
    pid = f"systemctl show --value --property=MainPID {unit}"
    before = host.check_output(pid)
    host.check_output(f"systemctl kill --signal=KILL {unit}")
    assert any(host.check_output(pid) not in (before, "0") or time.sleep(1) for _second in range(30))
    wait(host)


def wait(host: t.Any) -> None:
    for _second in range(30):
        if ask(host, "SELECT a FROM public.kept").stdout.strip() == "7":
            return
        time.sleep(1)
    raise AssertionError("it did not come back with its data")


def test_no_password_is_anywhere(host: t.Any) -> None:
    for one in WITH_PASSWORD:
        places = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; journalctl --no-pager --output=json; cat /var/log/postgresql/*"
        assert one["password"] not in host.run(places).stdout
        search = "grep --recursive --files-with-matches --fixed-strings -e %s /etc /run /tmp /root /var/lib /var/log /opt 2>/dev/null"
        assert host.run(search, one["password"]).stdout == ""
