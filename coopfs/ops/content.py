"""File content on its way in: read, cut, saved; holes are neither read nor stored.

Owns how a file or a stream becomes spans.  What is read is what is stored: a file
that changes meanwhile is the caller's to notice.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from coopfs.archive.writer import ArchiveWriter
from coopfs.format.chunker import Chunker
from coopfs.format.nodes import SpanTreeBuilder
from coopfs.format.tree import INLINE_MAX, SPANS_MAX, Span
from coopfs.ids import SpanNodeId

READ_LEN: Final = 4 << 20  # bytes asked for at a time
STREAM_LEN: Final = 1 << 20  # bytes; a pipe gives 64 KiB at a time whatever is asked
WAIT_S: Final = 0.5  # for a silent pipe, before asking whether to go on
SPARSE_UNIT: Final = 512  # bytes of one of st_blocks, POSIX


class Content(NamedTuple):
    """What was stored of a file; one of inline, spans and span_root is set."""

    size: int  # bytes, holes included
    read_len: int  # bytes
    data_len: int | None  # bytes that are not holes, where fewer than size
    inline: bytes | None
    spans: tuple[Span, ...] | None
    span_root: SpanNodeId | None


class ContentReader:
    """Reads sources into an archive; one a run."""

    def __init__(
        self, writer: ArchiveWriter, chunker: Chunker, on_read: Callable[[int], None]
    ) -> None:
        """*on_read* is told the bytes of every read of a large file, as they come."""
        self._writer = writer
        self._chunker = chunker
        self._on_read = on_read
        self._least = chunker.min_len
        self._plain_max = SPANS_MAX * chunker.min_len  # never more than SPANS_MAX chunks
        # A cut is certain once max_len bytes follow its start: fewer at a time and the
        # reading would not move on.
        self._read_len = max(READ_LEN, 2 * chunker.max_len)

    def read_file(self, fd: int, size: int, allocated: int) -> Content:
        """Store the open regular file *fd*, *size* bytes long when it was looked at.

        *allocated* is its ``st_blocks``.

        Raises:
            OSError: it cannot be read.
            StoreError: the store failed.
        """
        if size <= self._least:
            # One byte more than expected is asked for: a file that has grown is noticed
            # without a second read.
            data = os.read(fd, self._least + 1)
            if len(data) != size:
                data = _read_on(fd, data, 0, self._least + 1)
            length = len(data)
            # /proc's files say that they are empty: those have no holes.
            if length <= self._least and (length > size or allocated * SPARSE_UNIT >= length):
                if length <= INLINE_MAX:
                    return Content(length, length, None, data, None, None)
                span = Span(length, self._writer.save_chunk(data))
                return Content(length, length, None, None, (span,), None)
        elif size <= self._plain_max and allocated * SPARSE_UNIT >= size:
            data = os.pread(fd, size + 1, 0)
            if len(data) == size:
                return self._save_all(data)
        return self._read_segments(fd, size, is_sparse=allocated * SPARSE_UNIT < size)

    def _save_all(self, data: bytes) -> Content:
        """Store a whole file of few chunks: nine of ten that are too long for one."""
        size, view, save = len(data), memoryview(data), self._writer.save_chunk
        spans = [
            Span(n, save(view[at : at + n])) for at, n in self._chunker.cut(view, is_last=True)
        ]
        self._on_read(size)
        return Content(size, size, None, None, tuple(spans), None)

    def _read_segments(self, fd: int, size: int, *, is_sparse: bool) -> Content:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            # Exchanged since it was looked at; a device might never come to an end.
            raise OSError(errno.ESTALE, "was replaced by something else before it was read")
        spans = _SpanList(self._writer)
        if is_sparse:
            self._read_sparse(fd, spans)
        else:
            self._read_range(fd, 0, None, spans, size)
        return spans.content()

    def _read_sparse(self, fd: int, spans: _SpanList) -> None:
        position = 0
        while True:
            # Before looking for data: what is appended later is not taken for a hole.
            size = os.fstat(fd).st_size
            start = _seek(fd, position, os.SEEK_DATA)
            if start is None:
                spans.add_hole(size - position)
                return
            spans.add_hole(start - position)
            end = _seek(fd, start, os.SEEK_HOLE)
            position = self._read_range(fd, start, end, spans)
            if end is None or position < end:
                return  # it was cut short meanwhile

    def _read_range(
        self, fd: int, start: int, end: int | None, spans: _SpanList, size: int | None = None
    ) -> int:
        """Store the bytes from *start* up to *end* (or the end of the file); return where.

        *size*, the file's when it was looked at, saves asking for, and allocating, far more
        than there is, and a last read that finds nothing.
        """
        position = start
        most = self._read_len
        expected = most if size is None else size + 1
        while True:
            want = min(expected, most) if end is None else min(most, end - position)
            expected = most
            buffer = os.pread(fd, want, position) if want else b""
            if len(buffer) < want and position + len(buffer) != size:
                buffer = _read_on(fd, buffer, position, want)
            is_last = len(buffer) < want or position + want == end or not want
            view = memoryview(buffer)
            used = 0
            for offset, length in self._chunker.cut(view, is_last=is_last):
                spans.add_data(view[offset : offset + length])
                used = offset + length
            self._on_read(used)
            position += used
            # The uncut tail is read again with the next buffer: at most max_len bytes,
            # cheaper than joining the two.
            if is_last:
                return position

    def read_stream(self, fd: int) -> Content:
        """Store everything that can be read from the pipe or device *fd*.

        Raises:
            OSError: it cannot be read.
            StoreError: the store failed.
        """
        spans = _SpanList(self._writer)
        pieces: list[bytes] = []
        held = 0
        while True:
            while not select.select([fd], [], [], WAIT_S)[0]:
                self._on_read(0)  # whoever is told may want to stop
            piece = os.read(fd, STREAM_LEN)
            pieces.append(piece)
            held += len(piece)
            if piece and held < self._read_len:
                continue
            buffer = b"".join(pieces)
            view = memoryview(buffer)
            used = 0
            for offset, length in self._chunker.cut(view, is_last=not piece):
                spans.add_data(view[offset : offset + length])
                used = offset + length
            self._on_read(used)
            if not piece:
                return spans.content()
            pieces = [bytes(view[used:])]
            held -= used


def _read_on(fd: int, data: bytes, position: int, want: int) -> bytes:
    """Return *data*, read at *position*, and what follows it, *want* bytes if there are so many.

    Only a read that returns nothing is the end: /proc and FUSE file systems (direct_io) may
    return less than was asked for, and be asked again.
    """
    pieces = [data]
    length = len(data)
    while length < want and pieces[-1]:
        pieces.append(os.pread(fd, want - length, position + length))
        length += len(pieces[-1])
    return b"".join(pieces)


class _SpanList:
    """Spans of a file being read: a short list, or a span tree once it grows long."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self._writer = writer
        self._spans: list[Span] = []
        self._tree: SpanTreeBuilder | None = None
        self._held = b""  # a tiny first piece, while it may still be all there is
        self._size = 0
        self._data_len = 0

    def add_data(self, piece: memoryview) -> None:
        length = len(piece)
        is_held = self._size == 0 and length <= INLINE_MAX
        self._size += length
        self._data_len += length
        if is_held:
            self._held = bytes(piece)
        else:
            self._let_go()
            self._add(Span(length, self._writer.save_chunk(piece)))

    def _let_go(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._add(Span(len(held), self._writer.save_chunk(held)))

    def add_hole(self, length: int) -> None:
        if length > 0:
            self._let_go()
            self._size += length
            self._add(Span(length, None))

    def _add(self, span: Span) -> None:
        if self._tree is not None:
            self._tree.add(span)
            return
        self._spans.append(span)
        if len(self._spans) > SPANS_MAX:
            self._tree = SpanTreeBuilder(self._writer.save_span_node)
            for earlier in self._spans:
                self._tree.add(earlier)
            self._spans.clear()

    def content(self) -> Content:
        data_len = self._data_len if self._data_len < self._size else None
        if self._tree is not None:
            root = self._tree.finish()
            return Content(self._size, self._data_len, data_len, None, None, root)
        if self._held or not self._size:
            return Content(self._size, self._data_len, None, self._held, None, None)
        return Content(self._size, self._data_len, data_len, None, tuple(self._spans), None)


def _seek(fd: int, position: int, whence: int) -> int | None:
    """Return where data or a hole begins, None at the end of the file."""
    try:
        return os.lseek(fd, position, whence)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise
