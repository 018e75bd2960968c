"""Stats: how much was backed up, how much of it is different, and what the store holds.

Counts come from the snapshots and the local index, sizes of objects from one listing
of the store; nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coopfs.archive.archive import Archive
from coopfs.archive.heads import Accepted
from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import State
from coopfs.ops.audit import AuditResult, past_audits
from coopfs.ops.drill import DrillResult, past_drills
from coopfs.ops.pack_sums import PackSums, pack_sums
from coopfs.store.base import Kind


@dataclass(frozen=True, slots=True)
class ObjectSums:
    """Objects of one kind in the store."""

    count: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """One series of one host."""

    host: str
    series: str
    snapshots: int
    partial: int
    first_ns: int  # time of its oldest snapshot
    newest: Snapshot
    size: int  # bytes of files in all its snapshots, holes included
    new: int  # bytes of chunks and trees its runs found new
    stored: int  # bytes its runs put into the store


@dataclass(frozen=True, slots=True)
class Stats:
    """What an archive holds."""

    series: tuple[SeriesFacts, ...]
    snapshots: int
    partial: int
    files: int  # in all snapshots
    size: int  # bytes of files in all snapshots
    data: PackSums
    meta: PackSums
    in_store: dict[Kind, ObjectSums]
    free: int | None  # bytes; None: the store cannot tell
    lost_packs: int  # found damaged or gone
    distrusted: int  # snapshots, of writers that are distrusted
    accepted: tuple[Accepted, ...]  # missing, and somebody said to go on without them
    audits: tuple[AuditResult, ...]  # of this machine, oldest first
    drills: tuple[DrillResult, ...]  # likewise

    @property
    def stored(self) -> int:
        """Bytes in the store, all objects."""
        return sum(sums.size for sums in self.in_store.values())

    @property
    def dedup_ratio(self) -> float | None:
        """How often a byte of a file is backed up for each that is different."""
        return self.size / self.data.plain_len if self.data.plain_len else None

    @property
    def compression_ratio(self) -> float | None:
        """How many different bytes one byte of the data packs stands for."""
        return self.data.plain_len / self.data.size if self.data.size else None

    @property
    def total_ratio(self) -> float | None:
        """How many bytes of backups one byte in the store stands for."""
        return self.size / self.stored if self.stored else None


def collect_stats(archive: Archive) -> Stats:
    """Add everything up; the archive was refreshed (StoreUnavailable)."""
    snapshots = archive.snapshots()
    data, meta = pack_sums(archive)
    in_store = {
        kind: _object_sums(info.size for info in archive.store.list(kind))
        for kind in (Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS, Kind.KEYS)
    }
    return Stats(
        series=_by_series(snapshots),
        snapshots=len(snapshots),
        partial=_partial(snapshots),
        files=sum(s.facts.counts.files + s.facts.counts.others for s in snapshots),
        size=sum(s.facts.counts.size for s in snapshots),
        data=data,
        meta=meta,
        in_store=in_store,
        free=archive.store.free_bytes(),
        lost_packs=len(archive.index.lost()),
        distrusted=sum(s.is_distrusted for s in snapshots),
        accepted=tuple(archive.heads.accepted()),
        audits=tuple(past_audits(archive.state_folder)),
        drills=tuple(past_drills(archive.state_folder)),
    )


def _object_sums(sizes: Iterable[int]) -> ObjectSums:
    found = list(sizes)
    return ObjectSums(len(found), sum(found))


def _by_series(snapshots: list[Snapshot]) -> tuple[SeriesFacts, ...]:
    groups: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in snapshots:
        groups.setdefault((snapshot.facts.host, snapshot.facts.series), []).append(snapshot)
    return tuple(
        SeriesFacts(
            host=host,
            series=series,
            snapshots=len(group),
            partial=_partial(group),
            first_ns=min(s.facts.time_ns for s in group),
            newest=max(group, key=lambda s: s.facts.number),
            size=sum(s.facts.counts.size for s in group),
            new=sum(s.facts.counts.new for s in group),
            stored=sum(s.facts.counts.stored for s in group),
        )
        for (host, series), group in sorted(groups.items())
    )


def _partial(snapshots: list[Snapshot]) -> int:
    return sum(s.facts.state is State.PARTIAL for s in snapshots)
