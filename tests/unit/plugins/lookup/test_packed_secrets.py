# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, lookup_loader

init_plugin_loader()


def test_all_secrets_in_one_piece(tmp_path: Path) -> None:
    (tmp_path / "dir/keys").mkdir(parents=True)
    (tmp_path / "dir/keys/laptop").write_text("sk-1\n")
    lookup = lookup_loader.get("baremetal.llm.packed_secrets", loader=DataLoader())
    (packed,) = lookup.run([{"litellm_salt_key": "of the vault", "litellm_master_key": ""}], {}, dir=str(tmp_path / "dir"))
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        assert archive.getnames() == ["keys/laptop", "litellm_salt_key"]
        content = archive.extractfile("litellm_salt_key")
        assert content and content.read() == b"of the vault\n"
