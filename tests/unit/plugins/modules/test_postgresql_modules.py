# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_client import NoClient
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_databases import Database
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_external import Answer, External
from ansible_collections.baremetal.llm.plugins.module_utils._postgresql_server import Outcome, Wish
from ansible_collections.baremetal.llm.plugins.modules import postgresql_external_info, postgresql_server

Call = t.Callable[..., dict[str, t.Any]]
PASSWORD = "correct horse battery staple"
ONE = {"name": "litellm", "owner": "gateway", "password": PASSWORD}


def raising(error: Exception) -> t.Callable[..., t.Any]:
    def run(*_arguments: t.Any) -> t.NoReturn:
        raise error

    return run


def test_the_wish_arrives_and_the_password_does_not_come_back(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Wish, bool]] = []

    def present(wish: Wish, _run: t.Any, check: bool) -> Outcome:
        seen.append((wish, check))
        return Outcome(True, {"before": "", "after": "x"}, "15", True)

    monkeypatch.setattr(postgresql_server, "present", present)
    answer = call(postgresql_server, check=True, databases=[ONE], port=5433, loopback=False, settings={"work_mem": "5MB"})
    assert seen == [(Wish("", 5433, False, 100, {"work_mem": "5MB"}, (Database("litellm", "gateway", PASSWORD),)), True)]
    assert (answer["changed"], answer["version"], answer["checksums"]) == (True, "15", True)
    assert "warnings" not in answer
    assert PASSWORD not in json.dumps(answer)


def test_missing_checksums_are_warned_of_with_the_remedy(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_server, "present", lambda *_arguments: Outcome(False, {}, "15", False))
    assert "pg_checksums --enable -D /var/lib/postgresql/15/llm" in json.dumps(call(postgresql_server)["warnings"])


def test_absent_hands_purge_over_and_errors_are_sentences(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_server, "absent", lambda purge, _run, check: Outcome(purge and not check, {}))
    assert call(postgresql_server, state="absent", purge=True)["changed"]
    monkeypatch.setattr(postgresql_server, "present", raising(InputError("no such thing")))
    assert "no such thing" in call(postgresql_server)["msg"]


def test_an_external_server_is_told_of(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[External] = []

    def ask(server: External, _databases: t.Any) -> Answer:
        seen.append(server)
        return Answer("17", True, ("gateway",))

    monkeypatch.setattr(postgresql_external_info, "ask", ask)
    answer = call(postgresql_external_info, host="db.example.org", databases=[ONE])
    assert seen == [External("db.example.org", 5432, "verify-full", "")]
    assert (answer["changed"], answer["version"], answer["encrypted"]) == (False, "17", True)
    assert "gateway at db.example.org is a superuser" in json.dumps(answer["warnings"])


def test_without_a_client_only_check_mode_goes_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_external_info, "ask", raising(NoClient("python3-psycopg2 is not there.")))
    assert "was not asked" in json.dumps(call(postgresql_external_info, check=True, host="db", databases=[ONE])["warnings"])
    assert "python3-psycopg2" in call(postgresql_external_info, host="db", databases=[ONE])["msg"]
    assert "postgresql_databases is empty" in call(postgresql_external_info, host="db", databases=[])["msg"]
