# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two services of one configuration under systemd, of which one always answers: the second takes over while the first is replaced.

One is stopped only while the other answers, and systemd lets it end what it is doing. A configuration with which the standby does
not come up therefore never reaches the first.
"""

from __future__ import annotations

import dataclasses
import http.client
import time
import urllib.request

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import App, Outcome, SystemdError, act, end_of_log, plan, prepare


@dataclasses.dataclass(frozen=True)
class Instance:
    """One of the two. Its ``url`` answers 200 once it does its work; ``timeout`` is how long that may take after a start."""

    app: App
    url: str
    timeout: float = 90

    @property
    def name(self) -> str:
        return self.app.name


def standby(first: App, name: str, unit: str, ports: tuple[int, ...]) -> App:
    """The second service: the first one's user and files, which the first one writes, with a unit and ports of its own."""
    inputs = (*first.inputs, *(spec.path for spec in first.files))
    return App(name, unit, inputs=inputs, reloadable=first.reloadable, ports=ports, start=first.start)


def present_with_standby(first: Instance, second: Instance, run: Runner, check: bool) -> Outcome:
    """As ``_systemd.present``, for both: those that do not run are started together, then each is restarted while the other answers."""
    difference = Difference()
    mine = plan(first.app, run, difference)
    theirs = plan(second.app, run, difference, written=mine.changed, label=f"{second.name} ")
    if not check:
        prepare([mine, theirs], run)
        for found in (mine, theirs):
            if found.action == "start":
                act(found.app, "start", run)
        # What answers is kept until last, and of two that do, the standby is not missed.
        pairs = [(theirs, second, first), (mine, first, second)]
        for found, one, other in sorted(pairs, key=lambda pair: _answers(pair[1].url)):
            _replace(one, other, found.action, run)
    return Outcome(difference.changed, mine.action or theirs.action, difference.as_dict())


def _replace(one: Instance, other: Instance, action: str, run: Runner) -> None:
    if not action:
        return
    if action != "start":
        if _answers(one.url) and not _wait(other):
            raise SystemdError(
                f"{other.name}, which would take its place, does not answer at {other.url}, so {one.name} was not {action}ed and "
                f"goes on with what it had.\n{end_of_log(other.name, run)}"
            )
        act(one.app, action, run)
    if not _wait(one):
        raise SystemdError(
            f"{one.name} did not answer at {one.url} within {one.timeout:g} s after its {action}, so {other.name} was left as it is.\n"
            f"{end_of_log(one.name, run)}"
        )


def _wait(one: Instance) -> bool:
    deadline = time.monotonic() + one.timeout
    while not _answers(one.url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _answers(url: str) -> bool:
    # a proxy of the environment is for the world outside, never for our own services
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
