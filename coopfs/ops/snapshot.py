"""Taking a snapshot: sources in, one new snapshot object out.

Owns the run: parent, checkpoints, what happens on interruption, and the commit
order (packs, index object, snapshot object, local state).  The walk itself is
:mod:`coopfs.ops.walk`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from coopfs import __version__
from coopfs.archive.archive import Archive
from coopfs.archive.dry_writer import DryRunWriter
from coopfs.archive.lock import series_lock
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import (
    CoopfsError,
    Interrupted,
    ObjectCorrupt,
    StoreError,
    UsageError,
    WrongKey,
)
from coopfs.format.chunker import Chunker
from coopfs.format.keys import SigningKey
from coopfs.format.snapshot import (
    ClockFacts,
    SnapshotFacts,
    State,
    check_label,
    encode_snapshot,
)
from coopfs.ids import ID_LEN, SnapshotId, TreeId
from coopfs.ops.amend import Change
from coopfs.ops.clock import LATE_S, ClockProbe, with_second_opinion
from coopfs.ops.content import ContentReader
from coopfs.ops.folder import WalkRules
from coopfs.ops.progress import Progress
from coopfs.ops.salvage import Salvage
from coopfs.ops.secure import check_trusted, put_snapshot, secure_tree
from coopfs.ops.source_paths import SourceStorer
from coopfs.ops.suspicion import doubts_told_before, snapshot_doubts
from coopfs.ops.tally import Tally
from coopfs.ops.walk import FormerTreeDamaged, Walker
from coopfs.ops.witness import Witnesses

CHECKPOINT_LEN: Final = 256 << 20  # bytes stored; at most this much is read again after kill -9
CHECKPOINT_CHUNKS: Final = 200_000  # ids kept in memory until the next index object: 30 MB
UNSENT_LEN: Final = 48 << 20  # bytes of nodes likewise; half a million entries
ROWS_MAX: Final = 50_000  # witnesses of folders likewise, 1 KB each


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """What to take, and how."""

    paths: tuple[bytes, ...]  # absolute; none with stdin_name
    rules: WalkRules
    series: str
    stdin_name: str | None = None
    excludes: tuple[str, ...] = ()  # the patterns, for the record
    tags: tuple[str, ...] = ()
    description: str = ""
    is_dry_run: bool = False
    partial_interval_s: int = 0  # 0: no partial snapshots
    compression: str | None = None  # None: as the settings say


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What a run did."""

    snapshot: Snapshot | None  # None in a dry run
    facts: SnapshotFacts
    parent: SnapshotId | None
    duration_s: float
    clock_doubts: tuple[str, ...]  # why the date may be wrong, in words
    doubts_told_before: tuple[str, ...]  # those of them that are no news


def take_snapshot(
    archive: Archive,
    request: SnapshotRequest,
    progress: Progress,
    is_stopped: Callable[[], bool] = lambda: False,
) -> SnapshotReport:
    """Take one snapshot; *is_stopped* is asked often and ends the run in good order.

    Raises:
        SourceMissing: no source exists (UsageError).
        Interrupted: *is_stopped* said so; what was done is kept for the next run.
        StoreError: the store failed; likewise.
        StateBusy: this series is being taken already on this host.
        WrongKey: this host has no writer key of the archive, or it is distrusted.
    """
    signer = archive.ring.writer()
    host = archive.settings.host
    check_label(request.series, "series")
    if signer is None or signer.writer_id not in archive.objects.writers():
        raise WrongKey(
            f"archive {archive.settings.name!r}: this host is not enrolled as a writer; "
            'see "coopfs writer --help"'
        )
    check_trusted(archive)
    with series_lock(archive.state_folder, f"{host}/{request.series}"):
        make_writer = DryRunWriter if request.is_dry_run else ArchiveWriter
        is_first = archive.heads.get(host, request.series) is None and bool(request.paths)
        # Read under the lock: another run of the series may have ended since the refresh.
        archive.heads.reload()
        if not request.is_dry_run:
            archive.heed_keeper()
        archive.index.reload_if_changed()
        with make_writer(
            archive, signer, compression=request.compression, expects_much=is_first
        ) as writer:
            run = _Run(archive, writer, signer, request, progress, is_stopped)
            try:
                return run.take()
            except FormerTreeDamaged:
                if request.stdin_name is not None:
                    raise
            # The damage is noted in the index; now everything is checked before it is believed.
            run = _Run(archive, writer, signer, request, progress, is_stopped, is_wary=True)
            return run.take()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        archive: Archive,
        writer: ArchiveWriter,
        signer: SigningKey,
        request: SnapshotRequest,
        progress: Progress,
        is_stopped: Callable[[], bool],
        *,
        is_wary: bool = False,
    ) -> None:
        self._archive = archive
        self._writer = writer
        self._signer = signer
        self._request = request
        self._progress = progress
        self._is_stopped = is_stopped
        self._start_ns = time.time_ns()
        self._start = time.monotonic()
        self._last_partial = self._start
        self._begun_s = archive.index_read_s
        # What look-ups here go by: another process may have marked packs since it was read.
        self._generation = archive.index.loaded_generation
        self._witnesses = Witnesses(archive.state, f"{archive.settings.host}/{request.series}")
        chunker = Chunker(archive.config.chunker, archive.keys.chunker_seed())
        self._reader = ContentReader(writer, chunker, self._on_read)
        self._walker = Walker(
            archive,
            writer,
            self._reader,
            self._witnesses,
            request.rules,
            progress,
            is_wary=is_wary,
        )
        self._walker.between_files = self._between_files
        self._sources = SourceStorer(
            self._walker, self._witnesses, archive, self._writer, request.rules
        )
        self._clock = ClockProbe(archive.settings.ntp_servers)
        self._in_file = 0  # bytes read of the file being read
        self._is_checkpointing = False
        self._head = self._newest()

    def take(self) -> SnapshotReport:
        """Walk, store, commit; on failure keep what the next run can use."""
        self._check_request()
        parent = self._head
        expected = parent.facts.counts if parent else None
        self._progress.start(
            expected.files + expected.others if expected else None,
            expected.size if expected else None,
        )
        try:
            sources = self._sources
            if self._request.stdin_name is not None:
                sources.store_stream(self._reader, self._request.stdin_name)
            else:
                for source in sources.find(self._request.paths):
                    self._between_files()
                    sources.store(source)
            root = sources.build_root(sources.entries())
            facts, snapshot = self._commit(root, State.COMPLETE)
        except Interrupted:
            # The store works: what was done counts, and is not read again.
            try:
                self._checkpoint()
            except StoreError:
                self._salvage()
            except CoopfsError:
                pass  # it is read again, but not sent again
            raise
        except StoreError:
            self._salvage()
            raise
        return SnapshotReport(
            snapshot,
            facts,
            parent.snapshot_id if parent else None,
            time.monotonic() - self._start,
            tuple(snapshot_doubts(facts, parent, self._archive.store.clock_ahead_s())),
            tuple(doubts_told_before(facts, parent)),
        )

    def _check_request(self) -> None:
        """Refuse what could not be written into the snapshot object, before all the work."""
        try:
            encode_snapshot(self._facts(TreeId(bytes(ID_LEN)), State.COMPLETE))
        except ObjectCorrupt as exc:
            request = self._request
            raise UsageError(
                f"too much for one snapshot: {len(request.paths)} paths, {len(request.excludes)} "
                f"excludes, {len(request.tags)} tags, a description of "
                f"{len(request.description)} characters ({exc}); name folders instead of files, "
                "or exclude by fewer patterns"
            ) from exc
        Change(add_tags=self._request.tags).check()

    # --- while it runs --------------------------------------------------------

    def _on_read(self, length: int) -> None:
        """Called for every piece of a large file."""
        self._in_file += length
        tally = self._walker.tally
        self._progress.update(files=tally.files + tally.others, bytes_=tally.size + self._in_file)
        if self._is_stopped():
            raise Interrupted("interrupted; what was done is kept, the next run continues")
        if self._is_checkpoint_due():
            # Within one large file or stream: its chunks count, or memory would grow with it.
            self._flush()

    def _between_files(self) -> None:
        self._in_file = 0
        if self._is_stopped():
            raise Interrupted("interrupted; what was done is kept, the next run continues")
        if self._is_checkpoint_due():
            self._checkpoint()
        elif self._writer.unsent_len >= UNSENT_LEN or len(self._walker.rows) >= ROWS_MAX:
            self._flush()  # a row of an open folder could be as large as all that is let go
        interval = self._request.partial_interval_s
        if interval and time.monotonic() - self._last_partial >= interval:
            self._last_partial = time.monotonic()
            self._commit_partial()

    def _is_checkpoint_due(self) -> bool:
        writer = self._writer
        return writer.unflushed_len >= CHECKPOINT_LEN or writer.pending_count >= CHECKPOINT_CHUNKS

    def _checkpoint(self) -> None:
        """Make everything stored so far findable by the next run; the walk goes on."""
        self._walker.note_open_folders()
        self._flush()

    def _flush(self) -> None:
        """Make all chunks durable, and with them the rows noted so far true."""
        self._writer.flush()
        walker = self._walker
        if not self._request.is_dry_run:
            self._witnesses.put(walker.rows, walker.gone)
        walker.rows.clear()
        walker.gone.clear()

    def _commit_partial(self) -> None:
        if self._request.is_dry_run:
            return
        self._checkpoint()
        entries = self._sources.entries()
        opened = self._walker.store_open_folders()
        if opened:
            entry, tree, totals = opened[0]
            open_path = self._walker.open_source or b"/"
            entries.append(entry._replace(name=open_path, tree=tree, totals=totals))
        if entries:
            root = self._sources.build_root(entries)
            self._commit(root, State.PARTIAL)

    def _salvage(self) -> None:
        """The store failed: keep locally what was stored of files that are whole there."""
        if self._request.is_dry_run:
            return
        writer = self._writer
        writer.salvage()
        with suppress(CoopfsError):
            self._walker.note_open_folders()
        with suppress(CoopfsError):
            rows = list(Salvage(self._archive, writer).durable_rows(self._walker.rows))
            # Nodes before rows: a row never names a tree that is nowhere.
            writer.keep_unsent()
            self._witnesses.put(rows)

    # --- commit ---------------------------------------------------------------

    def _newest(self) -> Snapshot | None:
        host, series = self._archive.settings.host, self._request.series
        own = [
            s
            for s in self._archive.snapshots()
            if s.facts.host == host and s.facts.series == series
        ]
        return max(own, key=lambda s: s.facts.number, default=None)

    def _facts(self, root: TreeId, state: State) -> SnapshotFacts:
        head = self._archive.heads.get(self._archive.settings.host, self._request.series)
        tally: Tally = self._walker.tally
        local = time.localtime(self._start_ns // 1_000_000_000)
        request = self._request
        return SnapshotFacts(
            host=self._archive.settings.host,
            series=request.series,
            number=head.number + 1 if head else 1,
            previous=(head.snapshot_id,) if head else (),
            time_ns=self._start_ns,
            zone_offset_s=local.tm_gmtoff,
            zone_name=local.tm_zone,
            clock=self._clock_facts(),
            root=root,
            sources=request.paths,
            excludes=request.excludes,
            tags=request.tags,
            description=request.description,
            counts=tally.counts(self._writer.new_len, self._writer.stored_len),
            problems=tuple(tally.problems),
            problem_count=tally.problem_count,
            state=state,
            origin=None,
            version=__version__,
            writer_id=self._signer.writer_id,
            end_ns=time.time_ns(),
        )

    def _clock_facts(self) -> ClockFacts:
        store = self._archive.store
        return with_second_opinion(self._clock.facts(), store.address, store.clock_ahead_s())

    def _secure(self, root: TreeId) -> float:
        return secure_tree(self._archive, self._writer, root, self._generation, self._begun_s)

    def _commit(self, root: TreeId, state: State) -> tuple[SnapshotFacts, Snapshot | None]:
        """Store what is left to store, then the snapshot object."""
        if state is State.COMPLETE:
            self._clock.facts(LATE_S)  # a short run may be over before the answers are here
        if self._request.is_dry_run:
            return self._facts(root, state), None
        self._flush()
        snapshot = put_snapshot(
            self._archive,
            self._signer,
            lambda: self._secure(root),
            lambda: self._facts(root, state),
        )
        if state is State.COMPLETE:
            # All that was walked was looked at; what was not may rely on packs that are gone.
            since_ns = self._start_ns if self._walker.must_look else None
            self._witnesses.confirm(self._generation, since_ns=since_ns)
        return snapshot.facts, snapshot
