"""The stores of an archive: which others have copies, and moving it to another one.

Owns the rule that an archive is moved only to where all of it is: every object that this
host knows of is listed there, in its size.  The heads stay, so what the new store does not
show is missed as it would have been in the old one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.heads import Heads
from coopfs.archive.settings import (
    ArchiveSettings,
    OtherStore,
    check_archive_name,
    load_settings,
    save_settings,
)
from coopfs.dirs import Dirs
from coopfs.errors import (
    ConfigError,
    NotAStore,
    NotFound,
    Rollback,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from coopfs.format.keys import SIGNATURE_LEN
from coopfs.format.receipt import open_receipt
from coopfs.identity import public_key_of
from coopfs.ids import ObjectId, PackId
from coopfs.ops.copy_target import config_at
from coopfs.ops.owner import introduce_owner
from coopfs.store.base import Kind
from coopfs.store.partners import load_access, partner_of_address
from coopfs.store.receipts import ReceiptBook, SignedReceipt
from coopfs.store.shown import shown_address

NAMED: Final = 3  # of what is missing, in a message

OpenArchive = Callable[[ArchiveSettings], Archive]  # not refreshed


@dataclass(frozen=True, slots=True)
class Moved:
    """An archive that has another store now."""

    settings: ArchiveSettings
    packs: int  # that are in the new store
    snapshots: int
    missing: tuple[PackId, ...]  # not relied on any more
    rollback: str  # which snapshots the new store does not show, to be accepted; "": it has all
    old_store_error: str  # why the old store could not be asked for what is new; "": it was
    is_owner_known: bool  # False: the admin key is not here, so a partner does not know it yet


def what_is_behind(dirs: Dirs, copy: Archive) -> list[str]:
    """Return what a refreshed copy does not have of what the archive is known to have."""
    behind = []
    for head in Heads(dirs.archive_state(copy.config.archive_id)).all():
        there = copy.heads.get(head.host, head.series)
        if there is None or there.number < head.number:
            newest = f"number {there.number}" if there else "nothing"
            behind.append(f"{newest} of {head.host}/{head.series}, not {head.number}")
    return behind


def add_store(dirs: Dirs, settings: ArchiveSettings, name: str, address: str) -> ArchiveSettings:
    """Remember that a copy of the archive is in the store at *address*, called *name*.

    Raises:
        UsageError: the name is taken, or it is the archive's own store.
        NotAStore: there is no copy of this archive.
        StoreError, DataError: it cannot be looked at.
        ConfigError: it cannot be written down.
    """
    check_archive_name(name)
    address = settings.address_of(address if "/" in address or ":" in address else f"./{address}")
    shown = shown_address(address)
    if any(other.name == name for other in settings.others):
        raise UsageError(f"archive {settings.name!r} has a store called {name!r} already")
    if address == settings.store:
        raise UsageError(f"{shown}: is where the archive is; name stores with copies of it")
    found = config_at(address)
    if found is None or found.archive_id != settings.archive_id:
        raise NotAStore(
            f'{shown}: holds no copy of archive {settings.name!r}; "coopfs copy --to {shown}" '
            "makes one"
        )
    changed = replace(settings, others=(*settings.others, OtherStore(name, address)))
    save_settings(dirs, changed)
    return changed


def remove_store(dirs: Dirs, settings: ArchiveSettings, name: str) -> ArchiveSettings:
    """Forget the name of a store; what is in it stays (NotFound, ConfigError)."""
    rest = tuple(other for other in settings.others if other.name != name)
    if len(rest) == len(settings.others):
        known = ", ".join(other.name for other in settings.others) or "none"
        raise NotFound(
            f"archive {settings.name!r} has no other store called {name!r}; there is: {known}"
        )
    changed = replace(settings, others=rest)
    save_settings(dirs, changed)
    return changed


# --- receipts of a carried disk -----------------------------------------------------


def take_in_receipts(dirs: Dirs, address: str, path: Path) -> int:
    """Keep the receipts in *path*, which the partner's server signed as it took a disk in.

    Returns how many; all are verified before the first is kept.

    Raises:
        UsageError: the store at *address* is no partner's, or something is no receipt.
        DataError: one is not signed by that partner's server.
        NotFound, ConfigError: the partner, or the file, cannot be read.
    """
    partner = partner_of_address(address)
    if partner is None:
        raise UsageError(f"{shown_address(address)}: only a partner's server signs receipts")
    key = public_key_of(load_access(dirs, partner).certificate, f"partner {partner}")
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: the receipts cannot be read: {exc}") from exc
    signed = []
    for number, line in enumerate(lines, 1):
        what = f"{path}, line {number}"
        try:
            data = base64.b64decode(line, validate=True)
        except ValueError as exc:
            raise UsageError(f"{what}: is no receipt") from exc
        receipt = open_receipt(data, key, what)
        signed.append(SignedReceipt(receipt, data[-SIGNATURE_LEN:], key))
    book = ReceiptBook(dirs, partner)
    try:
        for item in signed:
            book.keep(item)
    finally:
        book.close()
    return len(signed)


# --- moving -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """What the archive's objects are, as this host knows."""

    packs: dict[PackId, int]  # bytes; neither marked nor lost
    index: frozenset[ObjectId]
    records: frozenset[ObjectId]


def move_archive(
    dirs: Dirs, settings: ArchiveSettings, name: str, open_at: OpenArchive, *, is_partial: bool
) -> Moved:
    """Have this host use the archive in the store *name* from now on.

    *open_at* opens the archive as settings say.  With *is_partial* things may be missing.
    On packs nothing relies any more, so the next snapshot stores again what its source has;
    missing snapshots go on being an error until the owner accepts that they are lost.

    Raises:
        StoreError: not everything is there; nothing was changed.
        NotAStore, WrongKey: this archive is not there.
        Rollback: it shows less than this host has seen.
        UsageError: it is there already, or *name* is no store.
        ConfigError: the settings cannot be written.
    """
    target = settings.aimed_at(name)
    if not target.is_in_copy:
        raise UsageError(f"{target.shown_store}: is where the archive is already")
    old_store_error = _learn(settings, open_at)
    settings = load_settings(dirs, settings.name)  # the newest, and without an aim
    others = tuple(other for other in settings.others if other.address != target.store)
    settings = replace(settings, store=target.store, others=others)
    with open_at(settings) as archive:
        known = _known(archive)
        missing, records, lacks = _missing(archive, known)
        if lacks and not is_partial:
            raise StoreError(
                f"{archive.store.address}: not all of the archive is there: it lacks "
                f'{", ".join(lacks)}; nothing was changed. "coopfs copy" sends the rest from where '
                "the archive is; if that is lost, --incomplete goes on with what there is"
            )
        rollback = ""
        try:
            archive.refresh()
        except Rollback as exc:
            if not is_partial:
                raise
            rollback = str(exc)
        archive.index.mark_all_lost(
            dict.fromkeys(missing, "not in the store the archive was moved to")
        )
        is_owner_known = archive.ring.admin() is not None
        if is_owner_known:
            introduce_owner(archive.store, archive.ring)
        snapshots = sum(ObjectId(s.snapshot_id) not in records for s in archive.snapshots())
        save_settings(dirs, settings)
    return Moved(
        settings=settings,
        packs=len(known.packs) - len(missing),
        snapshots=snapshots,
        missing=tuple(missing),
        rollback=rollback,
        old_store_error=old_store_error,
        is_owner_known=is_owner_known,
    )


def _learn(settings: ArchiveSettings, open_at: OpenArchive) -> str:
    """Take in what is new in the old store; return why that cannot be, if it cannot."""
    try:
        with open_at(settings) as archive:
            archive.refresh()
    except (NotAStore, StoreUnavailable) as exc:
        return str(exc)  # a disk that is with the partner by now
    return ""


def _known(archive: Archive) -> _Known:
    index = archive.index
    return _Known(
        packs={pack.pack_id: pack.size for pack in index.packs() if index.is_usable(pack.pack_no)},
        index=frozenset(index.known_objects() - index.replaced_objects()),
        records=frozenset(archive.objects.roles()),
    )


def _missing(
    archive: Archive, known: _Known
) -> tuple[list[PackId], frozenset[ObjectId], list[str]]:
    """Return the packs and the records that are not in the store, and in words all that is not."""
    store = archive.store
    sizes = {info.name: info.size for info in store.list(Kind.DATA)}
    packs = [name for name, size in known.packs.items() if sizes.get(ObjectId(name)) != size]
    index = known.index - {info.name for info in store.list(Kind.INDEX)}
    records = known.records - {info.name for info in store.list(Kind.SNAPSHOTS)}
    lacks = [
        f"{len(names):,} of {total:,} {kind} ({_first(names)})"
        for names, total, kind in (
            (packs, len(known.packs), "packs"),
            (sorted(index), len(known.index), "index objects"),
            (sorted(records), len(known.records), "snapshots and records"),
        )
        if names
    ]
    return packs, records, lacks


def _first(names: list[PackId] | list[ObjectId]) -> str:
    shown = ", ".join(name.hex()[:16] for name in names[:NAMED])
    return shown + (", …" if len(names) > NAMED else "")
