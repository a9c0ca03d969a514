# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.baremetal.llm.plugins.filter import proof_targets as proof_filter
from ansible_collections.baremetal.llm.plugins.module_utils._proof_targets import proof_targets

HOSTVARS: dict[str, dict[str, t.Any]] = {"gpu01": {}, "gpu02": {"llm_drain": True}}


def endpoint(model: str, host: str, mode: str = "chat") -> dict[str, t.Any]:
    return {"model": model, "host": host, "port": 8081, "engine": "llama_router", "mode": mode, "url": f"http://{host}:8081", "max_input_tokens": 512}


def test_every_endpoint_then_every_name() -> None:
    found = proof_targets(
        [endpoint("chat", "gpu01"), endpoint("chat", "gpu02"), endpoint("big", "gpu02"), endpoint("embed", "gpu01", "embedding")],
        HOSTVARS,
        {"auto": {"models": [{"model": "big", "up_to": 100}, {"model": "chat"}]}, "large": {"models": [{"model": "big"}]}},
    )
    assert [(target.get("host"), target["model"], target["mode"], target["drained"]) for target in found] == [
        ("gpu01", "chat", "chat", False),
        ("gpu02", "chat", "chat", True),
        ("gpu02", "big", "chat", True),
        ("gpu01", "embed", "embedding", False),
        (None, "chat", "chat", False),
        (None, "big", "chat", True),
        (None, "embed", "embedding", False),
        (None, "auto", "chat", False),
        (None, "large", "chat", True),
    ]
    assert found[0]["url"] == "http://gpu01:8081"
    assert "url" not in found[-1]


def test_the_filter_says_what_is_wrong() -> None:
    with pytest.raises(AnsibleFilterError, match="llm_drain of gpu01 is 'yes'"):
        proof_filter.FilterModule().filters()["proof_targets"]([endpoint("chat", "gpu01")], {"gpu01": {"llm_drain": "yes"}}, {})
