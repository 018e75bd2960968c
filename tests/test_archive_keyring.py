from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coopfs.archive.keyring import (
    ADMIN_KEY_FILE,
    HOST_KEY_FILE,
    KeyRing,
    has_admin_key,
    load_keyring,
    save_secrets,
)
from coopfs.archive.settings import ArchiveSettings
from coopfs.dirs import Dirs
from coopfs.errors import ConfigError, FormatUnsupported, WrongKey
from coopfs.format.keys import SigningKey
from coopfs.format.wrapping import KeyPurpose, Secrets
from coopfs.ids import ArchiveId

pytestmark = pytest.mark.usefixtures("cheap_scrypt")
SETTINGS = ArchiveSettings("home", "/s", ArchiveId(bytes(16)), "anna")
HOST = Secrets(b"a" * 32, b"w" * 32)
ADMIN = Secrets(b"A" * 32)


def never(prompt: str) -> str:
    raise AssertionError(f"asked: {prompt}")


def asked_once(passphrase: str) -> Callable[[str], str]:
    answers = [passphrase]
    return lambda prompt: answers.pop()


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")


def save(dirs: Dirs, passphrase: str | None, *, admin: str | bool | None = False) -> Path:
    folder = dirs.archive_config("home")
    folder.mkdir(parents=True, exist_ok=True)
    archive_id = SETTINGS.archive_id
    path = folder / HOST_KEY_FILE
    save_secrets(path, KeyPurpose.HOST, archive_id, HOST, passphrase, replace=True)
    if not isinstance(admin, bool):
        path = folder / ADMIN_KEY_FILE
        save_secrets(path, KeyPurpose.ADMIN, archive_id, ADMIN, admin, replace=True)
    return folder


def test_unwrapped_keys_are_read_without_asking(dirs: Dirs) -> None:
    save(dirs, None, admin=None)
    ring = load_keyring(dirs, SETTINGS, never)
    writer, admin = ring.writer(), ring.admin()
    assert ring.keys.archive_key == HOST.key
    assert writer is not None
    assert writer.public_key == SigningKey(b"w" * 32).public_key
    assert ring.writer_id == writer.writer_id
    assert admin is not None
    assert admin.public_key == SigningKey(b"A" * 32).public_key
    assert ring.writer() is writer  # expanded once
    assert ring.admin() is admin


def test_key_files_are_readable_by_their_owner_only(dirs: Dirs) -> None:
    folder = save(dirs, None, admin=None)
    for name in (HOST_KEY_FILE, ADMIN_KEY_FILE):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_the_passphrase_of_the_admin_key_is_asked_for_when_it_is_needed(dirs: Dirs) -> None:
    save(dirs, None, admin="secret")
    ring = load_keyring(dirs, SETTINGS, asked_once("secret"))
    assert ring.writer() is not None
    assert ring.admin() is not None
    assert ring.admin() is not None  # not asked again: there was one answer


def test_a_machine_without_the_admin_key_says_so(dirs: Dirs) -> None:
    save(dirs, None)
    assert not has_admin_key(dirs, "home")
    assert load_keyring(dirs, SETTINGS, never).admin() is None


def test_a_key_ring_may_only_read() -> None:
    ring = KeyRing(SETTINGS.archive_id, b"a" * 32, None)
    assert ring.writer() is None
    assert ring.writer_id is None
    assert ring.admin() is None


def test_the_prompt_names_the_archive(dirs: Dirs) -> None:
    save(dirs, "secret")
    prompts = []
    load_keyring(dirs, SETTINGS, lambda prompt: prompts.append(prompt) or "secret")
    assert prompts == ["Passphrase of the archive 'home': "]


def test_a_wrong_passphrase_names_the_file(dirs: Dirs) -> None:
    save(dirs, "secret")
    with pytest.raises(WrongKey, match=r"host\.key: wrong passphrase"):
        load_keyring(dirs, SETTINGS, asked_once("Secret"))


def test_the_keys_of_another_archive_are_refused(dirs: Dirs) -> None:
    save(dirs, None)
    other = replace(SETTINGS, archive_id=ArchiveId(b"\x01" * 16))
    with pytest.raises(WrongKey, match=f"{'00' * 16}.*{'01' * 16}"):
        load_keyring(dirs, other, never)


def test_files_that_changed_places_are_refused(dirs: Dirs) -> None:
    folder = save(dirs, None, admin=None)
    (folder / ADMIN_KEY_FILE).replace(folder / HOST_KEY_FILE)
    with pytest.raises(ConfigError, match="another purpose"):
        load_keyring(dirs, SETTINGS, never)


@pytest.mark.parametrize("content", [b"", b"COOPFSK\n", b"ssh-ed25519 AAAA", bytes(1 << 20)])
def test_a_file_that_is_no_key_file_is_named(dirs: Dirs, content: bytes) -> None:
    (save(dirs, None) / HOST_KEY_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=r"host\.key: "):
        load_keyring(dirs, SETTINGS, never)


def test_a_key_file_of_a_newer_coopfs_says_update(dirs: Dirs) -> None:
    path = save(dirs, None) / HOST_KEY_FILE
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(FormatUnsupported, match="update"):
        load_keyring(dirs, SETTINGS, never)


def test_a_missing_or_unreadable_key_file_is_named(dirs: Dirs) -> None:
    path = save(dirs, None) / HOST_KEY_FILE
    path.unlink()
    with pytest.raises(ConfigError, match=r"host\.key: the key file is missing"):
        load_keyring(dirs, SETTINGS, never)
    os.mkdir(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keyring(dirs, SETTINGS, never)
