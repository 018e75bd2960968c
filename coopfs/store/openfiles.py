"""Read-only file descriptors kept open, least recently used first to go.

Opening a file costs several times what reading 16 KiB from it does, and a mount
reads hundreds of ranges a second from few packs.  Any number of threads may read
at once: a descriptor is closed only when nobody is using it, so none can be
reused by the kernel under a reader.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from coopfs.objects import READ_FLAGS


class _OpenFile:
    __slots__ = ("fd", "is_kept", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.is_kept = True  # False: whoever reads last closes it


class OpenFiles:
    """At most *limit* idle descriptors; those being read come on top."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._is_closed = False

    @contextmanager
    def reading(self, path: str) -> Iterator[int]:
        """Lend a descriptor of *path*; positions are shared, so only pread() it.

        Raises:
            OSError: it cannot be opened (nothing is translated here).
        """
        file = self._borrow(path)
        try:
            yield file.fd
        finally:
            with self._lock:
                file.users -= 1
                is_last = not file.users and not file.is_kept
            if is_last:
                os.close(file.fd)

    def _borrow(self, path: str) -> _OpenFile:
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
                file.users += 1
                return file
        opened = _OpenFile(os.open(path, READ_FLAGS))  # may block: not under the lock
        opened.users = 1
        surplus: list[int] = []
        with self._lock:
            file = self._files.get(path)
            if file is not None:  # another thread was faster
                surplus.append(opened.fd)
                file.users += 1
            else:
                file = opened
                if self._is_closed:
                    file.is_kept = False
                else:
                    self._files[path] = file
                    while len(self._files) > self._limit:
                        surplus.extend(self._let_go(next(iter(self._files))))
        for fd in surplus:
            os.close(fd)
        return file

    def _let_go(self, path: str) -> tuple[int, ...]:
        """Stop keeping *path*; return the descriptor to close, if nobody reads it.  Lock held."""
        file = self._files.pop(path)
        file.is_kept = False
        return () if file.users else (file.fd,)

    def forget(self, path: str) -> None:
        """Keep *path* open no longer; the next reader opens it anew."""
        with self._lock:
            idle = self._let_go(path) if path in self._files else ()
        for fd in idle:
            os.close(fd)

    def close(self) -> None:
        """Close every idle descriptor now and the others when their readers are done."""
        with self._lock:
            self._is_closed = True
            idle = [fd for path in tuple(self._files) for fd in self._let_go(path)]
        for fd in idle:
            os.close(fd)
