# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils import _backup_manifest as manifests
from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError, ForeignError
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.backup_stand_in import CONTENTS, KEY, SALT, Gateway, gateway

__all__ = ["gateway"]


def made(gateway: Gateway) -> Path:
    return gateway.backups / make(gateway.settings()).name


def test_a_backup_says_what_it_is_and_nothing_secret(gateway: Gateway) -> None:
    place = made(gateway)
    found = manifests.verify(place, KEY)
    assert (found.host, found.database, found.postgresql, found.migrations) == ("door", "litellm", "15.14", ("1_init", "2_more"))
    assert (found.contents, found.dump, found.secrets) == (CONTENTS, "litellm.dump", "")
    assert found.salt == manifests.fingerprint(SALT)
    assert manifests.read(place) == found
    assert not any(secret in (place / "manifest.json").read_text() for secret in (KEY, SALT))
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} <= {0o600, 0o644}  # the dump here is a stand-in's


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sum", "litellm.dump"])
@pytest.mark.parametrize("foreign", [False, True])
def test_any_flipped_byte_of_any_file_is_seen_and_the_file_named(gateway: Gateway, name: str, foreign: bool) -> None:
    place = made(gateway)
    content = (place / name).read_bytes()
    for position in range(len(content)):
        for bit in (1, 32, 128):  # 32 turns lower case into upper case
            (place / name).write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
            with pytest.raises(BackupError, match=name):
                manifests.verify(place, KEY, foreign)
    (place / name).write_bytes(content)
    manifests.verify(place, KEY, foreign)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sum", "litellm.dump"])
def test_what_is_missing_cut_off_or_added_is_seen(gateway: Gateway, name: str) -> None:
    place = made(gateway)
    content = (place / name).read_bytes()
    for wrong in (content[:-1], b"", content + b"\n"):
        (place / name).write_bytes(wrong)
        with pytest.raises(BackupError, match=name):
            manifests.verify(place, KEY)
    (place / name).unlink()
    with pytest.raises(BackupError, match=f"{name} is missing"):
        manifests.verify(place, KEY)
    (place / name).write_bytes(content)
    (place / "more").touch()
    with pytest.raises(BackupError, match="more is not in manifest.json"):
        manifests.verify(place, KEY)


def test_a_backup_of_another_installation_is_refused_unless_wanted(gateway: Gateway) -> None:
    place = made(gateway)
    with pytest.raises(ForeignError, match="another installation .* made on door.*restore_foreign: true"):
        manifests.verify(place, "another key of 32 characters or more")
    assert manifests.verify(place, "another key of 32 characters or more", foreign=True).host == "door"


def test_a_forged_manifest_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    """Somebody who can write the backups, knows the installation's name from them, but not its key."""
    place = made(gateway)
    found = manifests.read(place)
    forged = tmp_path / "forged"
    forged.mkdir()
    shutil.copy(place / "litellm.dump", forged)
    manifests.write(forged, found, "a key of the forger's")
    with pytest.raises(BackupError, match="the MAC is not that of this installation's key"):
        manifests.verify(forged, KEY)


def test_another_format_is_not_guessed_at(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_FORMAT", 2)
    place = made(gateway)
    monkeypatch.setattr(manifests, "_FORMAT", 1)
    manifests.sha256(place / "manifest.json")
    with pytest.raises(BackupError, match="a format that this version of baremetal.llm does not know"):
        manifests.verify(place, KEY)


def test_a_fingerprint_tells_salts_apart(gateway: Gateway) -> None:
    assert manifests.fingerprint("") == ""
    assert manifests.fingerprint(SALT) != manifests.fingerprint(SALT + " ")
    assert manifests.installation(KEY) != manifests.installation(KEY[1:])
