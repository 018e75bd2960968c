"""Requests made by threads of their own, so that whoever waits for one can stop waiting.

For libraries whose calls nothing can end: a signal is not seen before they return, which
with a service that has fallen silent takes minutes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class InFlight:
    """At most *most* calls at a time, each in a thread that is kept for the next one."""

    def __init__(self, most: int, closed: Callable[[], Exception]) -> None:
        """Start no thread yet.  *closed* makes the error that :meth:`close` ends calls with."""
        self._most = most
        self._closed = closed
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._waiting = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that wait for a call
        self._lock = threading.Lock()
        self._threads = 0  # guarded by _lock, as is all that follows
        self._futures: set[Future[Any]] = set()
        self._is_closed = False

    def run(self, call: Callable[[], _Result]) -> _Result:
        """Return what *call* returns, or raise what it raises; a signal ends the wait.

        What nobody waits for any more is completed or not, as it happens.
        """
        future: Future[_Result] = Future()
        with self._lock:
            if self._is_closed:
                raise self._closed()
            self._futures.add(future)
            self._waiting.put((future, call))
            if not self._idle.acquire(blocking=False) and self._threads < self._most:
                self._threads += 1
                # Daemons: an exit does not wait for a service that has fallen silent.
                threading.Thread(target=self._work, daemon=True).start()
        try:
            return future.result()
        finally:
            with self._lock:
                self._futures.discard(future)

    def close(self) -> None:
        """End every wait, now and later."""
        with self._lock:
            self._is_closed = True
            abandoned, self._futures = self._futures, set()
            for _ in range(self._threads):
                self._waiting.put(None)
        for future in abandoned:
            with suppress(InvalidStateError):  # has ended meanwhile
                future.set_exception(self._closed())

    def _work(self) -> None:
        while True:
            try:
                work = self._waiting.get_nowait()
            except queue.Empty:
                self._idle.release()
                work = self._waiting.get()
            if work is None:
                return
            future, call = work
            del work
            if not future.done():  # else it was abandoned before it began
                try:
                    result = call()
                except BaseException as exc:
                    with suppress(InvalidStateError):
                        future.set_exception(exc)
                else:
                    with suppress(InvalidStateError):
                        future.set_result(result)
                    del result
            del future, call  # while idle, nothing of the last one is kept
