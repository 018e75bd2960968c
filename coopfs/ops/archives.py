"""The archives this machine knows: listed, and removed from it.  No store is touched."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coopfs.archive.keyring import HOST_KEY_FILE, has_admin_key, load_keyring, read_key_file
from coopfs.archive.kit import KitKeys
from coopfs.archive.settings import (
    ArchiveSettings,
    archive_names,
    choose_archive,
    load_settings,
)
from coopfs.dirs import TEMPORARY_PREFIX, Dirs, sync_folder
from coopfs.errors import ConfigError, CoopfsError, UsageError, WrongKey
from coopfs.ids import ArchiveId


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """An archive as this machine knows it."""

    name: str
    settings: ArchiveSettings | None  # None: unusable, as *problem* says
    is_wrapped: bool  # its keys here have a passphrase
    has_admin_key: bool
    is_chosen: bool  # where none is named
    problem: str = ""


def list_archives(dirs: Dirs) -> list[LocalArchive]:
    """Return the archives on this machine by name (ConfigError: the folder is unreadable)."""
    names = archive_names(dirs)
    chosen = None
    if names:
        with suppress(UsageError):  # several, and none is the default
            chosen = choose_archive(dirs, None)
    return [_look_at(dirs, name, is_chosen=name == chosen) for name in names]


def _look_at(dirs: Dirs, name: str, *, is_chosen: bool) -> LocalArchive:
    has_admin = has_admin_key(dirs, name)
    try:
        settings = load_settings(dirs, name)
        is_wrapped = read_key_file(dirs.archive_config(name) / HOST_KEY_FILE).scrypt is not None
    except CoopfsError as exc:
        return LocalArchive(name, None, False, has_admin, is_chosen, str(exc))
    return LocalArchive(name, settings, is_wrapped, has_admin, is_chosen)


def check_kit_at_hand(
    dirs: Dirs, name: str, kit: KitKeys, passphrase: Callable[[str], str]
) -> None:
    """See that *kit* has every key of the archive *name* that would be lost with it here.

    Raises:
        UsageError: a sheet is missing.
        WrongKey: a sheet is another archive's.
        ConfigError: the keys here cannot be read, so nothing can be said.
    """
    ring = load_keyring(dirs, load_settings(dirs, name), passphrase)
    if kit.archive_key != ring.keys.archive_key:
        raise WrongKey(f"these words are not the archive key of {name!r}; nothing was removed")
    admin = ring.admin()
    if admin is None:
        return
    if kit.admin_key is None:
        raise UsageError(
            f"the admin key of {name!r} is on this machine too: its sheet is needed as well"
        )
    if kit.admin_key != admin.seed:
        raise WrongKey(f"these words are not the admin key of {name!r}; nothing was removed")


def remove_archive(dirs: Dirs, name: str) -> list[Path]:
    """Delete keys, settings, state and cache of the archive *name*; return what is gone.

    Stopped on the way, what is left is state and cache that nothing refers to.

    Raises:
        NoArchive: there is none of that name.
        ConfigError: something cannot be deleted.
    """
    folder = dirs.archive_config(choose_archive(dirs, name))
    archive_id = _archive_id(dirs, name)
    aside = dirs.archives / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        folder.rename(aside)  # at once: never an archive with half its keys
        sync_folder(dirs.archives)
        shutil.rmtree(aside)
        gone = [folder]
        if archive_id is not None:
            rest = [dirs.archive_state(archive_id), dirs.archive_cache(archive_id)]
            gone += [path for path in rest if path.exists()]
            for path in gone[1:]:
                shutil.rmtree(path)
    except OSError as exc:
        raise ConfigError(f"{exc.filename or folder}: cannot be deleted: {exc.strerror}") from exc
    return gone


def _archive_id(dirs: Dirs, name: str) -> ArchiveId | None:
    """Return the id from the settings or, where those are unusable, from the key file."""
    with suppress(CoopfsError):
        return load_settings(dirs, name).archive_id
    with suppress(CoopfsError):
        return read_key_file(dirs.archive_config(name) / HOST_KEY_FILE).archive_id
    return None
