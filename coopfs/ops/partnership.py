"""What two partners hold for each other: look at it, change it, end it.

The two directions are two halves that know nothing of each other: the store we have at
the partner's (its file in the config folder), and what the partner may keep here (its
folder below the server's root).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from coopfs.archive.settings import archive_names, load_settings
from coopfs.dirs import TEMPORARY_PREFIX, Dirs, sync_folder
from coopfs.errors import ConfigError, CoopfsError, NotFound, UsageError
from coopfs.format.invitation import Endpoint, check_partner_name
from coopfs.ops.pairing import writer_identity_of
from coopfs.server.depot import Depot
from coopfs.server.dialling import load_dial_place, remove_dial_place, save_dial_place
from coopfs.server.ownership import hand_over
from coopfs.server.quota import Usage
from coopfs.server.settings import (
    SETTINGS_FILE,
    PartnerSettings,
    change_partner,
    load_partner,
    partner_folder,
    read_partners,
)
from coopfs.store.coop import CoopStore, Undeleted, open_coop
from coopfs.store.coopstatus import Contact, PartnerStatus, load_contact
from coopfs.store.partners import (
    PartnerAccess,
    load_access,
    partner_names,
    remove_access,
    save_access,
)
from coopfs.store.receipts import ReceiptBook, ReceiptSums, SignedReceipt

_REMOVED: Final = f"{TEMPORARY_PREFIX}removed-"


@dataclass(frozen=True, slots=True)
class Partnership:
    """One partner, both ways; what is not there is None."""

    name: str
    access: PartnerAccess | None  # how we come to it
    contact: Contact  # what it last said
    granted: PartnerSettings | None  # what it may keep here
    usage: Usage | None  # what it keeps here
    problem: str = ""  # why something is missing


def list_partners(dirs: Dirs, root: Path) -> list[Partnership]:
    """Return all partners by name; nobody is asked, so this needs no line.

    Where the server's folder is another user's, only the stores at partners' are known.

    Raises:
        ConfigError: the config folder cannot be read.
    """
    names, problem = set(partner_names(dirs)), ""
    try:
        granted, problems = read_partners(root)
        names |= {*granted, *problems}
    except ConfigError as exc:
        problem = str(exc)
    found = [look_at(dirs, root, name) for name in sorted(names)]
    return [replace(each, problem=each.problem or problem) for each in found]


def look_at(dirs: Dirs, root: Path, name: str) -> Partnership:
    """Return what is known here of the partner *name*; what cannot be read is its problem."""
    access, granted, usage, problem = None, None, None, ""
    try:
        access = load_access(dirs, name)
    except NotFound:
        pass
    except CoopfsError as exc:
        problem = str(exc)
    try:
        if _is_granted(root, name):
            granted = load_partner(root, name)
            usage = _usage(root, granted)
    except CoopfsError as exc:
        problem = problem or str(exc)
    return Partnership(name, access, load_contact(dirs, name), granted, usage, problem)


def _usage(root: Path, granted: PartnerSettings) -> Usage:
    depot = Depot(root, granted, is_server=False)
    try:
        return depot.usage()
    finally:
        depot.close()
        hand_over(root, granted.name)  # it makes folders that are missing


def _is_granted(root: Path, name: str) -> bool:
    path = partner_folder(root, check_partner_name(name)) / SETTINGS_FILE
    try:
        return path.is_file()
    except OSError as exc:  # another user's folder
        raise ConfigError(f"{path}: cannot be looked at: {exc.strerror}") from exc


def ask_status(name: str) -> PartnerStatus:
    """Ask the partner's server what it holds for us, and remember it.

    Raises:
        NotFound: we have no store there.
        StoreError: it is not there, or refuses.
    """
    with open_coop(f"coop://{name}") as store:
        return store.status()


def read_receipts(
    dirs: Dirs, name: str, objects: Sequence[str] = (), since_ns: int | None = None
) -> list[SignedReceipt]:
    """Return what the partner's server has signed for us, the oldest first; nobody is asked.

    Raises:
        NotFound: we have no store there, nor had one.
        UsageError: *objects* are no names.
        ConfigError: the receipts cannot be read.
    """
    book = ReceiptBook(dirs, name)
    if not book.path.exists():
        load_access(dirs, name)
    try:
        return book.receipts(objects, since_ns)
    finally:
        book.close()


def sum_receipts(dirs: Dirs, name: str) -> ReceiptSums:
    """Return how many receipts of the partner there are (ConfigError)."""
    book = ReceiptBook(dirs, name)
    try:
        return book.sums()
    finally:
        book.close()


def undelete(name: str, since_ns: int | None) -> Undeleted:
    """Have what was deleted at the partner's back from its trash (errors as ask_status)."""
    with open_coop(f"coop://{name}") as store:
        return store.undelete(since_ns=since_ns)


# --- changing -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What `coopfs partner set` was asked for; None leaves it as it is."""

    quota: int | None = None  # bytes, that the partner may keep here
    per_day: int | None = None
    retention_days: int | None = None  # of its trash here; may only grow
    receive_rate: str | None = None
    send_rate: str | None = None
    endpoint: Endpoint | None = None  # of the partner's server


def change_terms(dirs: Dirs, root: Path, name: str, change: Change) -> None:
    """Change what the partner may keep here, or where it is.

    Raises:
        NotFound: there is no such partner.
        UsageError: it makes no sense, or would take away what was agreed.
        ConfigError: it cannot be written.
    """
    wanted = {
        "quota_bytes": change.quota,
        "per_day_bytes": change.per_day,
        "retention_days": change.retention_days,
        "receive_rate": change.receive_rate,
        "send_rate": change.send_rate,
    }
    changes = {key: value for key, value in wanted.items() if value is not None}
    if changes:
        _check_granted(root, name)

    def apply(old: PartnerSettings) -> PartnerSettings:
        if change.retention_days is not None and change.retention_days < old.retention_days:
            raise UsageError(
                f"the retention agreed with {name!r} is {old.retention_days} days; it can grow, "
                "but what the partner relies on is not taken away"
            )
        return replace(old, **changes)  # type: ignore[arg-type]  # each of its field's type

    if changes:
        change_partner(root, name, apply)
        hand_over(root, name)
    if change.endpoint is not None:
        _move(dirs, root, name, change.endpoint)


def _move(dirs: Dirs, root: Path, name: str, endpoint: Endpoint) -> None:
    access = load_access(dirs, name)
    if access.endpoint is None:
        raise UsageError(
            f"partner {name!r} dials in, and is where it dials from; if it can be reached now, "
            "pair anew with --again"
        )
    save_access(dirs, replace(access, endpoint=endpoint))
    try:
        place = load_dial_place(root, name)
    except FileNotFoundError:
        return
    save_dial_place(root, replace(place, endpoint=endpoint))
    hand_over(root, name)


def raise_retention(name: str, days: int, lend: Callable[[CoopStore], None]) -> int | None:
    """Have the partner keep for longer what we delete; return for how many days it will.

    *lend* gives the store the owner's identity.

    Raises:
        NotFound: we have no store there.
        StoreDenied: the admin key is not here, or not of the archive that is there.
        StoreError: the partner is not there, or refuses.
    """
    with open_coop(f"coop://{name}") as store:
        lend(store)
        store.raise_retention(days)
        return store.status().retention_days


def disown(name: str, give_up: Callable[[CoopStore], None]) -> None:
    """Have the partner know the owner of what lies there no longer; *give_up* does it.

    Raises:
        NotFound: we have no store there.
        WrongKey, StoreDenied: the admin key is not here, or not the owner's there.
        StoreError: the partner is not there, or refuses.
    """
    with open_coop(f"coop://{name}") as store:
        give_up(store)


def archives_at(dirs: Dirs, name: str) -> list[str]:
    """Return the archives of this machine that lie at the partner's (ConfigError)."""
    found = []
    for archive in archive_names(dirs):
        try:
            store = load_settings(dirs, archive).store
        except CoopfsError:
            continue
        if store.rstrip("/") == f"coop://{name}":
            found.append(archive)
    return found


# --- ending ---------------------------------------------------------------------


def leave(root: Path, name: str, notice_days: int) -> date:
    """Take nothing new from the partner, and keep what is here; return until when.

    Said again, a longer notice holds, never a shorter one.

    Raises:
        NotFound: the partner keeps nothing here.
        ConfigError: it cannot be written.
    """
    _check_granted(root, name)
    until = datetime.now(UTC).date() + timedelta(days=notice_days)

    def apply(old: PartnerSettings) -> PartnerSettings:
        return replace(old, keeps_until=max(old.keeps_until, until.isoformat()))

    granted = change_partner(root, name, apply)
    hand_over(root, name)
    return date.fromisoformat(granted.keeps_until)


def check_removable(dirs: Dirs, root: Path, name: str, *, with_data: bool) -> list[str]:
    """Return what speaks against ending the partnership, for people.

    Raises:
        NotFound: there is no such partner.
    """
    doubts = []
    is_known = name in partner_names(dirs)
    if not is_known and not partner_folder(root, check_partner_name(name)).exists():
        raise NotFound(f"no partner is called {name!r} here")
    for archive in archives_at(dirs, name):
        doubts.append(f"the archive {archive!r} lies at this partner's, and is lost to us here")
    if with_data and _is_granted(root, name):
        until = load_partner(root, name).keeps_until
        today = datetime.now(UTC).date().isoformat()
        if not until:
            doubts.append("it was given no notice (coopfs partner leave), and loses its data here")
        elif today <= until:
            doubts.append(f"it was promised that its data stays here until {until}")
    return doubts


def remove(dirs: Dirs, root: Path, name: str, *, with_data: bool) -> None:
    """End the partnership: neither comes to the other any more.

    What the partner keeps here stays, unless *with_data*; nobody comes to it then.

    Raises:
        ConfigError: something cannot be deleted.
    """
    folder = partner_folder(root, check_partner_name(name))
    remove_dial_place(root, name)
    try:
        (folder / SETTINGS_FILE).unlink(missing_ok=True)  # first: the server lets nobody in
        if folder.is_dir():
            sync_folder(folder)
        if name in partner_names(dirs):
            remove_access(dirs, name)
        (dirs.config / writer_identity_of(name)).unlink(missing_ok=True)
        if with_data and folder.is_dir():
            # Aside first: what is killed in the middle leaves no half of a partner.
            doomed = folder.with_name(f"{_REMOVED}{name}-{os.getpid()}-{time.time_ns():x}")
            folder.rename(doomed)
            shutil.rmtree(doomed)
    except OSError as exc:
        raise ConfigError(f"{exc.filename or folder}: cannot be deleted: {exc.strerror}") from exc


def _check_granted(root: Path, name: str) -> None:
    if not _is_granted(root, name):
        raise NotFound(f"no partner called {name!r} keeps anything here ({root})")
