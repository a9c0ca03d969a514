# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts the GPUs' settings in force at boot: apply.py [--check] SETTINGS

Prints what it set, or with --check how the GPUs differ from their settings. Ends with 0 if they are in force, with 1 if --check found that
they are not, with 2 if they could not be set.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ansible_collections.baremetal.llm.plugins.module_utils._errors import LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._gpu_apply import apply


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("settings", type=Path)
    options = parser.parse_args()
    try:
        outcome = apply(json.loads(options.settings.read_text()), check=options.check)
    except (LLMError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 2
    before, after = (outcome.diff[side].splitlines() for side in ("before", "after"))
    for old, new in zip(before, after):
        print(f"{old} -> {new.rpartition(': ')[2]}")
    for warning in outcome.warnings:
        print(warning, file=sys.stderr)
    return int(options.check and outcome.changed)


if __name__ == "__main__":
    sys.exit(main())
