"""Comparing a file of the file system with an entry of an archive, by content.

Chunk ids are computed again from what is read; nothing is fetched from the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.format.tree import Entry

PIECE_LEN: Final = 1 << 20  # bytes of a hole that are looked at at a time
OPEN_CONTENT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def content_difference(archive: Archive, entry: Entry, fd: int) -> str | None:
    """Say where the open regular file *fd* differs from *entry*; None: nowhere.

    Raises:
        OSError: it cannot be read.
        DataError, StoreUnavailable: the list of its spans cannot be read.
    """
    size = os.fstat(fd).st_size
    if size != entry.size:
        return f"has {size} bytes, {entry.size} expected"
    if entry.inline is not None:
        same = _read(fd, 0, size) == entry.inline
        return None if same else "its content differs"
    offset = 0
    for length, chunk_id in archive.iter_spans(entry):
        if chunk_id is None:
            same = all(not any(piece) for piece in _pieces_of_hole(fd, offset, offset + length))
        else:
            same = archive.keys.chunk_id(_read(fd, offset, length)) == chunk_id
        if not same:
            return f"its content differs between bytes {offset} and {offset + length}"
        offset += length
    if offset != size:
        return f"the archive lists {offset} bytes of its content, {size} expected"
    return None


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _pieces_of_hole(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield what is stored between *start* and *end*; the holes in it are skipped."""
    while start < end:
        try:
            start = max(start, os.lseek(fd, start, os.SEEK_DATA))
        except OSError:
            return  # no data up to the end of the file
        piece = _read(fd, start, min(PIECE_LEN, end - start)) if start < end else b""
        if not piece:
            return
        yield piece
        start += len(piece)
