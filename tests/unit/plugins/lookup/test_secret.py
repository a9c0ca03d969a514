# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader

init_plugin_loader()


def test_secret_and_client_keys(tmp_path: Path) -> None:
    secret = lookup_loader.get("baremetal.llm.secret", loader=DataLoader())
    assert secret.run(["a", "b"], {}, dir=str(tmp_path)) == [(tmp_path / name).read_text().strip() for name in "ab"]
    keys = lookup_loader.get("baremetal.llm.client_keys", loader=DataLoader())
    (client,) = keys.run([[{"name": "laptop"}]], {}, dir=str(tmp_path))
    assert client == {"name": "laptop", "key": (tmp_path / "keys/laptop").read_text().strip()}


def test_a_bad_name_is_ansibles_error(tmp_path: Path) -> None:
    secret = lookup_loader.get("baremetal.llm.secret", loader=DataLoader())
    with pytest.raises(AnsibleError, match="cannot name a secret"):
        secret.run(["../x"], {}, dir=str(tmp_path))
