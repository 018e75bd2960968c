"""Blocks on their way from a thread to the event loop, and which goes first.

A run is what one request to the store brings; its flights are the blocks in it.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue

import trio

from coopfs.archive.blocks import Block


class Flight:
    """One block on its way; readers wait for *landed*."""

    # No reference to its run: in a cycle a megabyte would live until the collector comes.
    __slots__ = ("block", "error", "is_ahead", "is_awaited", "landed")

    def __init__(self, is_ahead: bool) -> None:
        """*is_ahead* says that nobody has asked for it yet."""
        self.is_ahead = is_ahead
        self.is_awaited = False  # somebody waits by now
        self.landed = trio.Event()
        self.block: Block | None = None
        self.error: BaseException | None = None


class Run:
    """Blocks fetched with one request."""

    __slots__ = ("flights", "is_ahead")

    def __init__(self, block_nos: list[int], is_ahead: bool) -> None:
        """Make a flight for each of *block_nos*."""
        self.is_ahead = is_ahead
        self.flights = {block_no: Flight(is_ahead) for block_no in block_nos}

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for one of its blocks."""
        return any(flight.is_awaited for flight in self.flights.values())


class RunQueue:
    """Runs for the threads, those somebody waits for first; thread-safe."""

    def __init__(self) -> None:
        """Start empty and open."""
        # Threads wait for a ticket, then pick: a SimpleQueue is written in C, and waiting
        # on a threading.Condition instead cost a quarter more CPU for all of a read.
        self._tickets: SimpleQueue[bool] = SimpleQueue()  # one a run; False: go home
        self._lock = threading.Lock()
        self._demanded: deque[Run] = deque()
        self._desired: deque[Run] = deque()

    def put(self, run: Run) -> None:
        """Queue a run behind those of its kind."""
        with self._lock:
            (self._desired if run.is_ahead else self._demanded).append(run)
        self._tickets.put(True)

    def hurry(self, block_no: int) -> None:
        """Put a block that is still queued as read ahead among those somebody waits for."""
        with self._lock:
            for run in self._desired:
                if block_no in run.flights:
                    self._desired.remove(run)
                    self._demanded.append(run)
                    return

    def take(self) -> Run | None:
        """Wait for the next run; None: no more will come."""
        if not self._tickets.get():
            self._tickets.put(False)  # for the next thread
            return None
        with self._lock:
            return (self._demanded or self._desired).popleft()

    def close(self) -> None:
        """Send every thread home once what is queued is done."""
        self._tickets.put(False)
