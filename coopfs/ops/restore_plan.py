"""What a restore does with each entry: decided ahead of the writing, content announced.

Owns the decision what happens to files that are there already, which entry of a group
of hard links brings the content, and the order of steps: that of the walk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, StrEnum
from typing import Final, NamedTuple

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import ChunkLocation
from coopfs.errors import CoopfsError, DataError, ObjectNotFound
from coopfs.format.tree import Entry, Kind, Span
from coopfs.ops.compare import OPEN_CONTENT, content_difference
from coopfs.ops.feed import BlockFeed
from coopfs.ops.restore_target import Folder, InTheWay, Target
from coopfs.ops.selection import Event, Visit

FILE_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
_DEVICES: Final = (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE)


class Overwrite(StrEnum):
    """What happens to a file that is in the target already."""

    ALWAYS = "always"
    IF_CHANGED = "if-changed"  # unless size and modification time (and content) agree
    IF_NEWER = "if-newer"  # if the snapshot's is newer
    NEVER = "never"


class Decision(Enum):
    """What becomes of a name in the target."""

    NEW = 0  # nothing is there
    REPLACE = 1
    KEEP = 2  # right already
    LEAVE_ALONE = 3  # the user wants it left as it is


class Op(Enum):
    """What a step does."""

    FILE = 0  # a whole file of at most one chunk
    OPEN = 1  # the start of a longer one
    PIECE = 2
    CLOSE = 3
    LINK = 4  # a further name of a file that came before
    OTHER = 5  # a symlink, FIFO, socket or device
    KEEP = 6  # right already: see to its attributes only
    LEAVE = 7  # a folder whose content is done


class Step(NamedTuple):
    """One thing to do; steps of a file follow one another."""

    op: Op
    folder: Folder
    entry: Entry
    place: int = -1  # of the entry in the walk, where folders do not count
    is_there: bool = False  # something of that name is, and is to be replaced
    span: Span | None = None  # of FILE and PIECE; None: inline or empty
    location: ChunkLocation | None = None  # where the span's chunk was announced
    failure: str = ""  # of CLOSE: why the list of spans could not be read


class Plan:
    """Turns visits into steps; makes folders on the way, nothing else."""

    def __init__(
        self,
        archive: Archive,
        feed: BlockFeed,
        target: Target,
        overwrite: Overwrite,
        *,
        is_verifying: bool,
        on_problem: Callable[[bytes, str], None],
    ) -> None:
        """*on_problem* is told (path below the target, reason)."""
        self._archive = archive
        self._feed = feed
        self._target = target
        self._overwrite = overwrite
        self._is_verifying = is_verifying
        self._on_problem = on_problem
        self._groups: set[bytes] = set()  # hard links: whose content is on its way
        self.abandoned: Entry | None = None  # a file that failed: no more pieces of it
        self.compared = 0  # files that were there and whose content was found right
        self.skipped = 0  # entries left as they are because of *overwrite*
        self.settled = bytearray()  # by place in the walk: 1 where nothing will be written

    def steps(self, visits: Iterator[Visit]) -> Iterator[Step]:
        """Yield the steps in order.

        Raises:
            StoreUnavailable: the partner cannot be reached.
        """
        folder = self._target.root
        for event, entry, is_taken in visits:
            if event is Event.ENTRY:
                self.settled.append(0)
                if not folder.is_made and not self._make(folder):
                    self.settled[-1] = 1
                else:
                    yield from self._entry_steps(folder, entry)
            elif event is Event.ENTER:
                folder = Folder(folder, entry)
                if is_taken:
                    self._make(folder)
            else:
                if folder.is_made:
                    yield Step(Op.LEAVE, folder, entry)
                if folder.parent is None:
                    raise AssertionError("a folder is left once")
                folder = folder.parent

    def _make(self, folder: Folder) -> bool:
        """Make *folder* if it can be; its failure is reported once, for all that is below."""
        above: Folder | None = folder
        while above is not None:
            if above.problem is not None:
                return False
            above = above.parent
        try:
            may_replace = self._overwrite in (Overwrite.ALWAYS, Overwrite.IF_CHANGED)
            self._target.make(folder, may_replace=may_replace)
        except (OSError, InTheWay) as exc:
            stop_if_full(exc, self._target.path)
            reason = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
            failed: Folder | None = folder
            while failed is not None and failed.problem is None:
                failed = failed.parent
            self._on_problem((failed or folder).path, f"{reason}; nothing below it was restored")
            return False
        return True

    def _entry_steps(self, folder: Folder, entry: Entry) -> Iterable[Step]:
        if entry.unsupported:
            self.settled[-1] = 1
            self._on_problem(folder.path_of(entry.name), entry.unsupported)
            return ()
        decision = Decision.NEW if folder.is_new else self._decide(folder, entry)
        if decision is Decision.LEAVE_ALONE:
            self.skipped += 1
            self.settled[-1] = 1
            return ()
        is_there = decision is not Decision.NEW
        if decision is Decision.KEEP:
            self.settled[-1] = self._is_verifying  # compared just now
        place = len(self.settled) - 1
        if entry.hard_link_id is not None:
            if entry.hard_link_id in self._groups:
                return (Step(Op.LINK, folder, entry, place, is_there),)
            self._groups.add(entry.hard_link_id)
        if decision is Decision.KEEP:
            return (Step(Op.KEEP, folder, entry, place),)
        if entry.kind is not Kind.FILE:
            return (Step(Op.OTHER, folder, entry, place, is_there),)
        if entry.inline is not None:
            return (Step(Op.FILE, folder, entry, place, is_there),)
        spans = entry.spans
        if spans is not None and len(spans) == 1 and spans[0].chunk_id is not None:
            location = self._announce(spans[0])
            return (Step(Op.FILE, folder, entry, place, is_there, spans[0], location),)
        return self._long_file_steps(folder, entry, place, is_there)

    def _announce(self, span: Span) -> ChunkLocation | None:
        if span.chunk_id is None or self._target.is_dry_run:
            return None
        return self._feed.announce(span.chunk_id)

    def _long_file_steps(
        self, folder: Folder, entry: Entry, place: int, is_there: bool
    ) -> Iterator[Step]:
        yield Step(Op.OPEN, folder, entry, place, is_there)
        failure = ""
        length = 0
        try:
            for span in () if self._target.is_dry_run else self._archive.iter_spans(entry):
                length += span.length
                if self.abandoned is entry:
                    return
                location = self._announce(span)
                yield Step(Op.PIECE, folder, entry, place, is_there, span, location)
            if length != entry.size and not self._target.is_dry_run:
                failure = f"its content is {length} bytes long, {entry.size} expected"
        except (DataError, ObjectNotFound) as exc:
            failure = str(exc)
        yield Step(Op.CLOSE, folder, entry, place, is_there, failure=failure)

    # --- what is there already ------------------------------------------------

    def _decide(self, folder: Folder, entry: Entry) -> Decision:
        try:
            folder_fd = self._target.fd_of(folder)
            found = os.stat(entry.name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return Decision.NEW
        except OSError:
            return Decision.REPLACE  # writing it will say what is wrong
        if self._overwrite is Overwrite.NEVER:
            return Decision.LEAVE_ALONE
        if self._overwrite is Overwrite.ALWAYS:
            return Decision.REPLACE
        if self._is_same(folder_fd, entry, found):
            return Decision.KEEP
        if self._overwrite is Overwrite.IF_NEWER and found.st_mtime_ns >= entry.mtime_ns:
            return Decision.LEAVE_ALONE
        return Decision.REPLACE

    def _is_same(self, folder_fd: int, entry: Entry, found: os.stat_result) -> bool:
        if stat.S_IFMT(found.st_mode) != FILE_TYPES[entry.kind]:
            return False
        if entry.kind in _DEVICES:
            return found.st_rdev == entry.rdev
        try:
            if entry.kind is Kind.SYMLINK:
                return os.readlink(entry.name, dir_fd=folder_fd) == entry.target
            if entry.kind is not Kind.FILE:
                return True
            if found.st_size != entry.size or found.st_mtime_ns != entry.mtime_ns:
                return False
            if not self._is_verifying:
                return True
            is_right = self._has_content(folder_fd, entry)
            self.compared += is_right
            return is_right
        except (OSError, DataError):
            return False

    def _has_content(self, folder_fd: int, entry: Entry) -> bool:
        fd = os.open(entry.name, OPEN_CONTENT, dir_fd=folder_fd)
        try:
            return content_difference(self._archive, entry, fd) is None
        finally:
            os.close(fd)


def stop_if_full(exc: Exception, target: bytes) -> None:
    """Raise when *exc* means that no further file can be written either (CoopfsError)."""
    if isinstance(exc, OSError) and exc.errno in _FULL:
        name = target.decode("utf-8", "backslashreplace")
        raise CoopfsError(
            f"target {name}: {exc.strerror}; make room and run the same command again: "
            "it goes on with what is missing"
        ) from exc
