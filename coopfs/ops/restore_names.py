"""Names in the target: put in place of what was there, and given to one file twice.

Everything is relative to a folder's descriptor and follows no symlink.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final, NamedTuple

from blake3 import blake3

from coopfs.format.tree import Entry
from coopfs.ops.restore_target import Folder, Target

# link(2): the file system has no hard links, has too many of this file, or is another one.
_NO_LINKS: Final = frozenset(
    (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
)


def part_name(name: bytes) -> bytes:
    """Return the name under which *name* is made before it replaces what is there.

    Always the same, so that what a killed run left behind is found and replaced.
    """
    return b".coopfs-part-" + blake3(name).hexdigest(16).encode()


def remove(name: bytes, folder_fd: int) -> None:
    """Remove *name*, not a folder, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)


def put_in_place(part: bytes, name: bytes, folder_fd: int) -> None:
    """Rename *part* over *name*; an empty folder of that name gives way.

    Raises:
        OSError: a folder with something in it is there, or it cannot be done.
    """
    try:
        os.rename(part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder_fd)
        except OSError as exc:
            raise OSError(exc.errno, "a folder is in its place, and is not empty") from exc
        os.rename(part, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


class _First(NamedTuple):
    """The name of a hard-linked file that the others are linked to."""

    folder: Folder
    name: bytes
    identity: tuple[int, int]  # device and inode number


class HardLinks:
    """The groups of hard links of one run; memory grows with them only."""

    def __init__(self, target: Target) -> None:
        """Start with none."""
        self._target = target
        self._firsts: dict[bytes, _First] = {}
        self.refused = ""  # why the target would not link, once it has refused

    def remember(self, folder: Folder, entry: Entry, status: os.stat_result) -> None:
        """Note that *entry*, which is in *folder* now, can be linked to."""
        if entry.hard_link_id is not None:
            identity = (status.st_dev, status.st_ino)
            self._firsts[entry.hard_link_id] = _First(folder, entry.name, identity)

    def forget(self, entry: Entry) -> None:
        """Note that *entry* is not there after all."""
        self._firsts.pop(entry.hard_link_id or b"", None)

    def link(self, folder: Folder, entry: Entry, *, is_there: bool) -> bool:
        """Make *entry* another name of its group's first.

        False when there is none, or when the target's file system will not have it.

        Raises:
            OSError: it should have been possible.
        """
        first = self._firsts.get(entry.hard_link_id or b"")
        if first is None:
            return False
        self._target.fd_of(first.folder)
        folder_fd = self._target.fd_of(folder)
        first_fd = self._target.fd_of(first.folder)  # no more than one was opened since
        if is_there and _identity(entry.name, folder_fd) == first.identity:
            return True  # rename() between two names of one file would do nothing
        name = entry.name
        if is_there:
            name = part_name(name)
            remove(name, folder_fd)
        try:
            os.link(
                first.name, name, src_dir_fd=first_fd, dst_dir_fd=folder_fd, follow_symlinks=False
            )
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            self.refused = exc.strerror or "refused"
            return False
        if _identity(name, folder_fd) != first.identity:
            os.unlink(name, dir_fd=folder_fd)
            raise OSError(errno.ESTALE, "the file to link to was exchanged meanwhile")
        if is_there:
            put_in_place(name, entry.name, folder_fd)
        return True


def _identity(name: bytes, folder_fd: int) -> tuple[int, int]:
    status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    return status.st_dev, status.st_ino
