# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._claims import (
    claim,
    from_json,
    in_transit,
    release,
    to_json,
)
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError

Config = dict[str, t.Any]
CASES = {
    "nothing there": ({}, {"features": {"cdi": True}}, {"features": {"cdi": True}}),
    "another key of the same group": (
        {"features": {"buildkit": True}},
        {"features": {"cdi": True}},
        {"features": {"buildkit": True, "cdi": True}},
    ),
    "the user's value is replaced": ({"log-opts": {"max-size": "5m"}}, {"log-opts": {"max-size": "10m"}}, {"log-opts": {"max-size": "10m"}}),
    "the user has it so already": ({"debug": True}, {"debug": True}, {"debug": True}),
    "a value that means no": ({"debug": False}, {"debug": True}, {"debug": True}),
    "null is a value": ({"debug": None}, {"debug": True}, {"debug": True}),
    "a list grows": ({"dns": ["10.0.0.1"]}, {"dns": ["10.0.0.1", "10.0.0.2"]}, {"dns": ["10.0.0.1", "10.0.0.2"]}),
    "a list of ours": ({}, {"dns": ["10.0.0.2"]}, {"dns": ["10.0.0.2"]}),
    "an empty list of the user's": ({"dns": []}, {"dns": ["10.0.0.2"]}, {"dns": ["10.0.0.2"]}),
    "a list of groups": (
        {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}]},
        {"default-address-pools": [{"base": "10.2.0.0/16", "size": 24}]},
        {"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}, {"base": "10.2.0.0/16", "size": 24}]},
    ),
    "an entry key=value takes the place of its like": (
        {"exec-opts": ["native.cgroupdriver=systemd", "other=1"]},
        {"exec-opts": ["native.cgroupdriver=cgroupfs"]},
        {"exec-opts": ["other=1", "native.cgroupdriver=cgroupfs"]},
    ),
    "deep in a group of ours": ({}, {"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 2}}}),
    "an empty group says nothing": ({"runtimes": {"x": {"path": "/x"}}}, {"runtimes": {}}, {"runtimes": {"x": {"path": "/x"}}}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_in_and_out_again(case: tuple[Config, Config, Config]) -> None:
    theirs, ours, merged = case
    kept = json.dumps(theirs)
    result, claims = claim(theirs, ours)
    assert result == merged
    claims = from_json(json.loads(json.dumps(to_json(claims))))  # what the record on disk makes of it
    assert release(result, claims) == theirs
    assert json.dumps(theirs) == kept, "the caller's configuration is not touched"
    again, _claims = claim(release(result, claims), ours)
    assert again == merged


def test_what_the_user_changed_since_is_the_users() -> None:
    result, claims = claim({"debug": False, "log-opts": {"max-size": "5m"}}, {"debug": True, "log-opts": {"max-size": "10m"}, "dns": ["10.0.0.2"]})
    result["log-opts"]["max-size"] = "50m"
    result["dns"] = ["10.0.0.9"]
    assert release(result, claims) == {"debug": False, "log-opts": {"max-size": "50m"}, "dns": ["10.0.0.9"]}


def test_what_the_user_added_to_a_list_since_stays() -> None:
    result, claims = claim({"labels": ["rack=7"]}, {"labels": ["rack=8"], "dns": ["10.0.0.2"]})
    result["labels"].append("floor=1")
    result["dns"].append("10.0.0.9")
    assert release(result, claims) == {"labels": ["floor=1", "rack=7"], "dns": ["10.0.0.9"]}


def test_what_the_user_removed_since_does_not_come_back() -> None:
    result, claims = claim({"debug": False}, {"debug": True, "features": {"cdi": True}})
    assert release({}, claims) == {}
    result["features"]["buildkit"] = True
    assert release(result, claims) == {"debug": False, "features": {"buildkit": True}}, "a group of ours stays as long as the user has a key in it"


def test_a_claim_that_changes_while_the_run_is_killed() -> None:
    """The record is written before the file: whether the file was replaced or not, the user's value comes back."""
    theirs: Config = {"log-opts": {"max-size": "5m"}, "labels": ["rack=7", "site=lab"], "dns": ["10.0.0.1"]}
    first, old = claim(theirs, {"log-opts": {"max-size": "10m"}, "labels": ["rack=8"], "debug": True})
    second, new = claim(release(first, old), {"log-opts": {"max-size": "20m"}, "labels": ["site=hall"], "dns": ["10.0.0.2"]})
    held = in_transit(old, new)
    for config in (first, second):
        back = release(config, held)
        back["labels"] = sorted(back["labels"])
        assert back == theirs


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        ({"storage-driver": "vfs"}, {"storage-driver": {"name": "vfs"}}, "storage-driver.name cannot be set: storage-driver is 'vfs' in the file"),
        ({"log-opts": {"max-size": "5m"}}, {"log-opts": "none"}, "log-opts cannot be set to 'none': it is a group of keys"),
    ],
)
def test_a_group_and_a_value_do_not_merge(theirs: Config, ours: Config, says: str) -> None:
    with pytest.raises(InputError, match=says):
        claim(theirs, ours)
