"""The next megabytes of a file that is read in order, side by side in a ring.

A byte of the file has one place in the ring, so that any read within the window is one
stretch of memory, whatever blocks it came from.  Nothing in the ring is replaced while
somebody reads it, or while a process may still write there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from coopfs.archive.decoder_process import Part
from coopfs.view.decoders import RING_LEN, Decoders, Job
from coopfs.view.layout import HOLE, Stretch

KEPT: Final = 2 << 20  # bytes behind the reader: the kernel's requests come out of order


class _Asked(NamedTuple):
    """A run of bytes of the file that a job brings."""

    start: int  # in the file
    end: int
    job: Job


class Window:
    """[start, goal) of a file; used from the event loop only."""

    def __init__(self, decoders: Decoders, start: int) -> None:
        """Begin at *start*, with nothing asked for; closed where there is no ring."""
        self._decoders = decoders
        self._ring = decoders.take_ring(self)
        self._asked: deque[_Asked] = deque()  # in the order of the file
        self._reads: list[int] = []  # where those begin that are not answered yet
        self.start = start
        self.goal = start

    @property
    def is_closed(self) -> bool:
        """Whether it has no ring (any more)."""
        return self._ring is None

    @property
    def is_reading(self) -> bool:
        """Whether a read is under way."""
        return bool(self._reads)

    def close(self) -> None:
        """Let others have the ring; reads under way find nothing in it."""
        ring, self._ring = self._ring, None
        if ring is not None:
            self._decoders.give_back(ring, [one.job for one in self._asked])

    def limit(self, position: int) -> int:
        """Return how far :meth:`ask` may go when the reader has come to *position*."""
        kept = [max(position - KEPT, 0), *self._reads]
        kept += [one.start for one in self._asked if not one.job.is_done]
        return min(kept) + RING_LEN

    def ask(self, stretches: Sequence[Stretch], goal: int) -> bool:
        """Have [self.goal, *goal*) decoded, which *stretches* make up; False: not possible.

        *goal* is at most :meth:`limit`.
        """
        ring = self._ring
        if ring is None:
            return False
        by_block: dict[int, list[Part]] = {}
        runs: list[tuple[int, int, int]] = []  # start, end, block
        position = self.goal
        for block_no, start, length in stretches:
            for place, run_len in _places(position, length):
                if block_no == HOLE:
                    ring.room[place : place + run_len] = bytes(run_len)
                else:
                    by_block.setdefault(block_no, []).append(Part(start, place, run_len))
                    start += run_len
            if block_no != HOLE:
                runs.append((position, position + length, block_no))
            position += length
        jobs: dict[int, Job] = {}
        try:
            for block_no, parts in by_block.items():
                job = self._decoders.decode(ring, block_no, parts)
                if job is None:
                    return False
                jobs[block_no] = job
        finally:
            if len(jobs) < len(by_block):  # what was asked for still writes to the ring
                self._asked.extend(_Asked(self.goal, goal, job) for job in jobs.values())
        self._asked.extend(_Asked(start, end, jobs[block_no]) for start, end, block_no in runs)
        self.goal = goal
        self.start = max(self.start, goal - RING_LEN)
        while self._asked and self._asked[0].end <= self.start:
            self._asked.popleft()
        return True

    def holds(self, offset: int, end: int) -> bool:
        """Tell whether [*offset*, *end*) was asked for and is not replaced yet."""
        return not self.is_closed and self.start <= offset and end <= self.goal

    @contextmanager
    def reading(self, offset: int) -> Iterator[None]:
        """Keep what lies behind *offset*: somebody reads from there."""
        self._reads.append(offset)
        if self._ring is not None:
            self._ring.used = trio.current_time()
        try:
            yield
        finally:
            self._reads.remove(offset)

    async def read(self, offset: int, end: int) -> bytes | memoryview | None:
        """Return [*offset*, *end*), which it must hold; None where a block is damaged.

        For those within :meth:`reading`.  A view is good until somebody asks for more: for
        an answer that is sent at once.
        """
        needed = [one.job for one in self._asked if one.start < end and one.end > offset]
        for job in needed:
            await self._decoders.wait_for(job)
            if not job.is_good:
                return None
        ring = self._ring
        if ring is None:
            return None
        views = [ring.room[at : at + length] for at, length in _places(offset, end - offset)]
        return views[0] if len(views) == 1 else b"".join(views)


def _places(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (place in the ring, bytes) of a run of the file's bytes, cut at the ring's end."""
    while length > 0:
        place = offset % RING_LEN
        run_len = min(length, RING_LEN - place)
        yield place, run_len
        offset += run_len
        length -= run_len
