"""What a doctor looks at without asking anybody: keys, settings, local state, partners' files."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from coopfs.archive.heads import Heads
from coopfs.archive.keyring import ADMIN_KEY_FILE, HOST_KEY_FILE, read_key_file
from coopfs.archive.settings import SETTINGS_FILE, ArchiveSettings
from coopfs.archive.state import FILE_NAME as STATE_FILE
from coopfs.archive.state import SCHEMA_VERSION
from coopfs.dirs import Dirs
from coopfs.format.invitation import Endpoint
from coopfs.identity import load_identity
from coopfs.ops.clock import TIMEOUT_S, ClockProbe
from coopfs.ops.doctor_findings import Report, is_private
from coopfs.ops.suspicion import clock_doubts
from coopfs.ops.wording import count, size_text
from coopfs.store.partners import access_path, identity_path, load_access, partner_names

QUICK_CHECK_MAX: Final = 256 << 20  # bytes of a state file that are read to check it: a second
STATE_FREE_NONE: Final = 1 << 20  # bytes; too little for any command that writes there
STATE_FREE_MIN: Final = 256 << 20  # bytes; a run's index objects and witnesses fit in


def look_at_clock(report: Report, servers: Sequence[Endpoint]) -> None:
    """Ask what this machine's clock is worth, as a snapshot would."""
    facts = ClockProbe(servers).facts(TIMEOUT_S)
    doubts = clock_doubts(facts)
    for doubt in doubts:
        report.warn(
            "clock",
            doubt,
            "snapshots are dated by it: let chronyd, ntpd or systemd-timesyncd keep it, or "
            'name "ntp_servers" to ask',
        )
    if not facts.source:
        report.note("clock", "nobody could be asked whether this machine's clock is right")
    elif not doubts:
        apart = f", {facts.offset_ns / 1e9:+.3f} s" if facts.stratum else ""
        report.ok("clock", f"synchronised (says {facts.source}{apart})")


def look_at_partners(report: Report, dirs: Dirs) -> None:
    """Look at what this machine keeps about the partners whose stores it uses."""
    for name in partner_names(dirs):
        with report.guarded("partner"):
            access = load_access(dirs, name)  # compares the pin with the certificate
            path = identity_path(dirs, access)
            load_identity(path)
            if is_private(report, "partner", path, is_secret=True) and is_private(
                report, "partner", access_path(dirs, name), is_secret=False
            ):
                report.ok(
                    "partner",
                    f"{name}: certificate pinned ({access.pin[:16]}…), and ours is only for you "
                    "to read",
                )


def look_at_keys(report: Report, dirs: Dirs, settings: ArchiveSettings) -> None:
    """Look at how the keys and settings of one archive are kept."""
    folder = dirs.archive_config(settings.name)
    has_password = settings.store != settings.shown_store
    with report.guarded("config"):
        are_private = [
            is_private(report, "config", dirs.config, is_secret=False),
            is_private(report, "config", folder, is_secret=False),
            is_private(report, "config", folder / SETTINGS_FILE, is_secret=has_password),
        ]
        if all(are_private):
            report.ok("config", f"{folder} is only yours to change")
    with report.guarded("keys"):
        _look_at_key(report, folder / HOST_KEY_FILE)
    admin = folder / ADMIN_KEY_FILE
    with report.guarded("admin-key"):
        if not admin.exists():
            report.ok("admin-key", "not on this machine: what takes it over can delete nothing")
        elif is_private(report, "admin-key", admin, is_secret=True):
            report.note(
                "admin-key",
                "is on this machine: whoever takes the machine over can let snapshots go with it",
                'where its sheet of the recovery kit is printed: "coopfs key offline"',
            )


def _look_at_key(report: Report, path: Path) -> None:
    is_wrapped = read_key_file(path).scrypt is not None
    if is_private(report, "keys", path, is_secret=True):
        how = "under a passphrase" if is_wrapped else "not wrapped, for a host that runs unattended"
        report.ok("keys", f"{path.name} is only yours to read, {how}")


def look_at_state(report: Report, dirs: Dirs, settings: ArchiveSettings) -> bool:
    """Look at what is kept here of the archive, changing nothing; False: do not open it."""
    folder = settings.state_folder(dirs)
    if not folder.exists():
        report.note("state", f"{folder}: nothing yet; the next command fills it from the store")
        return True
    is_usable = True
    with report.guarded("state"):
        is_private(report, "state", folder, is_secret=False)
        free = shutil.disk_usage(folder).free
        if free < STATE_FREE_MIN:
            tell = report.warn if free > STATE_FREE_NONE else report.problem
            tell("state", f"{folder}: {size_text(free)} are free there", "make room")
    with report.guarded("heads"):
        is_usable = False
        heads = Heads(folder).all()
        is_usable = True
        report.ok("heads", f"the newest of {count(len(heads), 'series', 'series')} is known here")
    path = folder / STATE_FILE
    if path.exists():
        is_usable = _look_at_index(report, path) and is_usable
    return is_usable


def _look_at_index(report: Report, path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                report.note("index", f"{path}: another version's; it is made anew from the store")
                return True
            if path.stat().st_size <= QUICK_CHECK_MAX:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise sqlite3.DatabaseError(verdict)
            (packs,) = connection.execute("SELECT count(*) FROM packs").fetchone()
            (unindexed,) = connection.execute("SELECT count(*) FROM unindexed_packs").fetchone()
    except sqlite3.OperationalError as exc:  # nothing that is wrong with what is in it
        report.problem(
            "index",
            f"{path}: cannot be looked at ({exc})",
            "make room on its disk, raise the quota, or see that the folder can be written to",
        )
        return False
    except sqlite3.Error as exc:
        report.problem(
            "index",
            f"{path}: damaged ({exc})",
            "move it away: it is made anew from the store, and the next snapshot reads all once",
        )
        return False
    report.ok("index", f"sound, {count(packs, 'pack')}")
    if unindexed:
        report.note(
            "unfinished",
            f"{count(unindexed, 'pack')} of an interrupted run are stored, in no snapshot yet",
            "take the snapshot again: it goes on there",
        )
    return True
