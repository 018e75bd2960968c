"""Local locks: one run of a series at a time on one host.

Nothing in the store is ever locked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from coopfs.errors import CoopfsError, StateBusy


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock *path*, waiting for it; for what takes a moment."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        _release(fd)


@contextmanager
def series_lock(state_folder: Path, series: str) -> Iterator[None]:
    """Hold the lock of *series* (``host/series``); it goes with the process.

    Raises:
        StateBusy: another run holds it.
    """
    path = state_folder / f"series-{blake3(series.encode()).hexdigest(8)}.lock"
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateBusy(
                f"{series}: another snapshot of this series is running on this host; "
                "wait for it, or give this one another --series"
            ) from None
        yield
    finally:
        _release(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CoopfsError(
            f"{path}: {exc.strerror}; state must be kept where this user can write, also to read "
            "an archive: COOPFS_STATE_DIR says where"
        ) from exc


def _release(fd: int) -> None:
    # Closing alone would leave it to a process that another thread is just starting: until
    # that one runs its program it has the file open too.
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
