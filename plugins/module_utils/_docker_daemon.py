# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keys of ours in Docker's daemon.json, and an engine that runs with them."""

from __future__ import annotations

import grp
import json
import re
import shutil
import stat
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._claims import (
    Claim,
    claim,
    from_json,
    in_transit,
    leaves,
    release,
    to_json,
)
from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._docker_api import Docker
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import FileSpec, Runner, ValidationError, write
from ansible_collections.baremetal.llm.plugins.module_utils._systemd import Outcome, SystemdError, systemctl, unit_state

CONFIG = Path("/etc/docker/daemon.json")
#: Which keys are ours, and what the user had there.
RECORD = Path("/var/lib/llm/docker/daemon.json")
#: What the running engine has loaded, where that is not what it found at its start.
LOADED = Path("/run/llm/docker.json")
_PROGRAM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin"
# Top-level keys for which SIGHUP is enough, in every engine from 20.10 on: https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior
# A reload reads only keys that are there: one that was taken out keeps its old value until a restart.
_RELOADABLE = frozenset(
    (
        "authorization-plugins",
        "debug",
        "default-runtime",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)
_VALIDATES = (23, 0)  # the first engine with `dockerd --validate`
_CDI_BY_DEFAULT = (28, 2)  # the first engine in which features.cdi is on unless it is false
_DONE = {"start": "started", "restart": "restarted", "reload": "reloaded"}
_SECRET_KEYS = ("proxies",)  # addresses in it may carry a password

Version = t.Optional[tuple[int, int]]


@dataclass(frozen=True)
class Engine:
    """The installed engine: ``version`` is ``None`` if there is none. ``loaded`` is what it runs with, ``None`` if that cannot be known."""

    version: Version
    running: bool = False
    loaded: dict[str, t.Any] | None = None


@dataclass(frozen=True)
class Host:
    """What we act through: commands, the engine's socket, and the seconds that the engine has to answer after its start."""

    run: Runner
    docker: Docker
    seconds: float = 60


@dataclass
class _Record:
    """``created`` says that there was no daemon.json before us."""

    claims: list[Claim] = field(default_factory=list)
    created: bool = False


@dataclass(frozen=True)
class _Plan:
    """``before`` and ``after`` are the text of the file (``None`` is no file), ``record`` and ``target`` what is ours in it."""

    path: Path
    before: str | None
    after: str | None
    config: dict[str, t.Any]
    record: _Record
    target: _Record
    engine: Engine
    action: str


def apply(wanted: t.Mapping[str, t.Any], present: bool, host: Host, check: bool) -> Outcome:
    """Put ``wanted`` into daemon.json (or take all of ours out of it), and let the engine run with the result.

    What an earlier call put in and this one does not want is taken out. The engine is restarted, or where that is enough reloaded, if it
    does not run with the file as it is then, whoever wrote it and whenever: so an interrupted run is mended by the next one. An engine that
    does not start with the new file gets its old one back.
    """
    version = engine_version(host.run)
    if present and version is None and not check:
        raise LLMError(
            "There is no Docker engine (dockerd) on this host: install one, or let the role container_toolkit do it"
            " (container_toolkit_docker: distribution)."
        )
    path = CONFIG.resolve()  # a link is followed, not replaced
    before = _read(path)
    config = parse(before or "", path)
    engine = _engine(version, config, path, host.run)
    record = _read_record()
    new, claims = claim(release(config, record.claims), wanted if present else {})
    target = _Record(claims, record.created or before is None)
    after = before if new == config else _rendered(new, before)
    if new == {} and target.created:
        after = None
    concerned = bool(claims or record.claims)
    action = due(engine, new, present, concerned)
    plan = _Plan(path, before, after, new, record, target, engine, action)
    difference = _difference(plan, config)
    if not check:
        if difference.changed:
            _carry_out(plan, host)
        _write_record(target)
    return Outcome(difference.changed, action, difference.as_dict())


def parse(text: str, path: Path) -> dict[str, t.Any]:
    """The content of daemon.json; an empty file says nothing, as it does to Docker."""
    if not text.strip():
        return {}
    try:
        config = json.loads(text)
    except json.JSONDecodeError as exc:
        raise InputError(f"{path}, line {exc.lineno}, column {exc.colno}: this is not JSON ({exc.msg}). Mend the file; nothing was changed.") from exc
    if not isinstance(config, dict):
        raise InputError(f"{path} holds {config!r}, where Docker wants an object ({{...}}). Mend the file; nothing was changed.")
    return config


def engine_version(run: Runner) -> Version:
    """Major and minor version of the installed engine, ``None`` if there is none."""
    program = shutil.which("dockerd", path=_PROGRAM_PATH)
    if not program:
        return None
    status, out, err = run([program, "--version"])
    found = re.search(r"version (\d+)\.(\d+)", out)
    if status != 0 or not found:
        raise LLMError(f"{program} --version does not say its version: {err.strip() or out.strip()}")
    return int(found[1]), int(found[2])


def due(engine: Engine, new: t.Mapping[str, t.Any], present: bool, concerned: bool = True) -> str:
    """What the engine needs to run with ``new``: start, restart, reload or nothing. A file without a key of ours does not concern us."""
    if not engine.running:
        return "start" if present else ""
    if not concerned:
        return ""
    if engine.loaded is None:
        return "restart"
    differing = changes(engine.loaded, new)
    if all(_takes_a_reload(key, before, after, new, engine.version) for key, before, after in differing):
        return "reload" if differing else ""
    return "restart"


def changes(before: t.Mapping[str, t.Any], after: t.Mapping[str, t.Any]) -> list[tuple[tuple[str, ...], t.Any, t.Any]]:
    """All leaves that differ, as (path, before, after); ``None`` is one that is not there."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return [(key, old.get(key), new.get(key)) for key in (*old, *(key for key in new if key not in old)) if old.get(key) != new.get(key)]


def _takes_a_reload(key: tuple[str, ...], before: t.Any, after: t.Any, new: t.Mapping[str, t.Any], version: Version) -> bool:
    if key == ("features", "cdi"):
        default = (version or (0, 0)) >= _CDI_BY_DEFAULT
        return (default if before is None else before) == (default if after is None else after)
    return key[0] == "features" or (key[0] in _RELOADABLE and key[0] in new)


def _engine(version: Version, config: dict[str, t.Any], path: Path, run: Runner) -> Engine:
    if version is None:
        return Engine(None)
    state = unit_state("docker", run)
    if state["ActiveState"] not in ("active", "reloading", "activating"):
        return Engine(version)
    started = time.time() - (time.monotonic() - int(state["ExecMainStartTimestampMonotonic"] or 0) / 1e6)
    if _modified(LOADED) > started:
        return Engine(version, True, json.loads(LOADED.read_text()))
    return Engine(version, True, config if _modified(path) < started else None)


def _difference(plan: _Plan, config: dict[str, t.Any]) -> Difference:
    difference = Difference()
    for key, before, after in changes(config, plan.config):
        difference.add(f"{plan.path}: {'.'.join(key)}", _shown(before), _shown(after), secret=key[0] in _SECRET_KEYS)
    if plan.after is None:
        difference.add(str(plan.path), None if plan.before is None else "present", None)
    if plan.action:
        difference.add("docker", "stopped" if plan.action == "start" else f"older than {plan.path}", _DONE[plan.action])
    return difference


def _carry_out(plan: _Plan, host: Host) -> None:
    # Before anything is replaced it is written down what will be ours and what the engine runs with: a run that is killed after any of
    # these steps leaves the next one all it has to know.
    _write_record(_Record(in_transit(plan.record.claims, plan.target.claims), plan.target.created))
    reloaded = LOADED.exists()
    if plan.engine.loaded is not None:
        _store(LOADED, plan.engine.loaded)
    try:
        if plan.after != plan.before:
            _write_config(plan.path, plan.after, plan.engine.version, host.run)
        _act(plan.action, host)
    except ValidationError:
        _write_record(plan.record)
        if not reloaded:
            LOADED.unlink(missing_ok=True)
        raise
    except LLMError as exc:
        if plan.after != plan.before:
            _go_back(plan, exc, host)
        raise
    if plan.action == "reload":
        _store(LOADED, plan.config)
    elif plan.action:
        LOADED.unlink(missing_ok=True)


def _go_back(plan: _Plan, exc: LLMError, host: Host) -> t.NoReturn:
    """Docker does not run with the new file: bring it back with the old one, and say what happened."""
    _status, log, _err = host.run(["journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit=docker"])
    _write_config(plan.path, plan.before, None, host.run)
    _write_record(plan.record)
    try:
        host.run(["systemctl", "reset-failed", "docker"])
        _act(plan.action, host)
        outcome = f"{plan.path} is as it was, and Docker runs with it again."
    except LLMError as again:
        outcome = f"{plan.path} is as it was, but Docker does not run with it either: {again}"
    raise SystemdError(f"Docker did not {plan.action} with the new {plan.path}: {exc} {outcome}\nThe end of its log:\n{log}") from exc


def _act(action: str, host: Host) -> None:
    if action:
        systemctl(host.run, action, "docker")
        host.docker.wait(host.seconds)


def _write_config(path: Path, content: str | None, version: Version, run: Runner) -> None:
    """With the version of the engine whose ``--validate`` shall judge it, ``None`` for none."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    mode, group = 0o644, "root"
    if path.exists():
        found = path.stat()
        mode, group = stat.S_IMODE(found.st_mode), _group(found.st_gid)
    program = shutil.which("dockerd", path=_PROGRAM_PATH)
    validate = (program, "--validate", "--config-file", "%s") if program and version and version >= _VALIDATES else ()
    write([FileSpec(path, content, mode, group, validate=validate)], {path}, run)


def _rendered(config: dict[str, t.Any], like: str | None) -> str:
    """JSON, indented as the user indents it."""
    indent = re.search(r'\n([ \t]+)"', like or "")
    return json.dumps(config, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _read_record() -> _Record:
    try:
        data = json.loads(RECORD.read_text())
    except FileNotFoundError:
        return _Record()
    return _Record(from_json(data["claims"]), data["created"])


def _write_record(record: _Record) -> None:
    if record.claims and record != _read_record():
        _store(RECORD, {"claims": to_json(record.claims), "created": record.created})
    elif not record.claims and RECORD.exists():
        RECORD.unlink()
        RECORD.parent.rmdir()


def _store(path: Path, data: dict[str, t.Any]) -> None:
    """Whole or not at all; for root's eyes, because it repeats what the user wrote."""
    write([FileSpec(path, json.dumps(data, indent=2) + "\n", 0o600)], {path}, lambda _command: (0, "", ""))


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is not UTF-8 ({exc}). Mend the file; nothing was changed.") from exc


def _shown(value: t.Any) -> str | None:
    return None if value is None else json.dumps(value)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return "root"
