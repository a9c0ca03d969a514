# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._backup_make import make
from ansible_collections.baremetal.llm.plugins.module_utils._backup_manifest import BackupError
from ansible_collections.baremetal.llm.plugins.module_utils._backup_open import Opened, Wish, open_backup
from ansible_collections.baremetal.llm.plugins.module_utils._backup_seal import new_identity, unsealed
from ansible_collections.baremetal.llm.plugins.module_utils._backup_secrets import forget, keep, pack, put_back, unpack
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError
from ansible_collections.baremetal.llm.tests.unit.plugins.module_utils.backup_stand_in import KEY, RECIPIENT, SALT, Gateway, age, gateway

__all__ = ["age", "gateway"]


def backup(gateway: Gateway, secrets: bool = True, sealed: bool = True) -> Path:
    recipients = (RECIPIENT,) if sealed else ()
    kept = ""
    if secrets:
        keep(gateway.root, pack(gateway.secrets, {}), recipients, KEY, in_the_clear=True, check=False)
        kept = str(gateway.root / f"secrets.tar{'.age' if sealed else ''}")
    return gateway.backups / make(gateway.settings(recipients=recipients, secrets=kept)).name


def opened(gateway: Gateway, place: Path, **more: object) -> Opened:
    wish: dict[str, t.Any] = {"identity": str(gateway.root / "identity"), "secrets": gateway.secrets, **more}
    return open_backup(Wish(place, **wish))


def forget_secrets(gateway: Gateway, *names: str) -> None:
    for name in names:
        (gateway.secrets / name).unlink()


def test_packing_is_the_same_twice_and_unpacks(tmp_path: Path) -> None:
    (tmp_path / "in/keys").mkdir(parents=True)
    (tmp_path / "in/keys/laptop").write_text("sk-1\n")
    (tmp_path / "in/salt").write_text("old\n")
    (tmp_path / "in/.salt.staged").write_text("half")
    packed = pack(tmp_path / "in", {"salt": "of the vault", "none": ""})
    assert packed == pack(tmp_path / "in", {"salt": "of the vault"})
    assert unpack(packed) == {"keys/laptop": b"sk-1\n", "salt": b"of the vault\n"}
    assert put_back(tmp_path / "out", unpack(packed), check=True) == (["keys/laptop", "salt"], [])
    assert not (tmp_path / "out").exists()
    missing, different = put_back(tmp_path / "out", unpack(packed))
    assert (missing, different) == (["keys/laptop", "salt"], [])
    assert (tmp_path / "out/keys/laptop").stat().st_mode & 0o777 == 0o600
    (tmp_path / "out/salt").write_text("another")
    assert put_back(tmp_path / "out", unpack(packed)) == ([], ["salt"])
    assert (tmp_path / "out/salt").read_text() == "another"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_an_archive_that_leaves_its_directory_is_refused(name: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(BackupError, match="cannot be a secret of ours"):
        unpack(content.getvalue())


def test_secrets_are_kept_sealed_and_only_changed_when_they_are_others(tmp_path: Path, age: Path) -> None:
    def run(packed: bytes = b"all", recipients: tuple[str, ...] = (RECIPIENT,), check: bool = False) -> bool:
        return keep(tmp_path / "kept", packed, recipients, KEY, in_the_clear=True, check=check).changed

    assert run(check=True)
    assert not (tmp_path / "kept").exists()
    assert run()
    assert not run()
    sealed = tmp_path / "kept/secrets.tar.age"
    assert b"all" not in sealed.read_bytes()
    with unsealed(sealed, str(age)) as plain:
        assert plain.read() == b"all"
    assert run(packed=b"others")
    assert run(recipients=())  # in the clear from now on
    assert (tmp_path / "kept/secrets.tar").read_bytes() == b"all"
    assert not sealed.exists()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "kept").iterdir()} == {0o600}
    assert forget(tmp_path / "kept", check=False).changed
    assert not forget(tmp_path / "kept", check=False).changed


def test_in_the_clear_only_if_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="backup_encrypt_to.*backup_secrets_in_the_clear: true"):
        keep(tmp_path, b"all", (), KEY, in_the_clear=False, check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_of_our_own_opens(gateway: Gateway, age: Path) -> None:
    place = backup(gateway)
    found = opened(gateway, place)
    assert (found.dump, found.sealed) == (place / "litellm.dump.age", True)
    assert (found.put_back, found.different) == ((), ())


def test_its_dump_is_sealed_again_to_the_gateways_own_key(gateway: Gateway, age: Path, tmp_path: Path) -> None:
    public = new_identity(tmp_path / "theirs")
    found = opened(gateway, backup(gateway), target=str(tmp_path / "dump.age"), public_key=public)
    assert found.dump == tmp_path / "dump.age"
    assert found.dump.stat().st_mode & 0o777 == 0o600
    assert b"PGDMP" not in found.dump.read_bytes()
    with unsealed(found.dump, str(tmp_path / "theirs")) as plain:
        assert plain.read() == b"PGDMP"
    with pytest.raises(BackupError, match="not encrypted to the key in"), unsealed(found.dump, str(age)) as plain:
        plain.read()


def test_what_cannot_be_sealed_again_is_not_half_there(gateway: Gateway, age: Path, tmp_path: Path) -> None:
    place = backup(gateway)
    program = tmp_path / "bin/age"
    program.write_text(program.read_text().replace("--encrypt)", '--encrypt) echo "no room" >&2; exit 1;;\n  --never)'))
    with pytest.raises(BackupError, match="age does not encrypt: no room"):
        opened(gateway, place, target=str(tmp_path / "dump.age"), public_key="age1another")
    assert not (tmp_path / "dump.age").exists()


def test_checking_puts_nothing_back(gateway: Gateway, age: Path) -> None:
    place = backup(gateway)
    forget_secrets(gateway, "backup_key", "keys/laptop")
    assert opened(gateway, place, check=True).put_back == ("backup_key", "keys/laptop")
    assert sorted(path.name for path in gateway.secrets.rglob("*") if path.is_file()) == ["litellm_salt_key"]


def test_one_in_the_clear_opens_without_a_key(gateway: Gateway) -> None:
    place = backup(gateway, sealed=False)
    assert opened(gateway, place, identity="").dump == place / "litellm.dump"


def test_a_controller_that_lost_everything_gets_it_back(gateway: Gateway, age: Path) -> None:
    place = backup(gateway)
    forget_secrets(gateway, "backup_key", "litellm_salt_key", "keys/laptop")
    assert opened(gateway, place).put_back == ("backup_key", "keys/laptop", "litellm_salt_key")
    assert (gateway.secrets / "litellm_salt_key").read_text().strip() == SALT


def test_what_is_another_here_stays(gateway: Gateway, age: Path) -> None:
    place = backup(gateway)
    (gateway.secrets / "keys/laptop").write_text("sk-rotated")
    assert opened(gateway, place).different == ("keys/laptop",)
    assert (gateway.secrets / "keys/laptop").read_text() == "sk-rotated"


def test_refusals_leave_nothing_behind(gateway: Gateway, age: Path, tmp_path: Path) -> None:
    place = backup(gateway)
    (tmp_path / "wrong").write_text("age1another")

    def refused(because: str, **more: object) -> None:
        before = {path: path.read_bytes() for path in gateway.secrets.rglob("*") if path.is_file()}
        with pytest.raises(BackupError, match=because):
            opened(gateway, place, **more)
        assert {path: path.read_bytes() for path in gateway.secrets.rglob("*") if path.is_file()} == before

    refused("is encrypted: name the file with the private key", identity="")
    refused("no private key at /nowhere", identity="/nowhere")
    refused("not encrypted to the key in .*wrong", identity=str(tmp_path / "wrong"))
    refused("salt does not match: litellm_salt_key is not the one", salt="another salt, also with 32 characters")
    forget_secrets(gateway, "keys/laptop")  # would be put back, but not before the salt is looked at
    (gateway.secrets / "litellm_salt_key").write_text("another salt, also with 32 characters")
    refused("salt does not match: .*litellm_salt_key is not the one")
    (gateway.secrets / "backup_key").write_text("the key of another installation, 32 characters")
    refused("another installation")
    refused("salt does not match", foreign=True)


def test_without_its_secrets_a_backup_needs_ours(gateway: Gateway, age: Path) -> None:
    place = backup(gateway, secrets=False)
    forget_secrets(gateway, "litellm_salt_key")
    with pytest.raises(BackupError, match="The salt is missing"):
        opened(gateway, place)
    assert opened(gateway, place, salt=SALT).put_back == ()
    forget_secrets(gateway, "backup_key")
    with pytest.raises(BackupError, match="backup_key is missing, and the secrets are not in this backup"):
        opened(gateway, place)


def test_of_another_installation_only_keys_and_salt_are_taken(gateway: Gateway, age: Path) -> None:
    place = backup(gateway)
    forget_secrets(gateway, "litellm_salt_key", "keys/laptop")
    (gateway.secrets / "backup_key").write_text("the key of another installation, 32 characters")
    assert opened(gateway, place, foreign=True).put_back == ("keys/laptop", "litellm_salt_key")


def test_another_key_in_its_secrets_does_not_prove_it(gateway: Gateway, age: Path) -> None:
    (gateway.secrets / "backup_key").write_text("not the one that the gateway has")
    place = backup(gateway)
    forget_secrets(gateway, "backup_key")
    with pytest.raises(BackupError, match="another installation"):
        opened(gateway, place)
