# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A system user without a shell, with a group of the same name."""

from __future__ import annotations

import pwd

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._files import Runner


def find(name: str) -> tuple[int, int] | None:
    """The numbers of the user and of its group."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def create(name: str, home: str, run: Runner) -> None:
    """Its home is not made."""
    status, _out, err = run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", "/usr/sbin/nologin", name])
    if status != 0:
        raise LLMError(f"useradd cannot create the user {name}: {err.strip()}")
