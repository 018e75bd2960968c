"""Processes that decode large files which are read in order, and the rings they fill.

Decoding in threads left a third of two cores idle: each call into a library lets go of
Python's global lock and has to win it back.  These processes read packs from the disk
and put plain bytes into shared memory, where an answer to the kernel is taken from.
They run while somebody reads that way, and a little longer.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from coopfs.archive.archive import Archive
from coopfs.archive.child import SharedMemory
from coopfs.archive.decoder_process import DecoderProcess, InPack, Part
from coopfs.archive.index_rows import block_facts
from coopfs.errors import CoopfsError
from coopfs.store.base import Kind

RING_LEN: Final = 12 << 20  # bytes
RINGS: Final = 4  # files read in order at once; more are decoded in threads
PROCESSES_MAX: Final = 3
BLOCK_MAX: Final = 4 << 20  # bytes; a larger one would be decoded for each part of it again
RECENT: Final = 8  # blocks
# What a process may be told beyond what it has answered: neither its pipe nor that of its
# answers is ever full (64 KiB, pipe(7)), so that nobody waits for anybody to read.
PIPE_LEN: Final = 48 << 10  # bytes
BUSY_LEN: Final = 20 << 10  # bytes; no more for now
JOBS_MAX: Final = 64
IDLE_S: Final = 3.0  # nobody has had a ring for so long: the processes end

log = logging.getLogger(__name__)


class Job:
    """One block that a process decodes."""

    __slots__ = ("is_done", "is_good")

    def __init__(self) -> None:
        """Nothing has come of it yet."""
        self.is_done = False
        self.is_good = False  # it is where it should be, every chunk verified


class Owner(Protocol):
    """Who has a ring."""

    @property
    def is_reading(self) -> bool:
        """Whether somebody waits for what is in it."""

    def close(self) -> None:
        """Give the ring back."""


class Ring:
    """A part of the shared memory, for one open file."""

    __slots__ = ("jobs", "owner", "room", "start", "used")

    def __init__(self, start: int, room: memoryview) -> None:
        """*start* is its place in the shared memory, *room* its bytes."""
        self.start = start
        self.room = room
        self.owner: Owner | None = None
        self.used = 0.0  # when it was last read from, as trio.current_time()
        self.jobs: list[Job] = []  # that may still write to it, when it is given back


class _Process:
    """A process and what it was asked for."""

    def __init__(self, decoder: DecoderProcess) -> None:
        self.decoder = decoder
        self.jobs: dict[int, tuple[Job, int]] = {}  # with the bytes of the message
        self.unanswered_len = 0  # bytes of messages; more than a pipe holds would hold us up


class Decoders:
    """Starts the processes when they are worth it; used from the event loop only."""

    def __init__(self, archive: Archive, nursery: trio.Nursery) -> None:
        """Decode blocks of *archive*; who listens to the processes runs in *nursery*."""
        self._archive = archive
        self._nursery = nursery
        # With one core there is nobody to share the work with.
        cores = len(os.sched_getaffinity(0))
        is_in_files = archive.store.file_of(Kind.DATA, b"\0" * 32) is not None
        self._count = min(cores, PROCESSES_MAX) if cores > 1 and is_in_files else 0
        self._processes: list[_Process] = []
        self._rings: list[Ring] = []  # that nobody has
        self._taken: list[Ring] = []
        self._used = 0.0  # when there was last a use for the processes
        self._recent: OrderedDict[int, _Process] = OrderedDict()  # who decoded which block
        self._next_job = 0
        self._waiting = 0
        self._wanted = trio.lowlevel.ParkingLot()
        self._landed = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self.decoded = 0  # blocks; for the status file

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a process."""
        return not self._waiting

    # --- the processes --------------------------------------------------------

    def prepare(self) -> bool:
        """Start the processes if they do not run; True when there is a ring to be had."""
        if not self._processes:
            if self._count:
                self._start()
            return False
        self._used = trio.current_time()
        for process in self._processes:
            if not process.decoder.is_ready:
                if process.decoder.is_dead:
                    self._give_up()
                return False
        self._settle()
        return self._free_ring() is not None

    def _free_ring(self) -> Ring | None:
        for ring in self._rings:
            if all(job.is_done for job in ring.jobs):
                return ring
        return None

    def _start(self) -> None:
        started: list[_Process] = []
        try:
            with SharedMemory(RINGS * RING_LEN) as memory:
                while len(started) < self._count:
                    started.append(_Process(DecoderProcess(self._archive.keys, memory)))
        except (CoopfsError, MemoryError) as exc:
            log.warning("%s: large files are decoded in threads", exc)
            self._count = 0
        else:
            starts = range(0, RINGS * RING_LEN, RING_LEN)
            self._rings = [Ring(at, memory.view[at : at + RING_LEN]) for at in starts]
            self._processes = started
            self._used = trio.current_time()
        self._nursery.start_soon(self._employ, started)

    async def _employ(self, processes: list[_Process]) -> None:
        """Listen to the processes; end them when nobody has a use for them any more."""
        try:
            if self._processes is processes:
                async with trio.open_nursery() as listening:
                    for process in processes:
                        listening.start_soon(self._listen, process)
                    while not self._ended.is_set() and self._is_needed():
                        with trio.move_on_after(IDLE_S / 4):
                            await self._ended.wait()
                    self._forget()
                    listening.cancel_scope.cancel()
        finally:
            for process in processes:
                process.decoder.kill()
            with trio.CancelScope(shield=True):  # the disk they read from may hang
                await trio.to_thread.run_sync(_close, processes)

    def _is_needed(self) -> bool:
        """Take rings from those who leave them alone; tell whether somebody has one."""
        now = trio.current_time()
        for ring in self._taken.copy():
            if now - ring.used > IDLE_S and ring.owner and not ring.owner.is_reading:
                ring.owner.close()
        return bool(self._taken) or now - self._used < IDLE_S

    async def _listen(self, process: _Process) -> None:
        while not process.decoder.is_dead:
            if self._waiting:
                await trio.lowlevel.wait_readable(process.decoder.answers_fd)
                self._settle()
            else:  # what has come by then is found by whoever looks for it
                await self._wanted.park()

    def _settle(self) -> None:
        """Take note of what the processes have done."""
        for process in self._processes:
            while process.decoder.is_ready and process.decoder.has_news:
                decoded = process.decoder.receive()
                if decoded is None:
                    self._give_up()
                    return
                job, length = process.jobs.pop(decoded.job)
                process.unanswered_len -= length
                job.is_done, job.is_good = True, decoded.bad == frozenset()
                self._landed.unpark_all()

    def _give_up(self) -> None:
        """Do without processes from now on: one has died, and the next may, too."""
        log.warning("a process that decodes has died: large files are decoded in threads")
        self._count = 0
        for process in self._processes:
            for job, _ in process.jobs.values():
                job.is_done = True  # and no good; no ring is given to anybody any more
            process.jobs.clear()
        self._forget()
        self._ended.set()
        self._landed.unpark_all()
        self._wanted.unpark_all()

    def _forget(self) -> None:
        self._processes = []
        self._rings = []
        self._recent.clear()

    # --- what readers use -----------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether enough is asked for already."""
        self._settle()
        return any(process.unanswered_len > BUSY_LEN for process in self._processes)

    def take_ring(self, owner: Owner) -> Ring | None:
        """Return a ring, for :meth:`give_back`; None: there is none."""
        ring = self._free_ring() if self.prepare() else None
        if ring is not None:
            self._rings.remove(ring)
            self._taken.append(ring)
            ring.jobs, ring.owner, ring.used = [], owner, trio.current_time()
        return ring

    def give_back(self, ring: Ring, jobs: list[Job]) -> None:
        """Let others have *ring* once *jobs*, asked for by its owner, are done."""
        self._taken.remove(ring)
        self._used = trio.current_time()
        ring.jobs, ring.owner = jobs, None
        if self._processes:
            self._rings.insert(0, ring)  # the next takes it: its memory is in use already

    def decode(self, ring: Ring, block_no: int, parts: Sequence[Part]) -> Job | None:
        """Have *parts* of a block put into *ring*; their starts count from its own.

        None where that is not possible: a block of metadata, one that has left the index,
        or more at once than a process can be told.
        """
        try:
            info = self._archive.index.block(block_no)
            pack = self._archive.index.pack(info.pack_no)
        except CoopfsError:
            return None
        path = self._archive.store.file_of(Kind.DATA, pack.pack_id)
        if path is None or pack.is_meta or info.plain_len > BLOCK_MAX or not self._processes:
            return None
        process = self._recent.pop(block_no, None)  # has it decoded still, maybe
        if process is None:
            process = min(self._processes, key=lambda one: len(one.jobs))
        source = InPack(os.fsencode(path), info.offset, info.sealed_len)
        message_len = len(source.path) + _room_of(len(info.chunk_ids), len(parts))
        if process.unanswered_len + message_len > PIPE_LEN or len(process.jobs) >= JOBS_MAX:
            return None
        self._recent[block_no] = process
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        job = Job()
        self._next_job += 1
        process.jobs[self._next_job] = job, message_len
        process.unanswered_len += message_len
        self.decoded += 1
        process.decoder.send(
            self._next_job,
            source,
            block_facts(info, pack),
            [part._replace(start=ring.start + part.start) for part in parts],
        )
        return job

    async def wait_for(self, job: Job) -> None:
        """Return when *job* is done, for better or worse."""
        if not job.is_done:
            self._settle()
        while not job.is_done:
            self._waiting += 1
            self._wanted.unpark_all()
            try:
                await self._landed.park()
            finally:
                self._waiting -= 1


def _room_of(chunks: int, parts: int) -> int:
    """Return the bytes of a message at most, the path apart."""
    return 200 + 40 * chunks + 24 * parts


def _close(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.decoder.close()
