"""Snapshots of one archive in another: opened, sealed anew under the other's keys.

Owns what a copy is: the same entries, spans and facts; ids, trees and seals are the other
archive's.  Chunks keep their bounds, so that a later copy finds them again whatever has
become of the first; the other archive would cut files beyond the chunker's minimum elsewhere.
Which chunk became which is kept in the other archive's state folder: a chunk that was copied
before is neither sent nor read again.  What is kept there is a hint: it counts only as long
as the chunk is in the other archive.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from coopfs import __version__
from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import ChunkLocation
from coopfs.archive.lock import series_lock
from coopfs.archive.select import folder_name
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, FormatUnsupported, ObjectNotFound, WrongKey
from coopfs.format.keys import SigningKey
from coopfs.format.nodes import SpanTreeBuilder, TreeBuilder
from coopfs.format.snapshot import Origin, OriginKind, SnapshotFacts, State
from coopfs.format.tree import Entry, Span
from coopfs.ids import ArchiveId, ChunkId, SnapshotId, TreeId, short_hex
from coopfs.ops.amend import Change, amend_snapshots
from coopfs.ops.copied_chunks import CopiedChunks
from coopfs.ops.feed import BlockFeed, checked_chunk
from coopfs.ops.progress import Progress
from coopfs.ops.secure import put_snapshot, secure_tree

AHEAD: Final = 4096  # chunks announced and not yet taken
FLUSH_LEN: Final = 256 << 20  # bytes stored between index objects: so much is never sent twice
FLUSH_CHUNKS: Final = 200_000  # ids kept in memory until then

SourceKey = tuple[ArchiveId, SnapshotId]


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is to be copied, in that order, and what is there already."""

    wanted: tuple[Snapshot, ...]
    there: int
    partial: int  # left out: snapshots of runs that were still going on
    distrusted: int = 0  # left out: their writer is distrusted, and a copy would be vouched for


@dataclass(slots=True)
class CopyReport:
    """What was done."""

    copied: list[tuple[Snapshot, Snapshot]] = field(default_factory=list)  # theirs, the copy
    problems: list[str] = field(default_factory=list)  # snapshots that were not copied
    read_len: int = 0  # bytes of chunks read from the source
    new_len: int = 0  # bytes of chunks that the target did not have
    stored_len: int = 0  # bytes put into the target's store
    duration_s: float = 0.0


def first_taken(archive: Archive, snapshot: Snapshot) -> Origin:
    """Return where *snapshot* was first taken: here, or where it was copied from."""
    origin = snapshot.facts.origin
    if origin is not None and origin.archive_id is not None and origin.snapshot_id is not None:
        return origin
    return Origin(
        OriginKind.COPIED, archive.config.archive_id, snapshot.snapshot_id, snapshot.facts.number
    )


def plan_copy(
    source: Archive, target: Archive, chosen: Sequence[Snapshot], *, is_named: bool
) -> CopyPlan:
    """Return which of *chosen* the target lacks, each series in the order of its numbers.

    Partial ones, and those of a distrusted writer, are copied only when they were named.
    """
    there: set[SourceKey] = {
        (target.config.archive_id, snapshot.snapshot_id) for snapshot in target.snapshots()
    }
    for snapshot in target.snapshots():
        origin = snapshot.facts.origin
        if origin is not None and origin.archive_id is not None and origin.snapshot_id is not None:
            there.add((origin.archive_id, origin.snapshot_id))
    wanted = []
    count = partial = distrusted = 0
    for snapshot in sorted(chosen, key=lambda s: (s.facts.number, s.facts.time_ns)):
        origin = first_taken(source, snapshot)
        if (origin.archive_id, origin.snapshot_id) in there:
            count += 1
        elif snapshot.is_distrusted and not is_named:
            distrusted += 1
        elif snapshot.facts.state is State.PARTIAL and not is_named:
            partial += 1
        else:
            wanted.append(snapshot)
    return CopyPlan(tuple(wanted), count, partial, distrusted)


def copy_snapshots(
    source: Archive,
    target: Archive,
    wanted: Sequence[Snapshot],
    admin: SigningKey | None,
    progress: Progress,
) -> CopyReport:
    """Copy *wanted* into *target*; both were refreshed.

    *admin* is the target's admin key, where it is at hand: it vouches for snapshots of other
    hosts, which nobody else may.  A snapshot of which something cannot be read is reported
    and left out.  What is durable when it ends, however it ends, is not sent again.

    Raises:
        WrongKey: this host may not write to the target, or not snapshots of other hosts.
        StoreError: a store failed; the same command goes on.
    """
    started_s = time.monotonic()
    signer = target.ring.writer()
    if signer is None or signer.writer_id not in target.objects.writers():
        raise WrongKey(
            f"archive {target.settings.name!r}: this host is not enrolled as a writer; "
            'see "coopfs writer --help"'
        )
    _refuse_other_hosts(target, wanted, admin)
    target.heed_keeper()
    target.index.reload_if_changed()
    report = CopyReport()
    is_first = bool(wanted) and not target.snapshots()
    total = sum(s.facts.counts.files + s.facts.counts.others for s in wanted)
    progress.start(total, sum(s.facts.counts.size for s in wanted))
    with (
        CopiedChunks(target.state_folder, source.config.archive_id) as chunks,
        ArchiveWriter(target, signer, expects_much=is_first) as writer,
    ):
        run = _Run(source, target, writer, chunks, admin or signer, report, progress)
        for snapshot in wanted:
            run.copy(snapshot)
        report.new_len, report.stored_len = writer.new_len, writer.stored_len
    report.duration_s = time.monotonic() - started_s
    return report


def _refuse_other_hosts(
    target: Archive, wanted: Iterable[Snapshot], admin: SigningKey | None
) -> None:
    if admin is not None:
        return
    others = {s.facts.host for s in wanted} - {target.settings.host}
    if others:
        raise WrongKey(
            f"snapshots of {', '.join(sorted(others))}: to put those of another host than "
            f"{target.settings.host} into archive {target.settings.name!r} is for its admin key, "
            "which is not on this machine; give its sheet with --recovery-kit, or name --host "
            f"{target.settings.host}"
        )


class _Run:
    """Copies one snapshot after the other."""

    def __init__(
        self,
        source: Archive,
        target: Archive,
        writer: ArchiveWriter,
        chunks: CopiedChunks,
        signer: SigningKey,
        report: CopyReport,
        progress: Progress,
    ) -> None:
        self._source, self._target = source, target
        self._writer, self._chunks, self._signer = writer, chunks, signer
        self._report, self._progress = report, progress
        # From before the target's index was first relied on: see secure_tree().
        self._generation, self._begun_s = target.index.loaded_generation, target.index_read_s
        self._trees: dict[TreeId, TreeId] = {}  # copied in this run
        self._files = self._size = 0  # of the snapshots so far, for the progress

    def copy(self, snapshot: Snapshot) -> None:
        """Copy one snapshot, or report why not."""
        facts = snapshot.facts
        name = f"{facts.host}/{facts.series}/{folder_name(facts)}"
        try:
            self._copy_chunks(facts.root)
            root = self._copy_tree(facts.root)
        except (DataError, ObjectNotFound) as exc:
            self._report.problems.append(
                f"snapshot {short_hex(snapshot.snapshot_id)} ({name}): was not copied: {exc}"
            )
            return
        with series_lock(self._target.state_folder, f"{facts.host}/{facts.series}"):
            copy = self._commit(snapshot, root)
        self._report.copied.append((snapshot, copy))
        self._files += facts.counts.files + facts.counts.others
        self._size += facts.counts.size
        self._progress.update(files=self._files, bytes_=self._size, current=name)

    # --- content ------------------------------------------------------------------

    def _copy_chunks(self, root: TreeId) -> None:
        """Store every chunk of file content that the target lacks."""
        waiting: deque[tuple[Span, ChunkLocation | None]] = deque()
        with BlockFeed(self._source) as feed:

            def take() -> None:
                span, location = waiting.popleft()
                if span.chunk_id is None:
                    return
                chunk = feed.take(span.chunk_id, location)
                content = bytes(checked_chunk(chunk, span.length, span.chunk_id))
                self._chunks.put(span.chunk_id, self._writer.save_chunk(content))
                self._report.read_len += span.length
                self._flush_if_due()

            announced: set[bytes] = set()
            for span in self._lacking(root):
                if span.chunk_id is None or span.chunk_id in announced:
                    continue
                announced.add(span.chunk_id)
                waiting.append((span, feed.announce(span.chunk_id)))
                while waiting and (feed.is_full or len(waiting) > AHEAD):
                    announced.discard(bytes(waiting[0][0].chunk_id or b""))
                    take()
            while waiting:
                take()

    def _lacking(self, root: TreeId) -> Iterator[Span]:
        """Yield the spans below *root* whose chunks the target does not have."""
        pending = [root]
        seen: set[TreeId] = set()
        files, size = self._files, self._size
        while pending:
            tree_id = pending.pop()
            if tree_id in seen or tree_id in self._trees:
                continue
            seen.add(tree_id)
            for entry in self._source.iter_entries(tree_id):
                self._refuse_unsupported(entry)
                if entry.tree is not None:
                    pending.append(entry.tree)
                    continue
                for span in self._source.iter_spans(entry):
                    if span.chunk_id is not None and self._known(span.chunk_id) is None:
                        yield span
                files, size = files + 1, size + entry.size
                self._progress.update(files=files, bytes_=size, current=entry.name)

    def _refuse_unsupported(self, entry: Entry) -> None:
        if entry.unsupported:
            raise FormatUnsupported(
                f"{entry.name.decode('utf-8', 'replace')}: {entry.unsupported}; update coopfs to "
                "copy it"
            )

    def _known(self, chunk_id: ChunkId) -> ChunkId | None:
        """Return what a chunk is called in the target, if it is there or on its way."""
        copied = self._chunks.get(chunk_id)
        return copied if copied is not None and self._writer.has(copied) else None

    def _flush_if_due(self) -> None:
        writer = self._writer
        if writer.unflushed_len >= FLUSH_LEN or writer.pending_count >= FLUSH_CHUNKS:
            writer.flush()
            self._chunks.flush()

    # --- trees --------------------------------------------------------------------

    def _copy_tree(self, root: TreeId) -> TreeId:
        """Build the folder *root* and all below it in the target, without recursion."""
        levels = [_Level(self, root, None)]
        while True:
            level = levels[-1]
            for entry in level.entries:
                if entry.tree is None:
                    level.builder.add(self._with_own_spans(entry))
                elif entry.tree in self._trees:
                    level.builder.add(entry._replace(tree=self._trees[entry.tree]))
                else:
                    levels.append(_Level(self, entry.tree, entry))
                    break
            else:
                copied = level.builder.finish()
                self._trees[level.tree_id] = copied
                levels.pop()
                if not levels or level.entry is None:
                    return copied
                levels[-1].builder.add(level.entry._replace(tree=copied))

    def entries(self, tree_id: TreeId) -> Iterator[Entry]:
        """Yield a folder's entries in the source."""
        return self._source.iter_entries(tree_id)

    def builder(self) -> TreeBuilder:
        """Return what builds a folder in the target."""
        return TreeBuilder(self._target.keys.tree_id_key, self._writer.save_tree_node)

    def _with_own_spans(self, entry: Entry) -> Entry:
        if entry.spans is not None:
            return entry._replace(spans=tuple(map(self._own_span, entry.spans)))
        if entry.span_root is None:
            return entry
        builder = SpanTreeBuilder(self._writer.save_span_node)
        for span in self._source.iter_spans(entry):
            builder.add(self._own_span(span))
        return entry._replace(span_root=builder.finish())

    def _own_span(self, span: Span) -> Span:
        if span.chunk_id is None:
            return span
        copied = self._known(span.chunk_id)
        if copied is None:
            raise DataError(
                f"chunk {short_hex(span.chunk_id)}: left the target while it was copied; run it "
                "again"
            )
        return Span(span.length, copied)

    # --- the snapshot ---------------------------------------------------------------

    def _commit(self, snapshot: Snapshot, root: TreeId) -> Snapshot:
        """Put the snapshot object: from then on the copy exists."""
        target, writer = self._target, self._writer
        writer.flush()
        self._chunks.flush()
        target.heads.reload()
        copy = put_snapshot(
            target,
            self._signer,
            lambda: secure_tree(target, writer, root, self._generation, self._begun_s),
            lambda: self._facts(snapshot, root),
        )
        if snapshot.is_held:
            admin = self._signer if copy.is_vouched else None
            amend_snapshots(target, [copy], Change(is_held=True), admin)
        return copy

    def _facts(self, snapshot: Snapshot, root: TreeId) -> SnapshotFacts:
        facts = snapshot.facts
        head = self._target.heads.get(facts.host, facts.series)
        return replace(
            facts,
            number=head.number + 1 if head else 1,
            previous=(head.snapshot_id,) if head else (),
            root=root,
            tags=snapshot.tags,  # as they are now
            description=snapshot.description,
            origin=first_taken(self._source, snapshot),
            version=__version__,
            writer_id=self._signer.writer_id,
        )


class _Level:
    """A folder that is being copied."""

    __slots__ = ("builder", "entries", "entry", "tree_id")

    def __init__(self, run: _Run, tree_id: TreeId, entry: Entry | None) -> None:
        self.tree_id = tree_id
        self.entry = entry  # of the folder in the one above; None at the root
        self.entries = run.entries(tree_id)
        self.builder = run.builder()
