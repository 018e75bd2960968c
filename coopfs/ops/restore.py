"""Restoring: a snapshot, or a part of it, written into a folder.

Owns the run: what is asked for, what is reported, and the order of its parts.  Folders
are walked in the order in which a snapshot stored them; steps are planned ahead of the
writing by a window of blocks, so that memory does not grow with what is restored.
Nothing is ever written outside the target (:mod:`coopfs.ops.restore_target`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import PROBLEMS_MAX, Problem
from coopfs.format.tree import Entry, Kind
from coopfs.ops.attributes import Attributes
from coopfs.ops.feed import BlockFeed
from coopfs.ops.progress import NoProgress, Progress
from coopfs.ops.restore_plan import Op, Overwrite, Plan, Step
from coopfs.ops.restore_target import Target
from coopfs.ops.restore_write import RestoreCounts, RestoreWriter
from coopfs.ops.selection import Event, Selection, Visit, walk
from coopfs.ops.verify import verify_target

STEPS_AHEAD: Final = 2048  # planned and not done, whatever their blocks; folders stay open
ROOT_NAME: Final = b"/"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore, and how."""

    target: bytes  # path of the folder; made if it is not there
    path: bytes = b""  # in the snapshot; empty: all of it
    selection: Selection = field(default_factory=Selection)
    overwrite: Overwrite = Overwrite.IF_CHANGED
    numeric_owner: bool = False
    is_dry_run: bool = False
    is_verifying: bool = False


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a run did, or in a dry run would have done."""

    counts: RestoreCounts
    skipped: int  # entries that were there and were left as they are
    verified: int  # files read, or read again, and compared
    problems: tuple[Problem, ...]  # the first ones; paths below the target
    problem_count: int
    left_out: tuple[tuple[str, int], ...]  # what could not be set and why, and how often
    duration_s: float


class _Problems:
    """Collects what went wrong; passes it on as it happens."""

    def __init__(self, tell: Callable[[Problem], None]) -> None:
        self._tell = tell
        self.first: list[Problem] = []
        self.count = 0

    def add(self, path: bytes, reason: str) -> None:
        problem = Problem(path, reason)
        self.count += 1
        if len(self.first) < PROBLEMS_MAX:
            self.first.append(problem)
        self._tell(problem)


def restore(
    archive: Archive,
    snapshot: Snapshot,
    request: RestoreRequest,
    *,
    progress: Progress | None = None,
    on_problem: Callable[[Problem], None] = lambda problem: None,
    on_path: Callable[[bytes], None] | None = None,
) -> RestoreReport:
    """Write what *request* asks for of *snapshot* into its target.

    A folder's content goes into the target itself; a single file into the target under
    its name.  Problems with single entries are reported and the rest goes on.  *on_path*
    is told every path, below the target, that is written or would be.

    Raises:
        NotFound: the snapshot has no such path.
        CoopfsError: the target cannot be used, or is full.
        StoreUnavailable: the partner cannot be reached; the same request again goes on.
    """
    started_s = time.monotonic()
    top = entry_at(archive, snapshot, request.path)
    progress = progress or NoProgress()
    expected = _expected(snapshot, top, request)
    progress.start(*expected)
    run = _Run(archive, top, request, progress, on_problem, on_path, expected)
    try:
        counts = run.write()
        verified = run.verify() if request.is_verifying and not request.is_dry_run else 0
    finally:
        run.close()
    return RestoreReport(
        counts=counts,
        skipped=run.plan.skipped,
        verified=verified + run.plan.compared,
        problems=tuple(run.problems.first),
        problem_count=run.problems.count,
        left_out=tuple(sorted(run.attributes.left_out.items())),
        duration_s=time.monotonic() - started_s,
    )


def _expected(
    snapshot: Snapshot, top: Entry, request: RestoreRequest
) -> tuple[int | None, int | None]:
    """Return files and bytes to restore, as far as it is known beforehand."""
    counts, totals = snapshot.facts.counts, top.totals
    if not request.selection.is_everything:
        return None, None
    if top.name == ROOT_NAME:
        return counts.files + counts.others, counts.size
    if totals is not None:
        return totals.files, totals.size
    return 1, top.size


class _Run:
    """One restore; *expected* are files and bytes, where known."""

    def __init__(
        self,
        archive: Archive,
        top: Entry,
        request: RestoreRequest,
        progress: Progress,
        on_problem: Callable[[Problem], None],
        on_path: Callable[[bytes], None] | None,
        expected: tuple[int | None, int | None],
    ) -> None:
        self._archive = archive
        self._top = top
        self._request = request
        self._progress = progress
        self._on_path = on_path
        self._expected = expected
        self.problems = _Problems(on_problem)
        self.attributes = Attributes(numeric_owner=request.numeric_owner)
        self._target = Target(request.target, top, is_dry_run=request.is_dry_run)
        expected_len = 0 if request.is_dry_run else expected[1] or 0
        self._feed = BlockFeed(archive, expected_len=expected_len)
        self.plan = Plan(
            archive,
            self._feed,
            self._target,
            request.overwrite,
            is_verifying=request.is_verifying,
            on_problem=self.problems.add,
        )

    def close(self) -> None:
        """Let go of the target."""
        self._target.close()

    def write(self) -> RestoreCounts:
        """Plan and write everything; return what was done."""
        if self._request.is_dry_run:
            return self._pretend()
        with self._feed:
            writer = RestoreWriter(
                self._archive,
                self._feed,
                self._target,
                self.attributes,
                self.problems.add,
                keeps_folders=self._request.overwrite is Overwrite.NEVER,
            )
            try:
                self._write_steps(writer)
                self._finish_target()
            finally:
                writer.close()
        return writer.counts

    def _write_steps(self, writer: RestoreWriter) -> None:
        waiting: deque[Step] = deque()
        for step in self.plan.steps(self._visits(self.problems.add)):
            waiting.append(step)
            while waiting and (self._feed.is_full or len(waiting) > STEPS_AHEAD):
                self._do(writer, waiting.popleft())
        while waiting:
            self._do(writer, waiting.popleft())

    def _do(self, writer: RestoreWriter, step: Step) -> None:
        if not writer.do(step) and step.place >= 0:
            self.plan.abandoned = step.entry
            self.plan.settled[step.place] = 1
        if step.op is not Op.LEAVE:
            counts = writer.counts
            self._progress.update(
                files=counts.files + counts.files_kept + counts.links + counts.others,
                bytes_=writer.done_len,
                current=step.entry.name,
            )
        self._tell(step)

    def _tell(self, step: Step) -> None:
        """Pass on the path of what was written (or would be), once."""
        if self._on_path is None or step.op in (Op.OPEN, Op.PIECE, Op.KEEP):
            return
        if step.op is Op.LEAVE:
            self._on_path(step.folder.path)
        elif not self.plan.settled[step.place]:  # it did not fail
            self._on_path(step.folder.path_of(step.entry.name))

    def _visits(self, on_unreadable: Callable[[bytes, str], None]) -> Iterator[Visit]:
        top, path = self._top, self._request.path.strip(b"/")
        if top.kind is not Kind.FOLDER:
            return iter((Visit(Event.ENTRY, top, True),))
        base = b"/" + path + b"/" if path else b"/"

        def report(folder: bytes, reason: str) -> None:
            on_unreadable(folder.removeprefix(base).rstrip(b"/"), reason)

        return walk(self._archive, top, base, self._request.selection, report)

    def _finish_target(self) -> None:
        """Give the target the attributes of the folder asked for, if a restore has made it."""
        target = self._target
        target.finish()
        if target.is_own and self._top.kind is Kind.FOLDER and self._top.name != ROOT_NAME:
            fd = target.fd_of(target.root)
            try:
                self.attributes.amend(fd, self._top, os.fstat(fd))
            except OSError as exc:
                self.problems.add(b".", exc.strerror or str(exc))

    def _pretend(self) -> RestoreCounts:
        counts = RestoreCounts()
        for step in self.plan.steps(self._visits(self.problems.add)):
            op = step.op
            counts.files += op in (Op.FILE, Op.CLOSE)
            counts.files_kept += op is Op.KEEP
            counts.links += op is Op.LINK
            counts.others += op is Op.OTHER
            counts.folders += op is Op.LEAVE
            if op in (Op.FILE, Op.CLOSE):
                entry = step.entry
                counts.written += entry.size if entry.data_len is None else entry.data_len
            self._tell(step)
        return counts

    def verify(self) -> int:
        """Read everything that was written again; return how many files were compared."""
        self._progress.start(*self._expected)
        # Onto the disk, so that it is not only the page cache that is read again.
        os.sync()
        return verify_target(
            self._archive,
            self._request.target,
            self._top,
            self._visits(lambda path, reason: None),  # reported when it was to be written
            self.plan.settled,
            self._progress,
            self.problems.add,
        )
