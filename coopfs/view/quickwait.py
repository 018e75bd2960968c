"""A quicker way for pyfuse3 to wait for the next request.

Owns one thing: what :mod:`pyfuse3` uses as ``trio``.  pyfuse3 looks its event loop
up in a global (its own asyncio mode replaces it in the same way).  Waiting through
trio costs ~20 us a request: a registration with epoll, the poll, a task switch or
two.  While requests follow each other closely, as they do under `find`, `tar` and
`rsync`, a plain poll(2) answers within a few microseconds.  It may block for
:data:`PATIENCE_MS`, so it is used only when no other task has anything to do soon.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import pyfuse3
import trio

PATIENCE_MS: Final = 1  # longest time the event loop is held up; nothing else is waiting then
BURST_S: Final = 0.005  # a request within this time of the last one makes a burst
TURN_S: Final = 0.01  # every so often the other tasks get their turn all the same
BUSY_TURN_S: Final = 0.0005  # so often while one of them waits for a thread


class _BargingLock:
    """A lock that whoever comes first gets, without a checkpoint where it is free.

    trio's own hands itself over to the task that waits longest, which is a task
    switch a request.  pyfuse3 wants only that one task at a time reads.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_held:
            await self._waiting.park()
        self._is_held = True

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_held = False
        if self._waiting:
            # It runs as soon as this task waits for something; if by then the lock is
            # held again, it parks again.
            self._waiting.unpark()


class _QuickLowlevel:
    """Stands for ``trio.lowlevel`` in pyfuse3: all of it, but a quicker wait_readable."""

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self._is_idle = is_idle
        self._poller: select.poll | None = None
        self._last_request = 0.0
        self._last_turn = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Return when *fd* is readable; raises ClosedResourceError as trio does."""
        if self._poller is None:
            self._poller = select.poll()
            self._poller.register(fd, select.POLLIN)
        now = time.perf_counter()
        is_idle = self._is_idle()
        if (
            now - self._last_request < BURST_S
            and now - self._last_turn < (TURN_S if is_idle else BUSY_TURN_S)
            and self._poller.poll(PATIENCE_MS if is_idle else 0)
        ):
            self._last_request = time.perf_counter()
            return
        await trio.lowlevel.wait_readable(fd)
        self._last_request = self._last_turn = time.perf_counter()


class _QuickTrio(ModuleType):
    """Stands for ``trio`` in pyfuse3."""

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        super().__init__("trio")
        self.lowlevel = _QuickLowlevel(is_idle)
        self.Lock = _BargingLock

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


@contextmanager
def quick_wait(is_idle: Callable[[], bool]) -> Iterator[None]:
    """Let pyfuse3 wait as described; *is_idle* says that no other task can be ready soon."""
    pyfuse3.trio = _QuickTrio(is_idle)  # type: ignore[attr-defined]  # as pyfuse3.asyncio does
    try:
        yield
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]  # as above
