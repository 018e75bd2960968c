"""Distrust: what a hacked host has made does not count any more, by the admin's word.

Owns the plan (what would be hurt) and the record.  Nothing is deleted: the writer's packs
leave deduplication on every host that reads the record, and what other snapshots relied on
is stored again by their next runs, from their own sources.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import UsageError
from coopfs.format.keys import Role, SigningKey
from coopfs.format.records import Distrust, Enrolment, encode_distrust
from coopfs.ids import SnapshotId
from coopfs.ops.forget import checked_admin_key, put_durable
from coopfs.ops.progress import Progress
from coopfs.ops.reliance import Reliance, reliance_on

DIGITS_MIN: Final = 4  # of a writer's id, as typed


@dataclass(frozen=True, slots=True)
class DistrustPlan:
    """What it means to distrust a writer, or not to any more."""

    writer: Enrolment
    is_distrusted: bool  # what is to be said
    is_needless: bool  # it was said already
    snapshots: tuple[Snapshot, ...]  # the writer's
    packs: int  # the writer's
    pack_len: int  # bytes
    reliance: Reliance  # of the others on them
    is_own: bool  # this host's writer


def find_writer(archive: Archive, name: str) -> Enrolment:
    """Return the enrolled writer whose id begins with *name*, or whose host it is.

    Raises:
        UsageError: none is, or several are.
    """
    writers = list(archive.objects.writers().values())
    digits = name.lower()
    found = [w for w in writers if w.host == name]
    if not found and len(digits) >= DIGITS_MIN:
        found = [w for w in writers if w.writer_id.hex().startswith(digits)]
    if not found:
        raise UsageError(
            f'{name!r}: no writer of that id or host; "coopfs writer list" shows them all'
        )
    if len(found) > 1:
        ids = ", ".join(w.writer_id.hex()[:8] for w in found)
        raise UsageError(f"{name!r} could be any of the writers {ids}; give one of these")
    return found[0]


def plan_distrust(
    archive: Archive, writer: Enrolment, *, is_distrusted: bool, progress: Progress
) -> DistrustPlan:
    """Find out what it means for a refreshed archive (StoreUnavailable)."""
    writer_id = writer.writer_id
    pack_nos = archive.index.packs_by([writer_id])
    packs = [pack for pack in archive.index.packs() if pack.pack_no in pack_nos]
    snapshots = archive.snapshots()
    others = [s for s in snapshots if s.facts.writer_id != writer_id and not s.is_distrusted]
    word = archive.objects.distrusted().get(writer_id)
    own = tuple(s for s in snapshots if s.facts.writer_id == writer_id)
    return DistrustPlan(
        writer=writer,
        is_distrusted=is_distrusted,
        is_needless=(word is not None) is is_distrusted,
        snapshots=own,
        packs=len(packs),
        pack_len=sum(pack.size for pack in packs),
        reliance=reliance_on(archive, frozenset(pack_nos), others, progress),
        is_own=archive.ring.writer_id == writer_id,
    )


def apply_distrust(archive: Archive, plan: DistrustPlan, admin: SigningKey | None) -> None:
    """Put the record; from then on every host that reads the archive heeds it.

    Raises:
        WrongKey: *admin* is not the archive's admin key.
        StoreError: the record could not be put.
    """
    key = checked_admin_key(archive, admin, "distrusting a writer")
    if plan.is_needless:
        return
    words = [word for _, word in archive.objects.named_distrusts()]
    newest_ns = max((w.time_ns for w in words if w.writer_id == plan.writer.writer_id), default=0)
    there: tuple[SnapshotId, ...] = ()
    if plan.is_distrusted:
        there = tuple(sorted(s.snapshot_id for s in plan.snapshots))
    record = Distrust(
        writer_id=plan.writer.writer_id,
        is_distrusted=plan.is_distrusted,
        snapshot_ids=there,
        # The newest counts: a clock that went back must not make this one an old word.
        time_ns=max(time.time_ns(), newest_ns + 1),
    )
    put_durable(archive, key, Role.DISTRUST, encode_distrust(record))
    archive.refresh()
