# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Against an apt that answers as the real one did; the real one is asked in Molecule (gpu_driver)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._apt import AptError, Packages, ensure

SIMULATION = """\
NOTE: This is only a simulation!
Reading package lists...
The following packages will be REMOVED:
  nvidia-open-kernel-dkms*
Purg nvidia-open-kernel-dkms [550.163.01-2]
Inst libnvidia-ml1 [550.163.01-2] (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64]) []
Inst nvidia-smi (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Conf nvidia-smi (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
"""
POLICY = """\
nvidia-smi:
  Installed: (none)
  Candidate: {candidate}
  Version table:
     535.309.01-0+deb12u1 1001
        500 http://mirror.example.org/debian-security bookworm-security/non-free amd64 Packages
"""


@dataclass
class Apt:
    """What is installed and held, what apt would choose, and what it was told to do, without the environment and options."""

    installed: dict[str, str] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    candidate: str = "535.309.01-0+deb12u1"
    simulation: str = SIMULATION
    audit: str = ""
    fails: str = ""
    done: list[list[str]] = field(default_factory=list)
    argv: list[list[str]] = field(default_factory=list)

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.argv.append(argv)
        if self.fails and self.fails in " ".join(argv):
            return 100, "", "E: that cannot be done"
        answers = {
            "dpkg-query": "".join(f"installed {name} {version}\n" for name, version in self.installed.items()) + "config-files gone 1\n",
            "showhold": "\n".join(self.held),
            "policy": POLICY.format(candidate=self.candidate) if self.candidate else "",
            "--simulate": self.simulation,
            "--audit": self.audit,
        }
        for word, answer in answers.items():
            if word in argv:
                return 0, answer, ""
        self.done.append([word for word in argv if not re.match("-|/usr/bin/env|DEBIAN_|LC_ALL", word)])
        return 0, "", ""


SMI = Packages(("nvidia-smi=535.*",))
READY = {"nvidia-smi": "535.309.01-0+deb12u1"}


def test_what_is_there_asks_nobody_for_news() -> None:
    apt = Apt(READY, ["nvidia-smi"])
    assert not ensure(Packages(SMI.install, remove=("gone", "nvidia-open"), hold=("nvidia-smi",)), apt, check=False).changed
    assert apt.done == []


@pytest.mark.parametrize("before", [{}, {"nvidia-smi": "550.163.01-2"}, {"nvidia-smi": "5350"}])
def test_another_version_is_exchanged_in_one_transaction(before: dict[str, str]) -> None:
    apt = Apt({**before, "nvidia-open-kernel-dkms": "550.163.01-2"})
    changed = ensure(Packages(SMI.install, remove=("nvidia-open-kernel-dkms",)), apt, check=False)
    assert apt.done == [["apt-get", "update"], ["apt-get", "install", "nvidia-smi=535.309.01-0+deb12u1", "nvidia-open-kernel-dkms-"]]
    transaction = next(argv for argv in apt.argv if "install" in argv and "--simulate" not in argv)
    assert {"--allow-downgrades", "--allow-change-held-packages", "--no-install-recommends", "--yes", "DEBIAN_FRONTEND=noninteractive"} <= set(transaction)
    assert changed.as_dict() == {
        "before": "package nvidia-open-kernel-dkms: 550.163.01-2\npackage libnvidia-ml1: 550.163.01-2\npackage nvidia-smi: (absent)\n",
        "after": "package nvidia-open-kernel-dkms: (absent)\n"
        "package libnvidia-ml1: 535.309.01-0+deb12u1\npackage nvidia-smi: 535.309.01-0+deb12u1\n",
    }


@pytest.mark.parametrize(
    ("installed", "moved"),
    [
        ({"nvidia-smi": "535.1-1", "libcuda1": "535.1-1", "dkms": "3"}, []),
        ({"nvidia-smi": "535.1-1", "libcuda1": "535.2-1", "dkms": "3"}, ["nvidia-smi", "libcuda1"]),
        ({"nvidia-smi": "535.1-1", "dkms": "3"}, ["nvidia-smi", "libcuda1"]),
        ({"nvidia-smi": "535.1-1", "libcuda1": "535.1-1"}, ["dkms"]),
    ],
)
def test_packages_with_the_same_pattern_stay_at_one_version(installed: dict[str, str], moved: list[str]) -> None:
    apt = Apt(installed, simulation="")
    policies = POLICY + POLICY.replace("nvidia-smi", "libcuda1") + POLICY.replace("nvidia-smi", "dkms").replace("{candidate}", "3")

    def run(argv: list[str]) -> tuple[int, str, str]:
        return (0, policies.format(candidate="535.3-1"), "") if "policy" in argv else apt(argv)

    ensure(Packages(("nvidia-smi=535.*", "libcuda1=535.*", "dkms")), run, check=False)
    assert [word.partition("=")[0] for done in apt.done for word in done[2:]] == moved


def test_check_mode_says_what_apt_would_do_and_does_nothing() -> None:
    apt = Apt({"nvidia-open-kernel-dkms": "550.163.01-2"})
    packages = Packages(SMI.install, remove=("nvidia-open-kernel-dkms",), hold=("nvidia-smi",))
    assert "package libnvidia-ml1: 535" in ensure(packages, apt, check=True).as_dict()["after"]
    assert apt.done == []


@pytest.mark.parametrize("candidate", ["", "(none)", "550.163.01-2"])
def test_check_mode_foresees_what_a_new_repository_will_have(candidate: str) -> None:
    found = ensure(Packages(SMI.install, hold=("nvidia-smi",)), Apt(candidate=candidate), check=True)
    assert found.as_dict()["after"] == "package nvidia-smi: 535.*\npackage nvidia-smi (upgrades): held\n"


@pytest.mark.parametrize(
    ("candidate", "says"), [("(none)", "it does not know the package"), ("550.163.01-2", "it would choose 550.163.01-2"), ("", "it does not know")]
)
def test_a_version_that_apt_does_not_have_is_refused(candidate: str, says: str) -> None:
    apt = Apt(candidate=candidate)
    with pytest.raises(AptError, match=rf"apt has no nvidia-smi of version 535\.\*: {says}"):
        ensure(SMI, apt, check=False)
    assert apt.done == [["apt-get", "update"]]


def test_more_than_expected_is_not_removed() -> None:
    apt = Apt({"nvidia-open-kernel-dkms": "550.163.01-2"}, simulation=SIMULATION + "Remv xserver-xorg [1:7.7]\n")
    packages = Packages(SMI.install, remove=("nvidia-open-kernel-dkms",), may_remove="(lib)?nvidia-")
    with pytest.raises(AptError, match=r"apt would remove xserver-xorg to install nvidia-smi=535\.\*"):
        ensure(packages, apt, check=False)
    assert apt.done == [["apt-get", "update"]]


def test_what_was_interrupted_is_finished_first() -> None:
    apt = Apt(audit="The following packages are only half configured\n nvidia-smi\n")
    ensure(SMI, apt, check=False)
    assert [done[:2] for done in apt.done] == [["dpkg"], ["apt-get", "update"], ["apt-get", "install"]]


@pytest.mark.parametrize(("held", "wanted", "verb"), [([], True, "hold"), (["nvidia-smi"], False, "unhold")])
def test_holds_are_set_and_lifted(held: list[str], wanted: bool, verb: str) -> None:
    apt = Apt(READY, held)
    packages = Packages(SMI.install, hold=("nvidia-smi",), held=wanted)
    assert ensure(packages, apt, check=True).changed
    assert apt.done == []
    assert ensure(packages, apt, check=False).changed
    assert apt.done == [["apt-mark", verb, "nvidia-smi"]]


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("update", "apt cannot read the package lists: E: that"),
        ("--simulate", r"apt cannot install nvidia-smi=535.*: E: that"),
        ("dpkg-query", "dpkg cannot list what is installed: E: that"),
        ("apt-mark", "apt cannot say what is held: E: that"),
    ],
)
def test_a_refusal_is_passed_on(fails: str, says: str) -> None:
    with pytest.raises(AptError, match=says):
        ensure(SMI, Apt(fails=fails), check=False)
