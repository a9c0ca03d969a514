# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.plugins.module_utils._lock import lock_entry

LOCK: dict[str, t.Any] = {
    "engine": {
        "default": "2",
        "refused": {"below": "1.83.10", "versions": [], "reason": "unused here"},
        "versions": {"2": {"archive": {"x86_64": {"url": "u2"}}}, "1.90": {"source": {"pypi": "p"}}},
    },
    "proxy": {
        "default": "1.106.2",
        "refused": {"below": "1.83.10", "versions": ["1.84.0"], "reason": "CVE-1"},
        "versions": {"1.106.2": {"requirements": "r"}, "1.84.0": {"requirements": "bad"}, "1.82.7": {"requirements": "bad"}},
    },
}


def test_the_default_version_unless_told_otherwise() -> None:
    assert lock_entry(LOCK, "proxy") == {"version": "1.106.2", "requirements": "r"}
    assert lock_entry(LOCK, "engine", "1.90", "source") == {"version": "1.90", "pypi": "p"}
    assert lock_entry(LOCK, "engine", "", "archive", "x86_64") == {"version": "2", "url": "u2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "no artefact 'nothing' .it has: engine, proxy"),
        (("proxy", "9"), "no version '9' .it has: 1.106.2"),
        (("engine", "1.90", "archive"), "no part 'archive' .it has: source"),
        (("engine", "", "archive", "sparc"), "no variant 'sparc' .it has: x86_64"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        lock_entry(LOCK, *arguments)


@pytest.mark.parametrize("version", ["1.82.7", "1.83.9", "1.84.0", "1.9"])
def test_known_bad_versions_are_refused_even_if_locked(version: str) -> None:
    with pytest.raises(InputError, match=f"proxy {version} is refused: CVE-1"):
        lock_entry(LOCK, "proxy", version)


def test_versions_that_are_not_numbers_are_only_compared_by_name() -> None:
    lock = {"tool": {"default": "b1", "refused": {"below": "2.0", "versions": [], "reason": "r"}, "versions": {"b1": {}}}}
    assert lock_entry(lock, "tool") == {"version": "b1"}
