# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages that belong together, in one transaction of apt: installed, exchanged and held at once, or not at all.

ansible.builtin.apt installs and removes in two steps, so that a failure in between leaves a machine without a driver; and its check mode fails
on packages of a repository that is yet to be added.
"""

from __future__ import annotations

import fnmatch
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner

_ENVIRONMENT = ["/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
_APT_GET = [*_ENVIRONMENT, "apt-get", "--quiet", "--option=DPkg::Lock::Timeout=120"]
_INSTALL = [
    *("--yes", "--no-install-recommends", "--allow-downgrades", "--allow-change-held-packages", "--purge"),
    *("--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold"),  # files that the user changed stay
]
# Lines of a simulation: `Inst nvidia-smi [535.216] (535.309 Debian-Security:12/stable-security [amd64])`, `Remv libcuda1 [535.216]`.
_STEP = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+))?", re.MULTILINE)


class AptError(LLMError):
    """apt refused, or would do more than it was asked for; the message says what."""


@dataclass(frozen=True)
class Packages:
    """``install`` are names, with ``=<pattern of versions>`` where it matters; those with the same pattern are kept at one version.

    ``remove`` are names that need not be installed.

    ``hold`` are to be held (or with ``held`` false, to be free). What else has to go with them must match ``may_remove``, a regular
    expression; anything else makes the transaction fail before it begins.
    """

    install: tuple[str, ...]
    remove: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    held: bool = True
    may_remove: str = ".*"


def ensure(packages: Packages, run: Runner, check: bool) -> Difference:
    """Make it so. Without anything to do, apt is not even asked for news."""
    difference = Difference()
    installed = _installed(run)
    missing = _missing(packages.install, installed)
    remove = [name for name in packages.remove if name in installed]
    if missing or remove:
        if not check:
            _mend(run)
            _do(run, [*_APT_GET, "update"], "cannot read the package lists")
        versions = _versions(missing, run, check)
        if versions is None:
            _foresee(missing, remove, installed, difference)
        else:
            arguments = [*(f"{name}={version}" for name, version in versions.items()), *(f"{name}-" for name in remove)]
            _simulate(arguments, packages, run, difference)
            if not check:
                _do(run, [*_APT_GET, "install", *_INSTALL, *arguments], f"cannot install {', '.join(versions)}")
    _hold(packages, run, difference, check)
    return difference


def _installed(run: Runner) -> dict[str, str]:
    out = _do(run, ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\\n"], "cannot list what is installed")
    return {name: version for status, name, version in (line.split(" ", 2) for line in out.splitlines()) if status == "installed"}


def _missing(specs: t.Iterable[str], installed: t.Mapping[str, str]) -> dict[str, str]:
    """What is not installed as it should be: name -> pattern."""
    wanted = dict(spec.partition("=")[::2] for spec in specs)
    absent = {name for name, pattern in wanted.items() if not fnmatch.fnmatchcase(installed.get(name, ""), pattern or "?*")}
    versions: dict[str, set[str]] = {}
    for name, pattern in wanted.items():
        versions.setdefault(pattern, set()).add("" if name in absent else installed[name])
    return {name: pattern for name, pattern in wanted.items() if name in absent or (pattern and len(versions[pattern]) > 1)}


def _mend(run: Runner) -> None:
    """Finish what a run began that was killed, which apt would otherwise refuse to work upon."""
    if _do(run, ["dpkg", "--audit"], "cannot look for unfinished packages").strip():
        _do(run, [*_ENVIRONMENT, "dpkg", "--configure", "--pending", "--force-confdef", "--force-confold"], "cannot finish an interrupted installation")


def _versions(missing: t.Mapping[str, str], run: Runner, check: bool) -> dict[str, str] | None:
    """The version that apt would choose for each; None if there is none yet, because a repository is only about to be added."""
    chosen = {}
    out = _do(run, [*_ENVIRONMENT, "apt-cache", "policy", *missing], "cannot say which versions there are") if missing else ""
    found = dict(re.findall(r"^(\S+):\n(?: .*\n)*?  Candidate: (\S+)$", out, re.MULTILINE))
    for name, pattern in missing.items():
        version = found.get(name, "(none)")
        if version == "(none)" or not fnmatch.fnmatchcase(version, pattern or "*"):
            if check:
                return None
            offers = "it does not know the package" if version == "(none)" else f"it would choose {version}"
            raise AptError(f"apt has no {name}{f' of version {pattern}' if pattern else ''}: {offers}. Choose another version, or another source of it.")
        chosen[name] = version
    return chosen


def _foresee(missing: t.Mapping[str, str], remove: t.Iterable[str], installed: t.Mapping[str, str], difference: Difference) -> None:
    for name, pattern in missing.items():
        difference.add(f"package {name}", installed.get(name), pattern or "present")
    for name in remove:
        difference.add(f"package {name}", installed[name], None)


def _simulate(arguments: t.Sequence[str], packages: Packages, run: Runner, difference: Difference) -> None:
    out = _do(run, [*_APT_GET, "install", "--simulate", *_INSTALL, *arguments], f"cannot install {', '.join(arguments)}")
    unexpected = []
    for step, name, before, after in _STEP.findall(out):
        difference.add(f"package {name}", before or None, after if step == "Inst" else None)
        if step != "Inst" and name not in packages.remove and not re.match(packages.may_remove, name):
            unexpected.append(name)
    if unexpected:
        raise AptError(f"apt would remove {', '.join(unexpected)} to install {', '.join(packages.install)}. If that is right, remove them yourself.")


def _hold(packages: Packages, run: Runner, difference: Difference, check: bool) -> None:
    held = set(_do(run, ["apt-mark", "showhold"], "cannot say what is held").split())
    after = "held" if packages.held else "free"
    names = [name for name in packages.hold if difference.add(f"package {name} (upgrades)", "held" if name in held else "free", after)]
    if names and not check:
        _do(run, ["apt-mark", "hold" if packages.held else "unhold", *names], f"cannot hold {', '.join(names)}")


def _do(run: Runner, argv: list[str], what: str) -> str:
    status, out, err = run(argv)
    if status != 0:
        raise AptError(f"{'dpkg' if any(word.startswith('dpkg') for word in argv) else 'apt'} {what}: {(err.strip() or out.strip())[-3000:]}")
    return out
