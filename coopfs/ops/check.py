"""Check: is everything there that the snapshots promise?  Nothing is changed in the store.

Owns the order of a check: snapshots and index objects read afresh, packs compared with
the store's listing, packs read if asked for, then every tree once.  Nothing is taken
from the local state, which is only compared with what the store shows.

What is lost is noted in the local index, so that the next snapshot stores it again.
"""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.dirs import Dirs
from coopfs.format.config import decode_config_body
from coopfs.format.keys import Role
from coopfs.ids import PackId, short_hex
from coopfs.ops.check_ahead import SurveysAhead
from coopfs.ops.check_chunks import ChunkTable
from coopfs.ops.check_findings import CheckTotals, Findings, Report, Subject
from coopfs.ops.check_index import IndexCheck
from coopfs.ops.check_packs import PackFacts, PackReport, salvage_pack
from coopfs.ops.check_reading import read_packs
from coopfs.ops.check_trees import TreeCheck
from coopfs.ops.progress import Progress

MEMORY_LEN: Final = 64 << 20  # bytes of decoded metadata blocks
PROBLEMS_SHOWN: Final = 5  # of one pack
META_SHARE: Final = 12  # of how many bytes about one is metadata: a guess before they are counted


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to look at beside the structure."""

    read_share: float = 0.0  # of the packs, 0 to 1: read whole, every chunk verified


def check_archive(
    archive: Archive, request: CheckRequest, report: Report, progress: Progress
) -> CheckTotals:
    """Check the archive; *report* is told of everything as it is found.

    Raises:
        StoreUnavailable: the partner cannot be reached; nothing can be said.
        WrongKey: nothing in the store opens with this key.
    """
    archive.state.map_nothing()
    with tempfile.TemporaryDirectory(prefix="check-", dir=archive.state_folder) as folder:
        fresh = fresh_archive(archive, Path(folder))
        try:
            return _Check(archive, fresh, request, report, progress).run()
        finally:
            fresh.state.close()  # the store is the other's to close


def fresh_archive(archive: Archive, folder: Path) -> Archive:
    """Return the same archive with an empty local state."""
    dirs = Dirs(config=folder / "config", state=folder / "state", cache=folder / "cache")
    return Archive(dirs, archive.settings, archive.ring, archive.store, archive.config, MEMORY_LEN)


class _Check:
    """One run."""

    def __init__(
        self,
        archive: Archive,
        fresh: Archive,
        request: CheckRequest,
        report: Report,
        progress: Progress,
    ) -> None:
        self._archive = archive
        self._fresh = fresh
        self._request = request
        self._progress = progress
        self.totals = CheckTotals()
        self._findings = Findings(report, self.totals)
        self._damage = self._findings.damage
        self._table = ChunkTable()
        self._index = IndexCheck(archive, fresh, self._table, self._findings, self.totals)
        self._lost: dict[PackId, str] = {}  # there, but damaged -> how
        self._found: list[PackId] = []  # taken for lost before, and whole after all

    def run(self) -> CheckTotals:
        """Look at everything once, from what is small and decides to what is large."""
        start_s = time.monotonic()
        ahead = SurveysAhead(self._fresh)
        try:
            # Made ready while this process still learns what there is.
            ahead.start(self._archive.index.packs_len // META_SHARE)
            snapshots = self._read_snapshots()
            self._index.run(ahead.take_in)
            ahead.start(ahead.waiting_len)
            self._table.seal()
            self._read_packs(ahead)
            self._walk_trees(snapshots, ahead)
        finally:
            ahead.close()
        self._note_lost()
        totals = self.totals
        totals.chunks = len(self._table)
        totals.unneeded_chunks, totals.unneeded_len = self._table.unneeded()
        totals.duration_s = time.monotonic() - start_s
        return totals

    # --- snapshots ----------------------------------------------------------------

    def _read_snapshots(self) -> list[Snapshot]:
        objects = self._fresh.objects
        objects.refresh()
        harmless = objects.on_disregarded()
        told_below = {gap.text for gap in objects.gaps()}
        for warning in objects.warnings:
            if warning in harmless:
                self._findings.note(Subject.SNAPSHOT, b"", warning)
            elif warning not in told_below:
                self._damage(Subject.SNAPSHOT, b"", warning)
        snapshots = objects.snapshots()
        self.totals.snapshots = len(snapshots)
        self._check_omissions(snapshots)
        self._check_distrusted(snapshots)
        self._check_config()
        return snapshots

    def _check_omissions(self, snapshots: list[Snapshot]) -> None:
        objects, heads = self._fresh.objects, self._archive.heads
        here = {snapshot.snapshot_id for snapshot in snapshots} | objects.disregarded().keys()
        here |= objects.forgotten()
        for accepted in heads.accepted():
            if accepted.snapshot_id not in here:
                self._findings.note(Subject.SNAPSHOT, accepted.snapshot_id, accepted.text)
        here |= heads.accepted_ids()
        for head in heads.all():
            if head.snapshot_id not in here:
                self._damage(
                    Subject.SNAPSHOT,
                    head.snapshot_id,
                    f"snapshot {short_hex(head.snapshot_id)}, number {head.number} of "
                    f"{head.host}/{head.series}, was seen by this machine and cannot be had "
                    "from the store any more: withheld, or the store was put back to an older "
                    "copy; ask the partner",
                )
                here.add(head.snapshot_id)
        for gap in objects.gaps(here):
            self._damage(Subject.SNAPSHOT, gap.snapshot_id, gap.text)

    def _check_distrusted(self, snapshots: list[Snapshot]) -> None:
        """Name the writers that are distrusted: what of theirs is whole is not thereby true."""
        for writer_id, word in self._fresh.objects.distrusted().items():
            count = sum(s.facts.writer_id == writer_id for s in snapshots)
            day = time.strftime("%Y-%m-%d", time.localtime(word.time_ns / 1e9))
            self._findings.note(
                Subject.SNAPSHOT,
                b"",
                f"writer {short_hex(writer_id)} is distrusted since {day}: what its {count} "
                "snapshots hold may be what somebody else wanted them to hold",
            )

    def _check_config(self) -> None:
        copies = self._fresh.state.connection.execute(
            "SELECT object_id, body FROM snapshot_objects WHERE role = ?",
            (int(Role.CONFIG),),
        ).fetchall()
        if not copies:
            self._damage(
                Subject.CONFIG, b"", "config: its sealed copy among the snapshots is missing"
            )
        for object_id, body in copies:
            if decode_config_body(body, "config") != self._archive.config:
                self._damage(
                    Subject.CONFIG,
                    object_id,
                    "config: differs from its sealed copy among the snapshots, which is signed "
                    "with the admin key; do not write to this archive",
                )

    # --- packs ----------------------------------------------------------------------

    def _read_packs(self, ahead: SurveysAhead) -> None:
        doubtful = self._index.suspects.keys() | self._archive.index.lost().keys()
        chosen = self._chosen_packs(doubtful)
        self._progress.start(len(chosen), sum(facts.size for facts in chosen))
        for report in read_packs(self._archive.keys, self._archive.store, chosen):
            ahead.go_on()
            if report.is_suspect:
                self._salvage(report)
            self._judge(report)
            for chunk_id, length in report.lost:
                self._table.spoil(chunk_id, length)
            self.totals.packs_read += 1
            self.totals.read_len += report.read_len
            self._progress.update(
                files=self.totals.packs_read,
                bytes_=self.totals.read_len,
                current=f"pack {short_hex(report.facts.pack_id)}",
            )

    def _chosen_packs(self, doubtful: set[PackId]) -> list[PackFacts]:
        """Return the packs to read: the share asked for, and whatever is in doubt."""
        here = list(self._index.packs.values())
        share = self._request.read_share
        if share >= 1:
            return here
        chosen = set(doubtful)
        if share > 0 and here:
            # Not to be foreseen by the partner.
            sample = random.SystemRandom().sample(here, max(1, round(len(here) * share)))
            chosen |= {facts.pack_id for facts in sample}
        return [facts for facts in here if facts.pack_id in chosen]

    def _salvage(self, report: PackReport) -> None:
        """Find out what of a damaged pack can still be read, as the index describes it."""
        facts = report.facts
        content = self._index.read_object(facts.object_id)
        for pack in content.packs if content is not None else ():
            if pack.pack_id == facts.pack_id:
                saved = salvage_pack(self._archive.keys, self._archive.store, facts, pack)
                report.problems += saved.problems
                report.lost = saved.lost

    def _judge(self, report: PackReport) -> None:
        """Turn what is wrong with a pack into one finding."""
        pack_id = report.facts.pack_id
        suspicion = self._index.suspects.get(pack_id)
        problems = [suspicion] if suspicion else []
        problems += [text for text in dict.fromkeys(report.problems) if text != suspicion]
        if not problems:
            self._found.append(pack_id)
            return
        shown = "; ".join(problems[:PROBLEMS_SHOWN])
        if len(problems) > PROBLEMS_SHOWN:
            shown += f"; and {len(problems) - PROBLEMS_SHOWN} more"
        self._lost[pack_id] = shown
        self._damage(Subject.PACK, pack_id, f"pack {pack_id.hex()}: {shown}")

    # --- trees ------------------------------------------------------------------------

    def _walk_trees(self, snapshots: list[Snapshot], ahead: SurveysAhead) -> None:
        self._progress.start(None, None)
        trees = TreeCheck(self._fresh, ahead, self._table, self._findings, self._progress)
        for snapshot in snapshots:
            if trees.walk(snapshot.facts.root):
                continue
            self.totals.hurt_snapshots += 1
            for hurt in trees.hurt_files(snapshot):
                self._findings.hurt(hurt)
        self.totals.tree_nodes = trees.node_count
        self.totals.files = trees.file_count

    def _note_lost(self) -> None:
        """Have the next snapshot store again what is lost and still at its source."""
        index = self._archive.index
        known = index.lost()
        lost = {**self._index.missing, **self._lost}
        index.mark_all_lost({name: reason for name, reason in lost.items() if name not in known})
        found = [pack_id for pack_id in self._found if pack_id in known]
        for pack_id in found:
            self._findings.note(
                Subject.PACK, pack_id, f"pack {pack_id.hex()}: was lost, and is whole again"
            )
        index.mark_found(found)
