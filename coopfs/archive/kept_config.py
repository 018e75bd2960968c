"""The archive's config as this machine last saw it: to look without the store, and to compare.

It is no secret, and verified when it is read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from coopfs.archive.settings import ArchiveSettings
from coopfs.dirs import Dirs, write_private
from coopfs.errors import ConfigError, CoopfsError, SignatureInvalid
from coopfs.format.config import ArchiveConfig, decode_config
from coopfs.format.keys import ArchiveKeys

KEPT_CONFIG: Final = "config"  # in the state folder


def kept_config(dirs: Dirs, settings: ArchiveSettings) -> bytes | None:
    """Return what is kept, unverified; None: nothing."""
    try:
        return (settings.state_folder(dirs) / KEPT_CONFIG).read_bytes()
    except OSError:
        return None


def keep_config(dirs: Dirs, settings: ArchiveSettings, data: bytes) -> None:
    """Keep what the store has just shown, for the day when it is away."""
    if kept_config(dirs, settings) != data:
        with suppress(ConfigError):  # a full disk here must not keep anyone from reading there
            write_private(settings.state_folder(dirs) / KEPT_CONFIG, data, replace=True)


def check_as_before(
    dirs: Dirs, settings: ArchiveSettings, keys: ArchiveKeys, config: ArchiveConfig, address: str
) -> None:
    """Refuse (SignatureInvalid) a config that is not the one this machine has seen before.

    Every host has the key of its checksum.  A hacked one that can write to the store would
    put an admin key of its own into it, and then be obeyed by all others.
    """
    # A copy's, too, is the one that the archive's own store has shown.
    for home in {settings, replace(settings, store=settings.home or settings.store)}:
        known = known_config(dirs, home, keys)
        if known is not None and known != config:
            what = "admin key" if known.admin_public_key != config.admin_public_key else "config"
            raise SignatureInvalid(
                f"{address}: its {what} is another than when this machine saw it last, which "
                "nothing in coopfs does: somebody who has the archive key, such as a hacked host, "
                "has replaced the config; nothing there is to be trusted before it is put back. "
                f"As it was, it lies in {home.state_folder(dirs) / KEPT_CONFIG}"
            )


def known_config(dirs: Dirs, settings: ArchiveSettings, keys: ArchiveKeys) -> ArchiveConfig | None:
    """Return the archive's config as this machine last saw it, without the store.

    None: it was never opened here, or what was kept is unusable.
    """
    data = kept_config(dirs, settings)
    with suppress(CoopfsError):
        config = decode_config(keys, data or b"", KEPT_CONFIG)
        return config if config.archive_id == settings.archive_id else None
    return None
