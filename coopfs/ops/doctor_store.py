"""What a doctor sees of the store: what it promises, how much room there is, its keeper's word."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import date
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from coopfs.archive.archive import Archive
from coopfs.dirs import Dirs
from coopfs.errors import CoopfsError, Rollback, StoreUnavailable, UsageError
from coopfs.ids import short_hex
from coopfs.ops.doctor_findings import Report
from coopfs.ops.publish import list_published
from coopfs.ops.readback import newest_packs, read_back
from coopfs.ops.suspicion import APART_MAX_S, apart_text
from coopfs.ops.wording import age_text, count, size_text
from coopfs.store.cloudaddress import AZ, GS, S3, parse_cloud_address
from coopfs.store.coop import CoopStore
from coopfs.store.coopstatus import PartnerStatus, load_contact
from coopfs.store.partners import partner_of_address

RUNS_LEFT: Final = 3  # runs as large as the largest of the last ten must have room
RUNS_SEEN: Final = 10
LOW_SHARE: Final = 0.05  # of a quota: less is low, whatever the runs need
AWAY_MAX_S: Final = 2 * 86_400  # a partner silent for longer is a problem
CLOCK_APART_S: Final = 60.0  # beyond, the two clocks are no matter of taste
PROBLEMS_SHOWN: Final = 5
_OPEN_SCHEMES: Final = ("ftp", "rest+http")


def look_at_absence(report: Report, dirs: Dirs, address: str, why: str) -> None:
    """Say that the store cannot be reached, and since when if that is known."""
    text = why
    silent_s: float | None = None
    name = partner_of_address(address)
    if name is not None:
        seen_ns = load_contact(dirs, name).time_ns
        if seen_ns is not None:
            silent_s = (time.time_ns() - seen_ns) / 1e9
            text += f"; last answer {age_text(silent_s)} ago"
        else:
            text += "; it has never answered"
    advice = "snapshots fail meanwhile; ask whoever keeps the store"
    if silent_s is not None and silent_s > AWAY_MAX_S:
        report.problem("store", text, advice)
    else:
        report.warn("store", text, advice)
    report.note("store", "what follows is what was known before")


def look_at_store(report: Report, archive: Archive) -> None:
    """Look at a store that answers."""
    store = archive.store
    report.ok("store", f"{store.address} answers")
    if is_line_open(store.address):
        report.warn(
            "line",
            "nothing encrypts the line to the store: what is stored is encrypted, the name and "
            "password it is opened with are not, and whoever has them may delete everything",
            "ftps://, rest+https:// or an https:// endpoint, if the store has them; else a tunnel",
        )
    _look_at_durability(report, archive)
    _look_at_rights(report, archive)
    status = None
    if isinstance(store, CoopStore):
        with report.guarded("partner"):
            status = store.status()
            _look_at_partner(report, store, status)
    with report.guarded("room"):
        _look_at_room(report, archive, status)
    with report.guarded("keys-in-store"):
        published = len(list_published(store))
        if published:
            report.note(
                "keys-in-store",
                f"{count(published, 'key')} wrapped with a passphrase lie in the store: its keeper "
                "can try passphrases",
                'where that was not meant: "coopfs key withdraw"',
            )


def is_line_open(address: str) -> bool:
    """Tell whether credentials go to the store over a network in the clear."""
    try:
        url = urlsplit(address)
        if url.scheme in (S3, GS, AZ):
            place = parse_cloud_address(address)
            url = urlsplit(place.endpoint or "")
            is_open = place.is_plain_http
        else:
            is_open = url.scheme in _OPEN_SCHEMES
        host = url.hostname or ""
    except (UsageError, ValueError):
        return False
    with suppress(ValueError):
        return is_open and not ip_address(host).is_loopback
    return is_open and host not in ("", "localhost")


def _look_at_durability(report: Report, archive: Archive) -> None:
    with report.guarded("durability"):
        if archive.store.is_durable:
            report.ok("durability", "what was stored survives a power cut at the store, it says")
            return
        packs = newest_packs(archive)
        bad = read_back(archive, packs)
        if not bad:
            read = f"; {count(len(packs), 'newest pack')} read back: whole" if packs else ""
            report.note("durability", f"this kind of store cannot promise that puts survive{read}")
        for pack_id, problem in list(bad.items())[:PROBLEMS_SHOWN]:
            report.problem(
                "durability",
                f"pack {short_hex(pack_id)}, stored lately: {problem}",
                '"coopfs audit" notes it, then "coopfs snapshot" sends it again',
            )


def _look_at_rights(report: Report, archive: Archive) -> None:
    store = archive.store
    if isinstance(store, CoopStore):
        report.ok(
            "rights",
            "a writer's key can delete nothing there; the admin key's deletions go to "
            "a trash on the partner's clock",
        )
    elif store.is_guarded:
        report.ok("rights", "the server lets a writer neither delete nor replace")
    elif store.is_guarded is None:
        report.note(
            "rights",
            "whether the server lets a writer delete cannot be seen from here",
            "rest-server has --append-only for that, buckets have policies and object locks",
        )
    else:
        report.note(
            "rights",
            "whoever can write to this kind of store can also destroy it, this machine too",
            'a second store elsewhere, or a partner\'s ("coopfs serve"), cures that',
        )


def _look_at_room(report: Report, archive: Archive, status: PartnerStatus | None) -> None:
    left = status.left if status is not None else archive.store.free_bytes()
    if left is None:
        report.note("room", "the store does not tell how much room is left")
        return
    host = archive.settings.host
    own = [s.facts.counts.stored for s in archive.snapshots() if s.facts.host == host]
    needed = RUNS_LEFT * max(own[-RUNS_SEEN:], default=0)
    low = LOW_SHARE * (status.quota or 0) if status is not None else 0
    text = f"{size_text(left)} left"
    if status is not None and status.quota:
        text += f" of {size_text(status.quota)}"
    advice = '"coopfs forget" and "coopfs prune", or ask for more'
    if left == 0:
        report.problem("room", f"the store is full: {text}", advice)
    elif left < max(needed, low):
        report.warn(
            "room",
            f"getting full: {text}, the largest of the last runs took "
            f"{size_text(needed // RUNS_LEFT)}",
            advice,
        )
    else:
        report.ok("room", text)


def _look_at_partner(report: Report, store: CoopStore, status: PartnerStatus) -> None:
    name = store.partner.name
    if status.keeps_until:
        over = date.fromisoformat(status.keeps_until) < date.today()
        report.problem(
            "notice",
            f"{name} leaves: it takes nothing new and keeps what is there until "
            f"{status.keeps_until}" + (", which is over" if over else ""),
            "find another store, and copy what is there in time",
        )
    if status.damaged:
        first = f" ({status.findings[0][:24]}…, ...)" if status.findings else ""
        report.warn(
            "scrub",
            f"{name}'s disk has damaged {count(status.damaged, 'object')}{first}",
            '"coopfs snapshot" sends again what its sources still have; then "coopfs check"',
        )
    elif status.damaged == 0:
        report.ok("scrub", f"{name}'s own check of its disk reports no damage")
    if status.clock_jump:
        report.warn(
            "trash",
            f"{name} does not believe its clock ({status.clock_jump}): no trash is emptied there",
            'somebody there must run "coopfs serve confirm-clock"',
        )
    if status.retention_days is not None:
        trash = f", {size_text(status.trash_used)} there now" if status.trash_used else ""
        report.ok("trash", f"{name} keeps what is deleted for {status.retention_days} days{trash}")
    ahead_s = store.clock_ahead_s()
    if ahead_s is not None and abs(ahead_s) > APART_MAX_S:
        text = f"{name}'s clock is {apart_text(ahead_s)} this machine's"
        if abs(ahead_s) > CLOCK_APART_S:
            report.warn("partner-clock", text, "one of the two is wrong")
        else:
            report.note("partner-clock", text)
    elif ahead_s is not None:
        report.ok("partner-clock", f"{name}'s clock and this machine's agree")


def refreshed(report: Report, archive: Archive) -> str:
    """Take in what is new in the store, and report what that shows; "" or why it is away.

    After anything else that is wrong the look goes on with what was known before.
    """
    try:
        archive.refresh()
    except StoreUnavailable as exc:
        return str(exc)
    except Rollback as exc:
        report.problem(
            "rollback", str(exc), 'what is lost for good: "coopfs repair --accept-rollback"'
        )
    except CoopfsError as exc:
        report.problem("store", str(exc))
    else:
        report.ok("rollback", "the store shows all that was ever seen of it here")
        for warning in archive.warnings[:PROBLEMS_SHOWN]:
            report.warn("objects", warning, '"coopfs check" looks at everything')
        if len(archive.warnings) > PROBLEMS_SHOWN:
            more = len(archive.warnings) - PROBLEMS_SHOWN
            report.warn("objects", f"and {more:,} more like these", '"coopfs check" has all')
    return ""
