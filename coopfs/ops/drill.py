"""Restore drill: random files of random snapshots come back, as they would after a loss.

Owns the drawing and the arithmetic.  Files are restored by :func:`coopfs.ops.restore.restore`
into a scratch folder, read again from there and compared with the ids in the snapshot.  The
archive is opened without its disk cache, and decoded blocks are forgotten between finding
the files and restoring them: what comes back, comes from the store.

How long a full restore would take is worked out from the bytes that came from the store, as
that is what a line or a disk limits; what one such byte stands for is the same for all data.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.select import folder_name
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import DataError, ObjectNotFound, UsageError
from coopfs.format.snapshot import State
from coopfs.format.tree import Entry, Kind
from coopfs.ids import TreeId
from coopfs.ops.compare import OPEN_CONTENT, content_difference
from coopfs.ops.kept import Kept, keep_result, kept_results
from coopfs.ops.pack_sums import pack_sums
from coopfs.ops.progress import Progress
from coopfs.ops.restore import RestoreRequest, restore
from coopfs.ops.wording import duration_text, size_text

FILES: Final = 20
BYTES: Final = 1 << 30
TRIES: Final = 20  # draws for each file that is wanted; symlinks, say, are no files
THREADS_LOCAL: Final = 1
THREADS_REMOTE: Final = 4  # a full restore has as many requests in flight


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """What to restore."""

    scratch: Path  # an empty folder
    files: int = FILES
    max_len: int = BYTES  # bytes; a file that would exceed it is passed over
    host: str | None = None
    series: str | None = None
    seed: int | None = None  # for tests; else nobody can foresee what is drawn


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What a drill has shown; kept."""

    time_ns: int
    files: int  # that came back as they were
    size: int  # bytes of them
    snapshots: int  # in which they were
    bad_files: int  # that did not, or only in part
    too_large: int  # passed over
    fetched_len: int  # bytes that came from the store for them
    duration_s: float  # of the restoring, without finding them and comparing
    newest: str  # id of the newest snapshot, hex
    newest_files: int
    newest_len: int  # bytes of its files
    full_s: float | None  # how long restoring all of it would take; None: it cannot be said

    @property
    def is_passed(self) -> bool:
        """Whether everything that was drawn came back."""
        return self.bad_files == 0


@dataclass(frozen=True, slots=True)
class DrilledFile:
    """One file that was drawn."""

    snapshot: Snapshot
    path: bytes
    size: int  # bytes
    problem: str = ""  # why it did not come back; "": it did


@dataclass(frozen=True, slots=True)
class _Drawn:
    snapshot: Snapshot
    path: bytes
    entry: Entry


def run_drill(
    archive: Archive, request: DrillRequest, progress: Progress
) -> tuple[DrillResult, list[DrilledFile]]:
    """Restore random files of a refreshed archive, which was opened without its disk cache.

    What a drill shows is kept.  The scratch folder is left as empty as it was.

    Raises:
        UsageError: there is no file to restore.
        StoreUnavailable: the store cannot be reached, which shows nothing.
        CoopfsError: the scratch folder cannot be used, or is full.
    """
    snapshots = [
        snapshot
        for snapshot in archive.snapshots()
        if request.host in (None, snapshot.facts.host)
        and request.series in (None, snapshot.facts.series)
    ]
    if not snapshots:
        raise UsageError("there is nothing to restore: no such snapshot in the archive")
    draw = _Draw(archive, snapshots, request)
    drawn = draw.files()
    if not drawn and not draw.bad:
        raise UsageError(
            f"none of the files drawn has {request.max_len:,} bytes or fewer; --bytes lets "
            "larger ones be restored"
            if draw.too_large
            else "there is nothing to restore: the snapshots hold no files"
        )
    archive.blocks.forget_memory()
    before_len = archive.blocks.fetched_len
    progress.start(len(drawn), sum(file.entry.size for file in drawn))
    started_s = time.monotonic()
    restored = _restore_all(archive, drawn, request.scratch, progress)
    duration_s = time.monotonic() - started_s
    fetched_len = archive.blocks.fetched_len - before_len
    files = [*draw.bad, *_compare_all(archive, drawn, restored, request.scratch)]
    good = [file for file in files if not file.problem]
    newest = _newest(snapshots)
    result = DrillResult(
        time_ns=time.time_ns(),
        files=len(good),
        size=sum(file.size for file in good),
        snapshots=len({file.snapshot.snapshot_id for file in files}),
        bad_files=len(files) - len(good),
        too_large=draw.too_large,
        fetched_len=fetched_len,
        duration_s=duration_s,
        newest=newest.snapshot_id.hex(),
        newest_files=newest.facts.counts.files,
        newest_len=newest.facts.counts.size,
        full_s=_full_s(archive, newest, fetched_len, duration_s),
    )
    keep_result(archive.state_folder, Kept.DRILLS, result)
    return result, files


def past_drills(folder: Path) -> list[DrillResult]:
    """Return the kept results of earlier drills, oldest first (CoopfsError)."""
    return kept_results(folder, Kept.DRILLS, DrillResult)


def drills_text(drills: Sequence[DrillResult]) -> str:
    """Say how the last of *drills* (oldest first) went, and those before it; "" if none."""
    if not drills:
        return ""
    *before, last = drills
    day = time.strftime("%Y-%m-%d", time.localtime(last.time_ns / 1e9))
    if not last.is_passed:
        text = f"{day}: FAILED ({last.bad_files:,} of {last.bad_files + last.files:,} files)"
    else:
        text = f"{day}: passed ({last.files:,} files, {size_text(last.size)}"
        text += f"; all in {duration_text(last.full_s)})" if last.full_s is not None else ")"
    if before:
        failed = sum(not drill.is_passed for drill in before)
        text += f"; {len(before):,} before it, " + (
            f"{failed:,} failed" if failed else "all passed"
        )
    return text


# --- drawing ------------------------------------------------------------------------


class _Draw:
    """Files at random: a snapshot first, then one of its files, all alike."""

    def __init__(
        self, archive: Archive, snapshots: Sequence[Snapshot], request: DrillRequest
    ) -> None:
        complete = [s for s in snapshots if s.facts.state is State.COMPLETE]
        self._archive = archive
        self._snapshots = complete or list(snapshots)
        self._request = request
        self._random: random.Random = (
            random.SystemRandom() if request.seed is None else random.Random(request.seed)  # noqa: S311  # asked for: to be repeated
        )
        self._names: dict[TreeId, list[Entry]] = {}
        self.too_large = 0
        self.bad: list[DrilledFile] = []  # a folder on the way could not be read

    def files(self) -> list[_Drawn]:
        """Draw as many as were asked for, or as can be found."""
        found: dict[tuple[bytes, bytes], _Drawn] = {}
        passed: set[tuple[bytes, bytes]] = set()
        left = self._request.max_len
        for _ in range(self._request.files * TRIES):
            if len(found) + len(self.bad) >= self._request.files:
                break
            drawn = self._one(self._random.choice(self._snapshots))
            if drawn is None or drawn.entry.kind is not Kind.FILE:
                continue
            key = bytes(drawn.snapshot.snapshot_id), drawn.path
            if key in found or key in passed:
                continue
            if drawn.entry.size > left:
                passed.add(key)
                continue
            found[key] = drawn
            left -= drawn.entry.size
        self.too_large = len(passed)
        return list(found.values())

    def _one(self, snapshot: Snapshot) -> _Drawn | None:
        """Go down from the root to one entry that is no folder; None: there is none."""
        tree_id, path = snapshot.facts.root, b""
        while True:
            try:
                entries = self._entries(tree_id)
            except (DataError, ObjectNotFound) as exc:
                self.bad.append(DrilledFile(snapshot, path or b"/", 0, f"the folder's list: {exc}"))
                return None
            weights = [_files_in(entry) for entry in entries]
            if not any(weights):
                return None
            (entry,) = self._random.choices(entries, weights)
            path += b"/" + entry.name
            if entry.tree is None:
                return _Drawn(snapshot, path, entry)
            tree_id = entry.tree

    def _entries(self, tree_id: TreeId) -> list[Entry]:
        if tree_id not in self._names:
            if len(self._names) > 1000:  # folders; a drill looks at a few
                self._names.clear()
            self._names[tree_id] = list(self._archive.iter_entries(tree_id))
        return self._names[tree_id]


def _files_in(entry: Entry) -> int:
    if entry.unsupported:
        return 0
    if entry.tree is None:
        return 1
    return entry.totals.files if entry.totals is not None else 1


# --- restoring and comparing ----------------------------------------------------------


def _restore_all(
    archive: Archive, drawn: Sequence[_Drawn], scratch: Path, progress: Progress
) -> list[str]:
    """Restore each into a folder of its own; return what was reported of each."""
    done = size = 0
    problems = []

    def one(number: int) -> str:
        file = drawn[number]
        request = RestoreRequest(os.fsencode(scratch / str(number)), path=file.path)
        report = restore(archive, file.snapshot, request)
        return report.problems[0].reason if report.problems else ""

    threads = THREADS_LOCAL if archive.store.is_local else THREADS_REMOTE
    with ThreadPoolExecutor(threads, "coopfs-drill") as pool:
        try:
            for file, problem in zip(drawn, pool.map(one, range(len(drawn))), strict=True):
                problems.append(problem)
                done, size = done + 1, size + file.entry.size
                progress.update(files=done, bytes_=size, current=file.path)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return problems


def _compare_all(
    archive: Archive, drawn: Sequence[_Drawn], restored: Sequence[str], scratch: Path
) -> list[DrilledFile]:
    os.sync()  # then read from the disk, not from memory
    files = []
    for number, (file, problem) in enumerate(zip(drawn, restored, strict=True)):
        folder = scratch / str(number)
        problem = problem or _difference(archive, file, folder)
        shutil.rmtree(folder, ignore_errors=True)
        files.append(DrilledFile(file.snapshot, file.path, file.entry.size, problem))
    return files


def _difference(archive: Archive, file: _Drawn, folder: Path) -> str:
    try:
        fd = os.open(os.fsencode(folder) + b"/" + file.entry.name, OPEN_CONTENT)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return content_difference(archive, file.entry, fd) or ""
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
    except (DataError, ObjectNotFound) as exc:
        return str(exc)


# --- all of it ------------------------------------------------------------------------


def _newest(snapshots: Sequence[Snapshot]) -> Snapshot:
    complete = [s for s in snapshots if s.facts.state is State.COMPLETE]
    return (complete or list(snapshots))[-1]


def _full_s(
    archive: Archive, newest: Snapshot, fetched_len: int, duration_s: float
) -> float | None:
    """Return how long restoring *newest* would take at the rate at which the store gave."""
    if not fetched_len:
        return None  # files so small that they lie in the trees
    data, _ = pack_sums(archive)
    if not data.plain_len:
        return None
    wanted = newest.facts.counts.size * (data.sealed_len / data.plain_len)
    return wanted / (fetched_len / duration_s)


def place_of(file: DrilledFile) -> str:
    """Return how a file is named: as it is given to ``coopfs restore``."""
    facts = file.snapshot.facts
    path = file.path.decode("utf-8", "replace")
    return f"{facts.host}/{facts.series}/{folder_name(facts)}:{path}"
