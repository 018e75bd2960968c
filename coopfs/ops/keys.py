"""How the keys are kept on this machine: listed and changed; keys and store stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import (
    ADMIN_KEY_FILE,
    HOST_KEY_FILE,
    has_admin_key,
    load_secrets,
    read_key_file,
    save_secrets,
)
from coopfs.archive.settings import ArchiveSettings
from coopfs.archive.words import key_fingerprint
from coopfs.dirs import Dirs, sync_folder
from coopfs.errors import ConfigError, NotFound, UsageError, WrongKey
from coopfs.format.config import ArchiveConfig
from coopfs.format.keys import SigningKey
from coopfs.format.wrapping import KeyPurpose, Secrets
from coopfs.ops.init import is_wrapped

_PURPOSES = {HOST_KEY_FILE: KeyPurpose.HOST, ADMIN_KEY_FILE: KeyPurpose.ADMIN}


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key of an archive as this machine has it."""

    kind: str  # archive, writer or admin
    path: Path | None  # None: not on this machine
    is_wrapped: bool  # with a passphrase
    public_key: bytes | None  # 32 bytes; of keys that sign

    @property
    def words(self) -> str | None:
        """Six words to compare with another machine's."""
        return key_fingerprint(self.public_key) if self.public_key else None


def list_keys(dirs: Dirs, archive: Archive) -> list[KeyFacts]:
    """Return the keys of *archive*, those that are not here too (ConfigError)."""
    folder = dirs.archive_config(archive.settings.name)
    host, admin = folder / HOST_KEY_FILE, folder / ADMIN_KEY_FILE
    is_wrapped = read_key_file(host).scrypt is not None
    writer = archive.ring.writer()
    has_admin = has_admin_key(dirs, archive.settings.name)
    return [
        KeyFacts("archive", host, is_wrapped, None),
        KeyFacts("writer", host, is_wrapped, writer.public_key if writer else None),
        KeyFacts(
            "admin",
            admin if has_admin else None,
            has_admin and read_key_file(admin).scrypt is not None,
            archive.config.admin_public_key,
        ),
    ]


def change_passphrase(
    dirs: Dirs,
    settings: ArchiveSettings,
    old: Callable[[str], str],
    new: Callable[[], str | None],
) -> list[Path]:
    """Wrap this machine's key files with another passphrase; None unwraps them.

    *old* is asked for files that are wrapped, *new* once all of them were read.  Each
    file is replaced atomically; stopped between two of them, the same change can be
    made again.  Returns the files written.

    Raises:
        WrongKey: *old* is not the passphrase of a file; nothing was changed.
        ConfigError: a file cannot be read or written.
    """
    folder = dirs.archive_config(settings.name)
    names = [HOST_KEY_FILE]
    if has_admin_key(dirs, settings.name):
        names.append(ADMIN_KEY_FILE)
    found: dict[str, Secrets] = {}
    behind: list[str] = []  # perhaps rewrapped already by a run that was stopped
    for name in names:
        try:
            found[name] = load_secrets(folder / name, settings, _PURPOSES[name], old)
        except WrongKey:
            behind.append(name)
    if not found:
        raise WrongKey(f"{folder / behind[0]}: wrong passphrase")
    passphrase = new()
    for name in behind:
        if passphrase is None:
            raise WrongKey(f"{folder / name}: wrong passphrase")
        load_secrets(folder / name, settings, _PURPOSES[name], lambda _: passphrase)
    for name, secrets in found.items():
        save_secrets(
            folder / name,
            _PURPOSES[name],
            settings.archive_id,
            secrets,
            passphrase,
            replace=True,
        )
    return [folder / name for name in found]


def take_admin_offline(dirs: Dirs, archive: Archive, typed_key: bytes) -> Path:
    """Delete the admin key from this machine; returns the file that is gone.

    *typed_key* is the key as read back from its sheet: the proof that it is not lost.

    Raises:
        NotFound: the admin key is not on this machine.
        WrongKey: the sheet is not this archive's admin key; nothing was changed.
        ConfigError: the file cannot be deleted.
    """
    path = dirs.archive_config(archive.settings.name) / ADMIN_KEY_FILE
    if not path.exists():
        raise NotFound(f"{path}: the admin key is not on this machine")
    check_admin_key(archive, typed_key)
    try:
        path.unlink()
        sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be deleted: {exc.strerror}") from exc
    return path


def bring_admin_online(
    dirs: Dirs, archive: Archive, typed_key: bytes, passphrase: Callable[[], str | None]
) -> Path:
    """Keep the admin key on this machine (again); returns its file.

    *passphrase* gives what to wrap it with, called if the host's keys are wrapped.

    Raises:
        UsageError: it is here already.
        WrongKey: it is not this archive's admin key; nothing was changed.
        ConfigError: the file cannot be written.
    """
    settings = archive.settings
    path = dirs.archive_config(settings.name) / ADMIN_KEY_FILE
    if path.exists():
        raise UsageError(f"{path}: the admin key is on this machine already")
    check_admin_key(archive, typed_key)
    chosen = passphrase() if is_wrapped(dirs, settings) else None
    save_secrets(
        path, KeyPurpose.ADMIN, settings.archive_id, Secrets(typed_key), chosen, replace=False
    )
    return path


def check_admin_key(archive: Archive, typed_key: bytes) -> SigningKey:
    """Return the signing key if it is the archive's admin key (WrongKey)."""
    name = f"the archive {archive.settings.name!r}"
    return admin_key_of(archive.config, typed_key, archive.keys.archive_key, name)


def admin_key_of(
    config: ArchiveConfig, typed_key: bytes, archive_key: bytes | None, name: str
) -> SigningKey:
    """Return the signing key if it is the admin key that *config*, of *name*, wants (WrongKey)."""
    if typed_key == archive_key:
        raise WrongKey(
            "these are the words of the archive key; the admin key is on the other sheet"
        )
    key = SigningKey(typed_key)
    if key.public_key != config.admin_public_key:
        raise WrongKey(
            f"these words are not the admin key of {name}; is the sheet another archive's?"
        )
    return key
