# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A verified archive from the lock file becomes a directory that is complete as soon as it exists."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible_collections.baremetal.llm.plugins.module_utils._diff import Difference
from ansible_collections.baremetal.llm.plugins.module_utils._download import Source, download, mirrored, read_document
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner
from ansible_collections.baremetal.llm.plugins.module_utils._versions import link, scratch

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What pip itself falls back to, asked of pip, so that the index is the host's own in every case.
_ASK_PIP = (
    "import subprocess, sys\n"
    "from pip._internal.models.index import PyPI\n"
    "asked = subprocess.run([sys.executable, '-m', 'pip', 'config', 'list'], capture_output=True, text=True, check=True).stdout\n"
    "found = dict(line.split('=', 1) for line in asked.splitlines() if '=' in line)\n"
    "named = found.get(':env:.index-url') or found.get('install.index-url') or found.get('global.index-url')\n"
    'print(named.strip().strip("\'") if named else PyPI.simple_url)\n'
)


@dataclass(frozen=True)
class Artifact:
    """One entry of the lock file, and where it goes: ``<root>/<version>``.

    Either ``url`` or ``pypi`` (``project==version``) says where it comes from; ``directory`` is the part of the archive, below
    its single top directory, that is kept.
    """

    name: str
    version: str
    root: Path
    url: str = ""
    pypi: str = ""
    sha256: str = ""
    digests: str = ""
    directory: str = ""
    mirror: str = ""
    index: str = ""
    python: str = "python3"


def install(artifact: Artifact, make_current: bool, run: Runner, check: bool) -> Difference:
    """Fetch, verify and unpack the version unless it is there, then make it the current one if asked."""
    difference = Difference()
    target = artifact.root / artifact.version
    if difference.add(str(target), "present" if target.is_dir() else None, "present") and not check:
        _unpack(artifact, target, run)
    if make_current:
        link(artifact.root, artifact.version, difference, check)
    return difference


def _unpack(artifact: Artifact, target: Path, run: Runner) -> None:
    with scratch(artifact.root) as place:
        if target.is_dir():  # another run finished it while we waited
            return
        url = _address(artifact, run)
        sha256 = artifact.sha256 or _published_sum(artifact, url)
        downloads = artifact.root / ".downloads"
        downloads.mkdir(mode=0o755, exist_ok=True)
        archive = downloads / Path(urlsplit(url).path).name
        download(Source(mirrored(url, artifact.mirror), sha256=sha256), archive)
        content = place / "content"
        content.mkdir(mode=0o755)
        if archive.suffix == ".gz" and not archive.name.endswith(".tar.gz"):
            _gunzip(archive, content / archive.stem)
            os.replace(content, target)
            archive.unlink()
            return
        # tar detects the compression, and never leaves the directory
        status, _out, err = run(["tar", "--extract", f"--file={archive}", f"--directory={content}", "--no-same-owner"])
        if status != 0:
            raise LLMError(f"{artifact.name} {artifact.version}: tar cannot unpack {archive.name}: {err.strip()}")
        os.replace(_kept(artifact, content), target)
        archive.unlink()


def _gunzip(archive: Path, program: Path) -> None:
    """A single program, packed."""
    with gzip.open(archive) as packed, open(program, "wb") as plain:
        shutil.copyfileobj(packed, plain)
    program.chmod(0o755)


def _kept(artifact: Artifact, content: Path) -> Path:
    """The part of an unpacked archive that becomes the version: below its only top directory, if it has just one."""
    inside = list(content.iterdir())
    top = inside[0] if len(inside) == 1 and inside[0].is_dir() else content
    kept = top / artifact.directory
    if not kept.is_dir():
        raise LLMError(f"{artifact.name} {artifact.version}: the archive has no directory {artifact.directory!r}.")
    return kept


def _address(artifact: Artifact, run: Runner) -> str:
    if not artifact.pypi:
        return artifact.url
    project, _equals, version = artifact.pypi.partition("==")
    name = f"{re.sub(r'[-_.]+', '_', project).lower()}-{version}.tar.gz"
    if artifact.mirror:
        return f"https://pypi/{name}"  # `mirrored` turns this into <mirror>/pypi/<name>
    index = artifact.index or _default_index(artifact, run)
    page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    for link_to in re.findall(r'href="([^"#]+)', read_document(Source(page)).decode()):
        if link_to.rpartition("/")[2] == name:
            return urljoin(page, link_to)
    raise LLMError(f"{artifact.name} {artifact.version}: the package index at {page} does not list {name}.")


def _default_index(artifact: Artifact, run: Runner) -> str:
    status, out, err = run([artifact.python, "-c", _ASK_PIP])
    if status != 0:
        raise LLMError(f"{artifact.name} {artifact.version}: {artifact.python} has no usable pip to name the package index: {err.strip()}")
    return out.strip()


def _published_sum(artifact: Artifact, url: str) -> str:
    """The sum that upstream publishes for the file: GitHub's release API, or a list as sha256sum writes it."""
    name = Path(urlsplit(url).path).name
    if not artifact.digests:
        raise InputError(
            f"{artifact.name} {artifact.version}: the lock file has no sha256 for {name} and no place where upstream publishes one, so it is"
            " refused. Put the sum into roles/common/vars/lock.yml."
        )
    text = read_document(Source(mirrored(artifact.digests, artifact.mirror))).decode()
    found = _digests(text).get(name, "")
    if not _SHA256.fullmatch(found):
        raise LLMError(f"{artifact.name} {artifact.version}: {artifact.digests} publishes no sha256 for {name}, so it is refused.")
    return found


def _digests(text: str) -> dict[str, str]:
    try:
        release = json.loads(text)
    except ValueError:
        pairs = (line.split(maxsplit=1) for line in text.splitlines())
        return {pair[1].lstrip("*").strip(): pair[0].lower() for pair in pairs if len(pair) == 2}
    assets: list[dict[str, t.Any]] = release.get("assets", [])
    return {asset["name"]: str(asset.get("digest") or "").rpartition("sha256:")[2] for asset in assets}
