"""The keys of one archive on this host: read, wrapped, saved.

Owns ``host.key`` (archive key and this host's writer key) and ``admin.key`` (the
admin key, which need not be here) beside the settings.  Their bytes:
:mod:`coopfs.format.wrapping`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coopfs.archive.settings import ArchiveSettings
from coopfs.dirs import Dirs, write_private
from coopfs.errors import ConfigError, ObjectCorrupt, WrongKey
from coopfs.format.keys import ArchiveKeys, SigningKey
from coopfs.format.wrapping import (
    MAX_LEN,
    KeyFile,
    KeyPurpose,
    Secrets,
    decode_key_file,
    encode_key_file,
    unwrap,
)
from coopfs.ids import ArchiveId, WriterId

HOST_KEY_FILE: Final = "host.key"
ADMIN_KEY_FILE: Final = "admin.key"

AskPassphrase = Callable[[str], str]  # prompt -> passphrase; may raise CoopfsError


class KeyRing:
    """An archive's keys; signing keys are expanded when first needed.

    Expanding an Ed25519 key costs 60 ms for its library, and the admin key may be
    wrapped: reading an archive pays for neither.
    """

    __slots__ = ("_admin", "_load_admin", "_writer", "_writer_seed", "archive_id", "keys")

    def __init__(
        self,
        archive_id: ArchiveId,
        archive_key: bytes,
        writer_seed: bytes | None,
        load_admin: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        """Derive the archive's keys; *load_admin* gives the admin seed, if it is here."""
        self.archive_id = archive_id
        self.keys = ArchiveKeys.derive(archive_key)
        self._writer_seed = writer_seed
        self._load_admin = load_admin
        self._writer: SigningKey | None = None
        self._admin: SigningKey | None = None

    def writer(self) -> SigningKey | None:
        """Return this host's writer key; None where the archive can only be read."""
        if self._writer is None and self._writer_seed is not None:
            self._writer = SigningKey(self._writer_seed)
        return self._writer

    @property
    def writer_id(self) -> WriterId | None:
        """The id of this host's writer key (expands it)."""
        writer = self.writer()
        return writer.writer_id if writer else None

    def admin(self) -> SigningKey | None:
        """Return the admin key; None when it is not kept on this machine.

        Raises:
            WrongKey: it is wrapped with another passphrase.
            ConfigError: its file cannot be read.
        """
        if self._admin is None:
            seed = self._load_admin()
            self._admin = SigningKey(seed) if seed is not None else None
        return self._admin


def load_keyring(dirs: Dirs, settings: ArchiveSettings, passphrase: AskPassphrase) -> KeyRing:
    """Read this host's keys; *passphrase* is called only when a file is wrapped.

    Raises:
        WrongKey: wrong passphrase, or the keys of another archive.
        ConfigError: a file is missing, unreadable or damaged.
        FormatUnsupported: written by a newer coopfs.
    """
    folder = dirs.archive_config(settings.name)

    def load_admin() -> bytes | None:
        if not has_admin_key(dirs, settings.name):
            return None
        return load_secrets(folder / ADMIN_KEY_FILE, settings, KeyPurpose.ADMIN, passphrase).key

    secrets = load_secrets(folder / HOST_KEY_FILE, settings, KeyPurpose.HOST, passphrase)
    return KeyRing(settings.archive_id, secrets.key, secrets.writer_seed, load_admin)


def has_admin_key(dirs: Dirs, name: str) -> bool:
    """Tell whether the admin key of the archive called *name* is kept on this machine."""
    return (dirs.archive_config(name) / ADMIN_KEY_FILE).exists()


def load_secrets(
    path: Path, settings: ArchiveSettings, purpose: KeyPurpose, passphrase: AskPassphrase
) -> Secrets:
    """Read one key file and unwrap it (errors as :func:`load_keyring`)."""
    key_file = read_key_file(path)
    if key_file.purpose is not purpose:
        raise ConfigError(f"{path}: holds the keys of another purpose; files changed places?")
    if key_file.archive_id != settings.archive_id:
        raise WrongKey(
            f"{path}: the key of archive {key_file.archive_id.hex()}, but the settings are of "
            f"archive {settings.archive_id.hex()}"
        )
    if key_file.scrypt is None:
        return unwrap(key_file, None, str(path))
    prompt = f"Passphrase of the archive {settings.name!r}: "
    return unwrap(key_file, passphrase(prompt), str(path))


def read_key_file(path: Path) -> KeyFile:
    """Read and parse one key file, wrapped as it is.

    Raises:
        ConfigError: it is missing, unreadable or damaged.
        FormatUnsupported: written by a newer coopfs.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LEN + 1)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"{path}: the key file is missing; restore it from a copy of the config folder"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{path}: the key file cannot be read: {exc.strerror}") from exc
    try:
        return decode_key_file(data, str(path))
    except ObjectCorrupt as exc:
        raise ConfigError(str(exc)) from exc


def save_secrets(
    path: Path,
    purpose: KeyPurpose,
    archive_id: ArchiveId,
    secrets: Secrets,
    passphrase: str | None,
    *,
    replace: bool,
) -> None:
    """Write one key file atomically (0600), wrapped if there is a *passphrase*.

    Raises:
        ConfigError: it cannot be written, or exists and *replace* is False.
    """
    data = encode_key_file(purpose, archive_id, secrets, passphrase, os.urandom(32))
    write_private(path, data, replace=replace)
