# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The modules behind role nvidia_driver: that each option arrives, what comes back, and when it is a failure."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._apt import AptError, Packages
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._driver_activation import ActivationError
from ansible_collections.baremetal.llm.plugins.module_utils._driver_state import DriverState, KernelModule, Verdict, read_state
from ansible_collections.baremetal.llm.plugins.module_utils._nvml import Snapshot
from ansible_collections.baremetal.llm.plugins.module_utils._signing_key import KeyRefused, SigningKey
from ansible_collections.baremetal.llm.plugins.modules import apt_packages, nvidia_driver_info, nvidia_driver_ready, signing_key

Call = t.Callable[..., dict[str, t.Any]]


def changed(name: str = "x") -> Difference:
    difference = Difference()
    difference.add(name, None, "there")
    return difference


def test_apt_packages_hands_everything_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Packages, bool]] = []

    def ensure(packages: Packages, _run: t.Any, check: bool) -> Difference:
        seen.append((packages, check))
        return changed()

    monkeypatch.setattr(apt_packages, "ensure", ensure)
    answer = call(apt_packages, check=True, install=["a=1.*"], remove=["b"], hold=["a"], held=False, may_remove="c")
    assert answer["diff"] == {"before": "x: (absent)\n", "after": "x: there\n"}
    assert seen == [(Packages(("a=1.*",), ("b",), ("a",), False, "c"), True)]


def test_apt_packages_passes_a_refusal_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(*_arguments: t.Any) -> Difference:
        raise AptError("apt would remove everything")

    monkeypatch.setattr(apt_packages, "ensure", ensure)
    assert call(apt_packages, install=["a"])["msg"] == "apt would remove everything"


def test_signing_key_hands_everything_over(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SigningKey] = []

    def present(key: SigningKey, _run: t.Any, gpg: str, check: bool) -> Difference:
        seen.append(key)
        if not check:
            raise KeyRefused("it is another key")
        return changed(gpg)

    monkeypatch.setattr(signing_key, "present", present)
    options = {"url": "https://example.org/key", "fingerprints": ["A" * 40], "path": "/etc/x.asc", "mirror": "/srv"}
    assert call(signing_key, check=True, **options)["diff"]["after"].endswith("/gpg: there\n")
    assert call(signing_key, **options)["msg"] == "it is another key"
    assert {(str(key.dest), key.url, key.fingerprints, key.mirror) for key in seen} == {
        ("/etc/x.asc", "https://example.org/key", ("A" * 40,), "/srv")
    }


def test_signing_key_needs_gpg_except_for_a_check(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.basic.get_bin_path", lambda *_arguments, **_options: "")
    monkeypatch.setattr(signing_key.AnsibleModule, "get_bin_path", lambda *_arguments: None)
    options = {"url": "https://example.org/key", "fingerprints": ["A" * 40], "path": "/nowhere/x.asc"}
    assert call(signing_key, check=True, **options)["changed"]
    assert "install the package gpg" in call(signing_key, **options)["msg"]


def test_nvidia_driver_info_answers_on_any_machine(call: Call) -> None:
    found = call(nvidia_driver_info)["nvidia_driver"]
    assert found["system"]["kernel"]
    assert {"gpus", "loaded", "built", "packages", "held", "archives", "mok", "managed"} <= set(found)


class Driver:
    """A machine in a state of the test's choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state: DriverState = read_state(lambda _argv: (0, "", ""), lambda _program: "")
        self.verdict = Verdict([], [], False)
        self.difference = Difference()
        self.blocked: list[bool] = []
        self.warned: list[str] = []
        monkeypatch.setattr(nvidia_driver_ready.AnsibleModule, "warn", lambda _module, message: self.warned.append(message))
        monkeypatch.setattr(nvidia_driver_ready, "read_state", lambda *_arguments: self.state)
        monkeypatch.setattr(nvidia_driver_ready, "verdict", lambda *_arguments: self.verdict)
        monkeypatch.setattr(nvidia_driver_ready, "snapshot", lambda: Snapshot(available=True))
        monkeypatch.setattr(nvidia_driver_ready, "activate", self.activate)

    def activate(self, _read: t.Any, _run: t.Any, _find: t.Any, block_nouveau: bool, _check: bool) -> Difference:
        self.blocked.append(block_nouveau)
        return self.difference


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver(monkeypatch)
    found.state = replace(found.state, packages={"nvidia-smi": "1"}, loaded=KernelModule("580.1", True))
    return found


def test_a_driver_that_works(call: Call, driver: Driver) -> None:
    answer = call(nvidia_driver_ready)
    assert (answer["changed"], answer["pending"], answer["reboot"], answer["driver"]) == (False, [], False, "580.1")
    assert driver.warned == []
    call(nvidia_driver_ready, block_nouveau=False)
    assert driver.blocked == [True, False]


@pytest.mark.parametrize(("reboot", "follows", "warned"), [(True, False, True), (True, True, False), (False, True, True)])
def test_what_is_pending_is_a_warning_unless_the_reboot_is_coming(call: Call, driver: Driver, reboot: bool, follows: bool, warned: bool) -> None:
    driver.verdict = Verdict(["nouveau holds the GPU."], [], reboot)
    answer = call(nvidia_driver_ready, reboot_follows=follows)
    assert (answer["pending"], answer["reboot"]) == (["nouveau holds the GPU."], reboot)
    kind = ", a reboot is needed" if reboot else ""
    assert driver.warned == ([f"The NVIDIA driver does not work yet{kind}: nouveau holds the GPU."] if warned else [])


def test_what_is_broken_is_a_failure(call: Call, driver: Driver) -> None:
    driver.verdict = Verdict([], ["the GPU at 0000:01:00.0 is lost."], False)
    answer = call(nvidia_driver_ready)
    assert answer["failed"]
    assert answer["msg"] == "The NVIDIA driver does not work: the GPU at 0000:01:00.0 is lost."
    # what a check has only foreseen cannot have mended it yet
    driver.difference = changed()
    assert not call(nvidia_driver_ready, check=True).get("failed")


def test_a_check_before_the_installation_says_so(call: Call, driver: Driver) -> None:
    driver.state = replace(driver.state, packages={}, loaded=None)
    driver.verdict = Verdict([], ["no kernel has a driver module."], False)
    assert call(nvidia_driver_ready, check=True)["pending"] == ["the driver is not installed yet."]
    assert call(nvidia_driver_ready)["failed"]


def test_a_build_that_fails_is_passed_on(call: Call, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def activate(*_arguments: t.Any) -> Difference:
        raise ActivationError("DKMS cannot build")

    monkeypatch.setattr(nvidia_driver_ready, "activate", activate)
    assert call(nvidia_driver_ready)["msg"] == "DKMS cannot build"
