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
from contextlib import suppress
from typing import Final

import trio

from coopfs.archive.archive import Archive
from coopfs.archive.child import SharedMemory
from coopfs.archive.decoder_process import DecoderProcess, InPack, Part
from coopfs.archive.index_rows import block_facts
from coopfs.errors import CoopfsError
from coopfs.store.base import Kind

RING_LEN: Final = 16 << 20  # bytes
RINGS: Final = 4  # files read in order at once; more are decoded in threads
PROCESSES_MAX: Final = 3
BLOCK_MAX: Final = 4 << 20  # bytes; a larger one would be decoded for each part of it again
RECENT: Final = 8  # blocks
IDLE_S: Final = 10.0  # nobody has had a ring for so long: the processes end

log = logging.getLogger(__name__)


class Job:
    """One block that a process decodes."""

    __slots__ = ("is_done", "is_good")

    def __init__(self) -> None:
        """Nothing has come of it yet."""
        self.is_done = False
        self.is_good = False  # it is where it should be, every chunk verified


class Ring:
    """A part of the shared memory, for one open file."""

    __slots__ = ("jobs", "start")

    def __init__(self, start: int) -> None:
        """*start* is its place in the shared memory."""
        self.start = start
        self.jobs: list[Job] = []  # that may still write to it, when it is given back


class _Process:
    """A process and what it was asked for."""

    def __init__(self, decoder: DecoderProcess) -> None:
        self.decoder = decoder
        self.jobs: dict[int, Job] = {}


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
        self._shared = memoryview(b"")
        self._rings: list[Ring] = []  # that nobody has
        self._taken = 0
        self._used = 0.0  # when a ring was given back last, as trio.current_time()
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
        return any(all(job.is_done for job in ring.jobs) for ring in self._rings)

    def _start(self) -> None:
        started: list[DecoderProcess] = []
        try:
            with SharedMemory(RINGS * RING_LEN) as memory:
                while len(started) < self._count:
                    started.append(DecoderProcess(self._archive.keys, memory))
        except CoopfsError as exc:
            log.warning("%s: large files are decoded in threads", exc)
            for decoder in started:
                decoder.close()
            self._count = 0
            return
        self._shared = memory.view
        self._recent.clear()
        self._processes = [_Process(decoder) for decoder in started]
        self._rings = [Ring(number * RING_LEN) for number in range(RINGS)]
        self._taken = 0
        self._used = trio.current_time()
        self._nursery.start_soon(self._employ)

    async def _employ(self) -> None:
        """Listen to the processes; end them when nobody has a ring any more."""
        processes = self._processes
        try:
            async with trio.open_nursery() as listening:
                for process in processes:
                    listening.start_soon(self._listen, process)
                while not self._ended.is_set() and (
                    self._taken or trio.current_time() - self._used < IDLE_S
                ):
                    with trio.move_on_after(IDLE_S / 4):
                        await self._ended.wait()
                self._processes = []
                listening.cancel_scope.cancel()
        finally:
            for process in processes:
                process.decoder.close()

    async def _listen(self, process: _Process) -> None:
        while not process.decoder.is_dead:
            if self._waiting:
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(process.decoder.answers_fd)
                self._settle(process)
            else:  # what has come by then is found by whoever looks for it
                await self._wanted.park()

    def _settle(self, process: _Process) -> None:
        """Take note of what *process* has done."""
        while process.jobs and process.decoder.has_news:
            decoded = process.decoder.receive()
            if decoded is None:
                log.warning("a process that decodes has died: large files are decoded in threads")
                self._give_up()
                break
            job = process.jobs.pop(decoded.job, None)
            if job is not None:
                job.is_done, job.is_good = True, decoded.bad == frozenset()
        self._landed.unpark_all()

    def _give_up(self) -> None:
        """Do without processes from now on: one has died, and the next may, too."""
        self._count = 0
        for process in self._processes:
            if not process.decoder.is_dead:
                trio.lowlevel.notify_closing(process.decoder.answers_fd)
            process.decoder.close()  # nothing writes to a ring any more
            for job in process.jobs.values():
                job.is_done = True
            process.jobs.clear()
        self._processes = []
        self._ended.set()
        self._landed.unpark_all()
        self._wanted.unpark_all()

    # --- what readers use -----------------------------------------------------

    def take_ring(self) -> tuple[Ring, memoryview] | None:
        """Return a ring and its bytes, for :meth:`give_back`; None: there is none."""
        if not self.prepare():
            return None
        for ring in self._rings:
            if all(job.is_done for job in ring.jobs):
                self._rings.remove(ring)
                self._taken += 1
                ring.jobs = []
                return ring, self._shared[ring.start : ring.start + RING_LEN]
        return None

    def give_back(self, ring: Ring, jobs: list[Job]) -> None:
        """Let others have *ring* once *jobs*, asked for by its owner, are done."""
        self._taken -= 1
        self._used = trio.current_time()
        ring.jobs = jobs
        self._rings.append(ring)

    def decode(self, ring: Ring, block_no: int, parts: Sequence[Part]) -> Job | None:
        """Have *parts* of a block put into *ring*; their starts count from its own.

        None where that is not possible, as for a block of metadata.
        """
        info = self._archive.index.block(block_no)
        pack = self._archive.index.pack(info.pack_no)
        path = self._archive.store.file_of(Kind.DATA, pack.pack_id)
        if path is None or pack.is_meta or info.plain_len > BLOCK_MAX or not self._processes:
            return None
        process = self._recent.pop(block_no, None)  # has it decoded still, maybe
        if process is None:
            process = min(self._processes, key=lambda one: len(one.jobs))
        self._recent[block_no] = process
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        self._next_job += 1
        job = process.jobs[self._next_job] = Job()
        self.decoded += 1
        process.decoder.send(
            self._next_job,
            InPack(path, info.offset, info.sealed_len),
            block_facts(info, pack),
            [part._replace(start=ring.start + part.start) for part in parts],
        )
        return job

    async def wait_for(self, job: Job) -> None:
        """Return when *job* is done, for better or worse."""
        if not job.is_done:
            for process in self._processes:
                self._settle(process)
        while not job.is_done:
            self._waiting += 1
            self._wanted.unpark_all()
            try:
                await self._landed.park()
            finally:
                self._waiting -= 1
