# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A stand-in for LiteLLM's management API, with the few rules that the plan relies on. The real one is asked in Molecule."""

from __future__ import annotations

import copy
import datetime as dt
import typing as t

from ansible_collections.baremetal.llm.plugins.module_utils._litellm_api import ApiError, hashed
from ansible_collections.baremetal.llm.plugins.module_utils._litellm_keys import Api

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.timezone.utc)


class Killed(BaseException):
    pass


class LiteLLM(Api):
    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, t.Any]]] = {"key": {}, "team": {}, "user": {}}
        self.requests: list[tuple[str, dict[str, t.Any]]] = []
        self.now = NOW
        self.allowed = 10**6  # requests that change something, before the run is killed

    def get(self, path: str, **query: t.Any) -> t.Any:
        if path == "/key/info":
            return {"info": self.rows["key"][query["key"]]}
        assert path == "/team/list"
        return [copy.deepcopy(row) for row in self.rows["team"].values()]

    def pages(self, path: str, field: str, size_name: str, **query: t.Any) -> list[dict[str, t.Any]]:
        return [copy.deepcopy(row) for row in self.rows[field.removesuffix("s")].values()]

    def post(self, path: str, body: t.Mapping[str, t.Any]) -> t.Any:
        if self.allowed == 0:
            raise Killed
        self.allowed -= 1
        self.requests.append((path, dict(body)))
        kind, what = path.strip("/").split("/")
        body, rows = dict(body), self.rows[kind]
        if what == "delete":
            for name in body[f"{kind}s" if kind == "key" else f"{kind}_ids"]:
                del rows[name]
            return {}
        if "duration" in body:
            lasts = body.pop("duration")
            body["expires"] = None if lasts is None else (self.now + dt.timedelta(seconds=int(lasts[:-1]))).isoformat()
        if kind != "key":
            rows.setdefault(body[f"{kind}_id"], {"spend": 0.0}).update(body)
            return {}
        token = hashed(body.pop("key")) if what == "generate" else body.pop("key")
        if what == "generate" and token in rows:
            raise ApiError("there already")
        if any(other != token and row["key_alias"] == body.get("key_alias") for other, row in rows.items()):
            raise ApiError("Unique key aliases across all keys are required")
        rows.setdefault(token, {"token": token, "spend": 0.0}).update(body)
        return {}

    def named(self, alias: str) -> dict[str, t.Any]:
        (row,) = (row for row in self.rows["key"].values() if row["key_alias"] == alias)
        return row

    @property
    def aliases(self) -> list[str]:
        return sorted(row["key_alias"] for row in self.rows["key"].values())
