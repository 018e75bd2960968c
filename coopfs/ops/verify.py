"""Reading a restored folder again, and comparing it with the snapshot.

Content by chunk ids, symlinks by their targets, the rest by what it is.  Reports, and
changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from coopfs.archive.archive import Archive
from coopfs.errors import DataError, ObjectNotFound
from coopfs.format.tree import Entry, Kind
from coopfs.ops.compare import OPEN_CONTENT, content_difference
from coopfs.ops.progress import Progress
from coopfs.ops.restore_plan import FILE_TYPES
from coopfs.ops.restore_target import Folder, InTheWay, Target
from coopfs.ops.selection import Event, Visit


def verify_target(
    archive: Archive,
    path: bytes,
    top: Entry,
    visits: Iterator[Visit],
    settled: bytearray,
    progress: Progress,
    on_problem: Callable[[bytes, str], None],
) -> int:
    """Compare the folder *path* with *visits*, the walk that wrote it; return files compared.

    *settled* has a byte for each entry of the walk that is no folder; those that are
    not zero were not written, and are passed over.  *on_problem* is told (path below the
    target, what differs).

    Raises:
        CoopfsError: the target cannot be opened.
        StoreUnavailable: the partner cannot be reached.
    """
    target = Target(path, top, is_dry_run=True)
    folder = target.root
    files = 0
    place = 0
    read_len = 0
    try:
        for event, entry, _ in visits:
            if event is Event.ENTER:
                folder = Folder(folder, entry)
                with suppress(OSError, InTheWay):
                    target.make(folder, may_replace=False)
            elif event is Event.LEAVE:
                target.let_go(folder)
                folder = folder.parent or folder
            else:
                place += 1
                if settled[place - 1]:
                    continue
                difference = _difference(archive, target, folder, entry)
                if difference is not None:
                    on_problem(folder.path_of(entry.name), f"verifying it: {difference}")
                files += entry.kind is Kind.FILE
                read_len += entry.size
                progress.update(files=place, bytes_=read_len, current=entry.name)
    finally:
        target.close()
    return files


def _difference(archive: Archive, target: Target, folder: Folder, entry: Entry) -> str | None:
    try:
        if folder.is_new or folder.problem is not None:
            return "its folder is not there, or cannot be opened"
        folder_fd = target.fd_of(folder)
        found = os.stat(entry.name, dir_fd=folder_fd, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) != FILE_TYPES[entry.kind]:
            return "it is something else now"
        if entry.kind is Kind.SYMLINK:
            same = os.readlink(entry.name, dir_fd=folder_fd) == entry.target
            return None if same else "it leads elsewhere"
        if entry.kind is not Kind.FILE:
            return None if found.st_rdev == entry.rdev else "it is another device"
        fd = os.open(entry.name, OPEN_CONTENT, dir_fd=folder_fd)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read it from the disk
            return content_difference(archive, entry, fd)
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
    except (DataError, ObjectNotFound) as exc:
        return str(exc)
