"""Opening objects, and reading them whole: from the disk, and past the page cache."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from coopfs.errors import ObjectCorrupt
from coopfs.objects import READ_FLAGS

READ_LEN: Final = 1 << 20  # bytes


class OpenObject(NamedTuple):
    """An object opened for reading; whoever opened it closes *fd*."""

    fd: int  # only pread() it
    size: int  # bytes


def open_plain(path: str, label: str) -> OpenObject:
    """Open the plain file *path*; ObjectCorrupt where something else stands for it."""
    fd = os.open(path, READ_FLAGS)
    try:
        return OpenObject(fd, plain_size(os.fstat(fd), label))
    except BaseException:
        os.close(fd)
        raise


def plain_size(status: os.stat_result, label: str) -> int:
    """Return the size of a plain file; ObjectCorrupt where something else stands for it."""
    if not stat.S_ISREG(status.st_mode):
        raise ObjectCorrupt(
            f"{label}: not a plain file on the server (mode {status.st_mode:o}); "
            f"ask the partner to remove it"
        )
    return status.st_size


def read_into(fd: int, offset: int, length: int, take: Callable[[bytes], object]) -> int:
    """Give the bytes from *offset* on to *take*, piece by piece; return how many there were.

    Fewer than *length* only where the file ends.
    """
    done = 0
    while done < length:
        piece = os.pread(fd, min(READ_LEN, length - done), offset + done)
        if not piece:
            break
        take(piece)
        done += len(piece)
    return done


def drop_cached(fd: int, offset: int = 0, length: int = 0) -> None:
    """Let go of what memory holds of the file (all of it by default).

    Before reading, so that what is read is what the disk has; after it, so that whole
    packs nobody asked for do not push out what the mount next door is using.
    """
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
