# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a model of a published shape: the whole header and a sparse body, so it is as large as the real one and takes no space."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/fixtures/models"))

import published  # type: ignore[import-not-found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(published.FAMILIES))
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    published.write(published.FAMILIES[arguments.family](), arguments.out)


if __name__ == "__main__":
    main()
