"""The doctor: look at everything an owner of backups would ask about, say what to do.

Owns the order of the looks and that none of them keeps the others from being taken: a
broken setting, a partner who is away, a damaged state.  Changes nothing in the store, in the
settings or in sources; what is new in the store is taken in here, as by any command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import AskPassphrase, load_keyring
from coopfs.archive.line import Limits, open_line
from coopfs.archive.settings import ArchiveSettings, load_settings
from coopfs.dirs import Dirs
from coopfs.errors import CoopfsError, StoreError, StoreUnavailable
from coopfs.ops.doctor_archive import (
    look_at_audits,
    look_at_drills,
    look_at_losses,
    look_at_proofs,
    look_at_snapshots,
)
from coopfs.ops.doctor_findings import Finding, Level, Report
from coopfs.ops.doctor_local import (
    look_at_clock,
    look_at_keys,
    look_at_partners,
    look_at_state,
)
from coopfs.ops.doctor_served import is_server, look_at_server
from coopfs.ops.doctor_store import PROBLEMS_SHOWN, look_at_absence, look_at_store, refreshed
from coopfs.ops.stores import what_is_behind
from coopfs.store.open import open_store


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    dirs: Dirs
    archives: Sequence[str]  # names
    root: Path  # of the server, which need not be there
    limits: Limits  # of the line


def examine(patient: Patient, passphrase: AskPassphrase, tell: Callable[[Finding], None]) -> Level:
    """Look at everything; *tell* gets each finding as it is made.  Returns the worst level."""
    worst = Level.OK

    def note(finding: Finding) -> None:
        nonlocal worst
        worst = max(worst, finding.level)
        tell(finding)

    report = Report(note)
    known: dict[str, ArchiveSettings] = {}
    for name in patient.archives:
        with report.about(name).guarded("config"):
            known[name] = load_settings(patient.dirs, name)
    with report.guarded("clock"):
        servers = {server for settings in known.values() for server in settings.ntp_servers}
        look_at_clock(report, sorted(servers, key=str))
    with report.guarded("partner"):
        look_at_partners(report, patient.dirs)
    for name, settings in known.items():
        _look_at_archive(report.about(name), patient, settings, passphrase)
    with report.guarded("serve"):
        if is_server(patient.root):
            look_at_server(report, patient.root)
    return worst


def _look_at_archive(
    report: Report, patient: Patient, settings: ArchiveSettings, passphrase: AskPassphrase
) -> None:
    look_at_keys(report, patient.dirs, settings)
    folder = settings.state_folder(patient.dirs)
    oldest_ns: int | None = None
    if look_at_state(report, patient.dirs, settings):
        archive = _opened(report, patient, settings, passphrase)
        if archive is not None:
            with archive:
                _look_inside(report, patient.dirs, archive)
                oldest_ns = min((s.facts.time_ns for s in archive.snapshots()), default=None)
    with report.guarded("audit"):
        look_at_audits(report, folder, oldest_ns)
    with report.guarded("drill"):
        look_at_drills(report, folder)
    for other in settings.others:
        below = report.about(f"{settings.name} in {other.name}")
        with below.guarded("copy"):
            _look_at_copy(below, patient, settings.aimed_at(other.name), passphrase)


def _look_at_copy(
    report: Report, patient: Patient, settings: ArchiveSettings, passphrase: AskPassphrase
) -> None:
    """Look at a copy of the archive in another store, which may be a disk in a safe."""
    ring = load_keyring(patient.dirs, settings, passphrase)
    try:
        store = open_store(settings.store, open_line(patient.dirs, settings, patient.limits))
    except StoreError as exc:
        report.note("copy", f"cannot be looked at now: {exc}")
        return
    try:
        archive = Archive.open(patient.dirs, settings, ring, store)
    except BaseException as exc:
        store.close()
        if not isinstance(exc, StoreUnavailable):
            raise
        report.note("copy", f"cannot be looked at now: {exc}")
        return
    with archive:
        away = refreshed(report, archive)
        if away:
            report.note("copy", f"cannot be looked at now: {away}")
            return
        look_at_store(report, archive)
        behind = what_is_behind(patient.dirs, archive)
        for text in behind[:PROBLEMS_SHOWN]:
            report.warn("copy", f"the copy is behind: it has {text}", '"coopfs copy" again')
        if not behind:
            report.ok("copy", "has the newest of everything")
        look_at_losses(report, archive)
        oldest_ns = min((s.facts.time_ns for s in archive.snapshots()), default=None)
    look_at_audits(report, settings.state_folder(patient.dirs), oldest_ns)


def _opened(
    report: Report, patient: Patient, settings: ArchiveSettings, passphrase: AskPassphrase
) -> Archive | None:
    """Open the archive, the store answering or not; None: why not was reported."""
    try:
        ring = load_keyring(patient.dirs, settings, passphrase)
    except CoopfsError as exc:
        report.problem("keys", f"{exc}; what is in the archive was not looked at")
        return None
    try:
        store = open_store(settings.store, open_line(patient.dirs, settings, patient.limits))
    except StoreUnavailable as exc:
        look_at_absence(report, patient.dirs, settings.store, str(exc))
        return None
    except CoopfsError as exc:
        report.problem("store", str(exc))
        return None
    try:
        return Archive.open(patient.dirs, settings, ring, store, may_be_away=True)
    except StoreUnavailable as exc:
        look_at_absence(report, patient.dirs, settings.store, str(exc))
    except CoopfsError as exc:
        report.problem("store", str(exc))
    store.close()
    return None


def _look_inside(report: Report, dirs: Dirs, archive: Archive) -> None:
    away = archive.away or refreshed(report, archive)
    if away:
        look_at_absence(report, dirs, archive.settings.store, away)
    else:
        with report.guarded("store"):
            look_at_store(report, archive)
    with report.guarded("writer"):
        _look_at_writers(report, archive)
    with report.guarded("snapshots"):
        look_at_snapshots(report, archive)
    with report.guarded("lost"):
        look_at_losses(report, archive)
    with report.guarded("proofs"):
        look_at_proofs(report, archive)


def _look_at_writers(report: Report, archive: Archive) -> None:
    writer_id = archive.ring.writer_id
    distrusted = archive.objects.distrusted().keys()
    hosts = sorted(w.host for name, w in archive.objects.writers().items() if name in distrusted)
    if hosts:
        report.note(
            "writer",
            f"distrusted: {', '.join(hosts)}; nothing relies on what they stored",
            '"coopfs snapshot" on the other hosts stores again what they need',
        )
    if writer_id is None:
        report.note("writer", "this machine only reads the archive")
    elif writer_id in distrusted:
        report.problem(
            "writer",
            "this machine's writer key is distrusted: it can take no snapshot",
            'a new key is enrolled with "coopfs writer"',
        )
    elif archive.objects.writers() and writer_id not in archive.objects.writers():
        report.problem(
            "writer",
            "this machine is not enrolled as a writer: it can take no snapshot",
            'see "coopfs writer --help"',
        )
    elif archive.objects.writers():
        report.ok("writer", f"this machine is enrolled, as {archive.settings.host}")
