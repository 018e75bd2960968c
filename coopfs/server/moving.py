"""Only one file at a time is on its way between two folders, whoever moves it.

While a file is moved it has two names, and which of them counts only the mover knows.
Another thread, or a command at the prompt, that took it for the work of a killed process
would take the other name away: then it had none.
"""

from __future__ import annotations

import fcntl
import os
import threading
from types import TracebackType

from coopfs import durable
from coopfs.errors import StoreUnavailable


class Moving:
    """Held while a file has two names, and while somebody judges such files.  Reentrant."""

    def __init__(self, path: str) -> None:
        """Lock the file *path*, which is made, against other processes."""
        self._lock = threading.RLock()
        self._depth = 0  # guarded by the lock
        self._path = path
        self._fd = durable.open_lock(path)

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._fd < 0:
                raise StoreUnavailable(f"{os.path.dirname(self._path)}: is not open any more")
            if self._depth == 0:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._depth += 1
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Let go of the file; nothing is moved any more.  May be called again."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
