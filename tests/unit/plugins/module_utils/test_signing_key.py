# Copyright: the baremetal.llm authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""With the real gpg and keys that are made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.baremetal.llm.plugins.module_utils._errors import InputError, LLMError
from ansible_collections.baremetal.llm.plugins.module_utils._signing_key import KeyRefused, SigningKey, inspect, present


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@dataclass(frozen=True)
class Keys:
    """Key files in a mirror of packages.example.org, and the fingerprints of their primary keys."""

    gpg: str
    mirror: Path
    fingerprints: dict[str, str]

    def file(self, name: str) -> Path:
        return self.mirror / "packages.example.org" / name

    def wanted(self, name: str, dest: Path) -> SigningKey:
        return SigningKey(f"https://packages.example.org/{name}.asc", (self.fingerprints[name],), dest, str(self.mirror))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Keys]:
    gpg = shutil.which("gpg")
    assert gpg, "these tests need gpg on this machine: run tests/tools.sh"
    home = tmp_path_factory.mktemp("gnupg", numbered=False)
    home.chmod(0o700)
    place = tmp_path_factory.mktemp("mirror") / "packages.example.org"
    place.mkdir()

    def call(*arguments: str) -> bytes:
        return subprocess.run([gpg, "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", *arguments], check=True, capture_output=True).stdout

    fingerprints = {}
    for name, made, expires in (("right", "20240101T000000", "never"), ("other", "20240101T000000", "never"), ("old", "20200101T000000", "20200201T000000")):
        call("--faked-system-time", made, "--passphrase", "", "--quick-generate-key", f"{name}@example.org", "ed25519", "sign", expires)
        listed = call("--list-keys", "--with-colons", f"{name}@example.org").decode()
        fingerprints[name], *_subkeys = (line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        (place / f"{name}.asc").write_bytes(call("--armor", "--export", f"{name}@example.org"))
    call("--faked-system-time", "20240102T000000", "--passphrase", "", "--quick-add-key", fingerprints["other"], "ed25519", "sign", "never")
    (place / "other.asc").write_bytes(call("--armor", "--export", "other@example.org"))
    (place / "both.asc").write_bytes((place / "right.asc").read_bytes() + (place / "other.asc").read_bytes())
    (place / "binary.asc").write_bytes(call("--export", "right@example.org"))
    (place / "private.asc").write_bytes(call("--passphrase", "", "--armor", "--export-secret-keys", "right@example.org"))
    (place / "page.asc").write_text("<html>404</html>")
    yield Keys(gpg, place.parent, fingerprints)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_the_right_key_is_written_and_not_fetched_again(keys: Keys, tmp_path: Path) -> None:
    key = keys.wanted("right", tmp_path / "keyrings/llm-x.asc")
    planned = present(key, run, keys.gpg, check=True)
    assert planned.as_dict() == {"before": f"{key.dest}: (absent)\n", "after": f"{key.dest}: {keys.fingerprints['right']}\n"}
    assert not key.dest.exists()
    assert present(key, run, keys.gpg, check=False).as_dict() == planned.as_dict()
    assert key.dest.read_bytes() == keys.file("right.asc").read_bytes()
    assert key.dest.stat().st_mode & 0o777 == 0o644
    assert not present(replace(key, mirror=str(tmp_path / "nowhere")), run, keys.gpg, check=False).changed


def test_subkeys_do_not_count(keys: Keys, tmp_path: Path) -> None:
    key = keys.wanted("other", tmp_path / "x.asc")
    assert present(key, run, keys.gpg, check=False).changed
    assert not present(key, run, keys.gpg, check=False).changed


def test_a_fingerprint_may_be_written_as_people_do(keys: Keys, tmp_path: Path) -> None:
    digits = keys.fingerprints["right"].lower()
    spaced = " ".join(digits[start : start + 4] for start in range(0, 40, 4))
    assert present(replace(keys.wanted("right", tmp_path / "x.asc"), fingerprints=(spaced,)), run, keys.gpg, check=False).changed


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ["other", "both", "private", "page"])
def test_anything_else_is_refused_and_nothing_is_touched(keys: Keys, tmp_path: Path, name: str, check: bool) -> None:
    dest = tmp_path / "x.asc"
    dest.write_text("as it was")
    key = replace(keys.wanted("right", dest), url=f"https://packages.example.org/{name}.asc")
    with pytest.raises(KeyRefused) as refused:
        present(key, run, keys.gpg, check)
    assert f"expected {keys.fingerprints['right']}, found " in str(refused.value)
    assert ("no public key" in str(refused.value)) == (name == "page")
    assert ("(a private key)" in str(refused.value)) == (name == "private")
    assert (keys.fingerprints["other"] in str(refused.value)) == (name in ("other", "both"))
    assert dest.read_text() == "as it was"
    assert os.listdir(tmp_path) == ["x.asc"]


def test_an_expired_key_is_refused_and_an_expired_file_fetched_again(keys: Keys, tmp_path: Path) -> None:
    key = keys.wanted("old", tmp_path / "x.asc")
    with pytest.raises(KeyRefused, match=rf"found {keys.fingerprints['old']} \(expired\)"):
        present(key, run, keys.gpg, check=False)
    key.dest.write_bytes(keys.file("old.asc").read_bytes())
    with pytest.raises(KeyRefused):  # it would do if the publisher had prolonged it
        present(key, run, keys.gpg, check=False)


def test_a_file_that_apt_and_rpm_could_not_read_is_refused(keys: Keys, tmp_path: Path) -> None:
    key = replace(keys.wanted("right", tmp_path / "x.asc"), url="https://packages.example.org/binary.asc")
    with pytest.raises(KeyRefused, match="not ASCII-armoured"):
        present(key, run, keys.gpg, check=False)
    assert not key.dest.exists()


def test_another_key_in_the_file_is_replaced(keys: Keys, tmp_path: Path) -> None:
    key = keys.wanted("right", tmp_path / "x.asc")
    shutil.copy(keys.file("both.asc"), key.dest)
    assert present(key, run, keys.gpg, check=False).changed
    assert inspect(key.dest.read_bytes(), run, keys.gpg).keys == {keys.fingerprints["right"]: ""}


def test_the_mode_is_put_right_without_fetching(keys: Keys, tmp_path: Path) -> None:
    key = replace(keys.wanted("right", tmp_path / "x.asc"), mirror=str(tmp_path / "nowhere"))
    shutil.copy(keys.file("right.asc"), key.dest)
    key.dest.chmod(0o600)
    assert present(key, run, keys.gpg, check=False).as_dict()["after"].endswith("root:root 0644\n")
    assert key.dest.stat().st_mode & 0o777 == 0o644


def test_without_a_fingerprint_there_is_no_key(keys: Keys, tmp_path: Path) -> None:
    key = keys.wanted("right", tmp_path / "x.asc")
    with pytest.raises(InputError, match="No fingerprint is known for the key https://packages.example.org/right.asc"):
        present(replace(key, fingerprints=()), run, keys.gpg, check=True)
    with pytest.raises(InputError, match="'3BF863CC' is no fingerprint"):
        present(replace(key, fingerprints=("3bf863cc",)), run, keys.gpg, check=True)


def test_a_mirror_without_the_key_is_an_error_with_its_path(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(LLMError, match=r"packages\.example\.org/right\.asc cannot be read"):
        present(replace(keys.wanted("right", tmp_path / "x.asc"), mirror="/nowhere"), run, keys.gpg, check=False)


def test_check_mode_before_gpg_is_installed_foresees_the_change(tmp_path: Path) -> None:
    key = SigningKey("https://packages.example.org/x.asc", ("A" * 40,), tmp_path / "x.asc")
    assert present(key, run, "", check=True).as_dict()["after"] == f"{key.dest}: {'A' * 40}\n"


def test_roots_own_gnupg_is_left_alone(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "gnupg"))
    assert inspect(keys.file("right.asc").read_bytes(), run, keys.gpg).keys == {keys.fingerprints["right"]: ""}
    assert os.listdir(tmp_path) == []
