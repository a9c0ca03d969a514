# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def simple_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger adds up the stand-in's estimates. Imported late: Ansible's own import of collections has to come first."""
    stand_in = importlib.import_module("ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.ledger_stand_in")
    stand_in.replace_estimates(monkeypatch)
