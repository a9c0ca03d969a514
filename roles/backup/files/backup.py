# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups of the gateway: backup.py make|verify|list SETTINGS

make    makes one, proves it and removes those that may go
verify  reads every byte of all of them
list    names them, oldest first

Ends with 0, with 1 if verify found a damaged one, with 2 if it could not be done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import Settings, load, make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError, verify
from ansible_collections.baremetal.llm.plugins.module_utils._backup_store import names
from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError


def main() -> int:
    parser = argparse.ArgumentParser(usage="backup.py make|verify|list SETTINGS")
    parser.add_argument("action", choices=["make", "verify", "list"])
    parser.add_argument("settings", type=Path)
    options = parser.parse_args()
    try:
        settings = load(options.settings)
        return {"make": _make, "verify": _verify, "list": _list}[options.action](settings)
    except (LLMError, OSError) as exc:
        print(f"No backup: {exc}" if options.action == "make" else exc, file=sys.stderr)
        return 2


def _make(settings: Settings) -> int:
    made = make(settings)
    removed = f"; removed {', '.join(made.pruned)}" if made.pruned else ""
    print(f"{settings.directory}/{made.name}: {made.rows} rows, {made.bytes} bytes, {made.seconds} s{removed}")
    return 0


def _verify(settings: Settings) -> int:
    key, damaged = Path(settings.key_file).read_text().strip(), 0
    for name in names(Path(settings.directory)):
        try:
            verify(Path(settings.directory, name), key)
            print(f"{name}: as it was made")
        except BackupError as exc:
            damaged = 1
            print(f"{name}: {exc}")
    return damaged


def _list(settings: Settings) -> int:
    for name in names(Path(settings.directory)):
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
