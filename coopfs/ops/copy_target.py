"""Where a copy goes: another store of the same archive, or another archive of this host.

Owns how ``--to`` is understood: the name of one of the archive's other stores, of another
archive on this host, or an address; what lies at an address decides which it is.
"""

from __future__ import annotations

from coopfs.archive.settings import ArchiveSettings, archive_names, load_settings
from coopfs.dirs import Dirs
from coopfs.errors import NotAStore, ObjectNotFound, UsageError, WrongKey
from coopfs.format.config import ArchiveConfig, peek_config
from coopfs.ids import short_hex
from coopfs.store.open import open_store
from coopfs.store.shown import shown_address


def find_target(dirs: Dirs, own: ArchiveSettings, name: str) -> ArchiveSettings:
    """Return the settings of what ``--to`` *name* means; nothing is changed anywhere.

    Those of *own*, with another store, where that holds the same archive or nothing yet.

    Raises:
        UsageError: it means nothing, or where the archive is already.
        WrongKey: an archive is there whose key this host does not have.
        StoreError, DataError: the place cannot be looked at.
    """
    archives = archive_names(dirs)
    is_store = any(other.name == name for other in own.others)
    if name in archives and not is_store:
        named = load_settings(dirs, name)
        if named.archive_id != own.archive_id:
            return named
        name = named.store
    elif not is_store and "/" not in name and ":" not in name:
        raise UsageError(
            f"--to {name}: neither another store of archive {own.name!r} "
            f"({', '.join(other.name for other in own.others) or 'none is named'}) nor an archive "
            f"of this host ({', '.join(archives)}); a folder of that name is written ./{name}"
        )
    target = own.aimed_at(name)
    if target.store == own.store:
        raise UsageError(f"--to {target.shown_store}: the archive is there already")
    found = config_at(target.store)
    if found is None or found.archive_id == own.archive_id:
        return target
    for archive in archives:
        other = load_settings(dirs, archive)
        if other.archive_id == found.archive_id:
            if other.store != target.store:
                raise UsageError(
                    f"--to {target.shown_store}: holds a copy of archive {archive!r}, which is "
                    f"written only where that is: {other.shown_store}"
                )
            return other
    raise WrongKey(
        f"--to {target.shown_store}: holds archive {short_hex(found.archive_id)}, whose key is not "
        f'on this host; "coopfs writer request {target.shown_store}" brings it here'
    )


def config_at(address: str) -> ArchiveConfig | None:
    """Return what the config at *address* says, unverified; None: there is none yet.

    Raises:
        StoreError, DataError: it cannot be looked at or understood.
    """
    try:
        with open_store(address) as store:
            return peek_config(store.get_config(), shown_address(address))
    except (NotAStore, ObjectNotFound):
        return None
