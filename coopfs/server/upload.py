"""One object on its way in: hashed while it is written, whole and durable or not at all."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Final, Protocol, Self

from coopfs import durable
from coopfs.errors import ObjectCorrupt
from coopfs.format.receipt import Receipt

# Bytes gathered before they are hashed and written: O_DIRECT wants aligned memory and
# long writes, while the line delivers a few KiB at a time.
BUFFER_LEN: Final = 1 << 20
_BUFFERS_KEPT: Final = 8
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Buffers:
    """Page-aligned memory, kept for the next upload.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """Return a buffer of ``BUFFER_LEN`` bytes with anything in it."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return mmap.mmap(-1, BUFFER_LEN)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Take *buffer* back; nothing may refer to it any more."""
        with self._lock:
            if len(self._free) < _BUFFERS_KEPT:
                self._free.append(buffer)


class Desk(Protocol):
    """What an upload needs of the depot that let it in."""

    def translated(self, label: str) -> AbstractContextManager[None]:
        """Turn an OSError within into the error of coopfs that says what it means."""

    def publish(self, upload: Upload) -> Receipt:
        """Make the durable, verified file the object, durably."""

    def close_upload(self, upload: Upload) -> None:
        """Give back what was reserved for it."""


class Upload:
    """An upload that :meth:`Depot.begin_put` let in; for one thread at a time.

    Use it as a context manager, or call :meth:`abort` whatever happens: what is not
    finished leaves nothing behind and gives back what was reserved.
    """

    def __init__(
        self, desk: Desk, buffers: Buffers, kind: str, name: str, size: int, temporary: str | None
    ) -> None:
        """Write to *temporary*; with None the object is there already and is only compared."""
        self.kind, self.name, self.size = kind, name, size
        self.temporary = temporary
        self._desk = desk
        self._buffers = buffers
        self._buffer = buffers.take()
        self._filled = 0  # bytes of the buffer
        self._received = 0  # bytes in all
        self._sha256 = hashlib.sha256()
        self._is_over = False
        self._fd = -1
        if temporary is not None:
            try:
                self._fd = os.open(temporary, _NEW_FILE, durable.FILE_MODE)
                # The server, which need not be root, must be able to read what root imports.
                durable.own_like_folder(self._fd, os.path.dirname(temporary))
            except BaseException:
                self.abort()
                raise

    @property
    def label(self) -> str:
        """How messages name the object."""
        return f"{self.kind}/{self.name}"

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the object.  After an error it is over: abort() it.

        Raises:
            ObjectCorrupt: more bytes than were announced.
            StoreFull: the disk is full, or the server's own quota on it.
        """
        view = memoryview(piece).cast("B")
        while view:
            room = self.room()
            taken = min(len(view), len(room))
            room[:taken] = view[:taken]
            self.took(taken)
            view = view[taken:]

    def room(self) -> memoryview:
        """Return where the next bytes may be put, to be told of with :meth:`took`."""
        return memoryview(self._buffer)[self._filled : BUFFER_LEN]

    def took(self, count: int) -> None:
        """The first *count* bytes of the last :meth:`room` are the next of the object.

        Raises as :meth:`write`.
        """
        self._received += count
        if self._received > self.size:
            raise ObjectCorrupt(
                f"{self.label}: more bytes than the {self.size} that were announced; "
                f"nothing was stored"
            )
        self._filled += count
        if self._filled == BUFFER_LEN:
            with self._desk.translated(self.label):
                self._flush()

    def finish(self) -> Receipt:
        """Make what was written the object; return the receipt once it is durable.

        Raises:
            ObjectCorrupt: too few bytes, their SHA-256 is not the name, or the name is
                taken by an object of another size.
        """
        try:
            if self._received != self.size:
                raise ObjectCorrupt(
                    f"{self.label}: {self._received} of {self.size} bytes arrived; "
                    f"nothing was stored; put it again"
                )
            with self._desk.translated(self.label):
                self._flush()
            if self._sha256.hexdigest() != self.name:
                raise ObjectCorrupt(
                    f"{self.label}: the bytes that arrived have the SHA-256 "
                    f"{self._sha256.hexdigest()}; nothing was stored; put it again"
                )
            with self._desk.translated(self.label):
                if self._fd >= 0:
                    os.fsync(self._fd)
                    self._close_file()
                return self._desk.publish(self)
        finally:
            self.abort()

    def abort(self) -> None:
        """Let go of everything; after :meth:`finish`, or a second time, do nothing."""
        if self._is_over:
            return
        self._is_over = True
        self._buffers.give_back(self._buffer)
        try:
            with suppress(OSError):
                self._close_file()
            if self.temporary is not None:
                with suppress(OSError):  # renamed already, or a start sweeps it
                    os.unlink(self.temporary)
        finally:
            self._desk.close_upload(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _flush(self) -> None:
        with memoryview(self._buffer) as whole, whole[: self._filled] as filled:
            self._sha256.update(filled)
            if self._fd >= 0:
                durable.write_all(self._fd, filled)
        self._filled = 0

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
