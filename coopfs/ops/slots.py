"""Blocks decoded by a process of its own: which slot of its memory holds which block.

Owns the slots.  Blocks that nobody waits for any more stay in theirs until one is
needed, oldest first: a snapshot of a long series takes a little from many packs in turn.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.blocks import Block
from coopfs.archive.child import SharedMemory
from coopfs.archive.decoder_process import DecoderProcess, InMemory, Part
from coopfs.archive.index_rows import block_facts
from coopfs.errors import CoopfsError
from coopfs.format.sealing import TAG_LEN

SLOTS_LEN: Final = 40 << 20  # bytes of plain blocks kept
INLETS_LEN: Final = 20 << 20  # bytes of sealed blocks on their way
SLOTS_LEAST: Final = 4  # of either
_PAGE: Final = 4096


class Held:
    """A block that somebody has announced, or that lies in a slot still."""

    __slots__ = (
        "bad", "block_no", "data", "inlet", "is_done", "job", "plain_len", "slot", "takers",
    )  # fmt: skip

    def __init__(self, block_no: int, plain_len: int) -> None:
        """Nothing is asked for yet."""
        self.block_no = block_no
        self.plain_len = plain_len  # bytes
        self.takers = 0  # announced and not yet taken
        # What fetches it, None before it is asked for; the result is None for a block in a slot.
        self.job: Future[list[tuple[int, Block]] | None] | None = None
        self.slot: int | None = None  # of the process's memory, where that decodes it
        self.inlet: int | None = None  # until it is decoded
        self.is_done = False  # of one in a slot: decoded, or failed
        self.data: bytes | bytearray | memoryview | None = None  # None: not there yet, or failed
        self.bad: frozenset[int] = frozenset()  # offsets of chunks that are not what they should be


class Slots:
    """One thread uses it, except :meth:`fetch`."""

    def __init__(self, archive: Archive) -> None:
        """Start the process; where that fails, no block is ever given to it."""
        self._archive = archive
        self._process: DecoderProcess | None = None
        config = archive.config
        # A block is closed once it is full; the last chunk may reach beyond that.
        block_max = config.block_len + max(config.block_len >> 3, config.chunker.max_len)
        self._block_max = block_max
        self._room = -(-(block_max + TAG_LEN) // _PAGE) * _PAGE
        slots = max(SLOTS_LEAST, SLOTS_LEN // block_max)
        inlets = max(SLOTS_LEAST, INLETS_LEN // block_max)
        self._inlets_start = slots * self._room
        self._free = list(range(slots))
        self._free_inlets = list(range(inlets))
        self._used: dict[int, Held] = {}  # by slot
        self._idle: OrderedDict[int, Held] = OrderedDict()  # by block; decoded, nobody waits
        self._unsent: set[int] = set()  # slots whose block could not be fetched
        self._unsent_lock = threading.Lock()
        with (
            suppress(CoopfsError),  # then the caller's threads decode
            SharedMemory((slots + inlets) * self._room) as memory,
        ):
            self._shared = memory.view
            self._process = DecoderProcess(archive.keys, memory)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def give(self, run: Sequence[Held]) -> bool:
        """Give each block of *run* a slot, to be filled by :meth:`fetch`; False: not possible."""
        process = self._process
        if process is None or not process.is_ready:
            return False
        index = self._archive.index
        for held in run:
            info = index.block(held.block_no)
            if max(info.plain_len, info.sealed_len) > self._block_max:
                return False
            if index.pack(info.pack_no).is_meta:
                return False  # no file content: not what this process verifies
        while process.has_news and self._receive(process):
            pass
        if len(self._free_inlets) < len(run):
            return False
        while len(self._free) < len(run):
            if not self._idle:
                return False
            self._release(self._idle.popitem(last=False)[1])
        for held in run:
            held.slot, held.inlet = self._free.pop(), self._free_inlets.pop()
            self._used[held.slot] = held
        return True

    def fetch(self, run: Sequence[Held]) -> None:
        """Fetch sealed blocks and hand them to the process; any thread may.

        Raises as ``BlockReader.fetch_sealed``; what comes after the failure is not sent.
        """
        process = self._process
        places = [(h.inlet, h.slot) for h in run if h.inlet is not None and h.slot is not None]
        try:
            if process is not None:
                fetched = self._archive.blocks.fetch_sealed([held.block_no for held in run])
                for info, pack, sealed in fetched:
                    inlet, slot = places[0]
                    start = self._inlets_start + inlet * self._room
                    self._shared[start : start + len(sealed)] = sealed
                    plain = Part(0, slot * self._room, info.plain_len)
                    process.send(
                        slot, InMemory(start, len(sealed)), block_facts(info, pack), [plain]
                    )
                    del places[0]
        finally:
            with self._unsent_lock:
                self._unsent.update(slot for _, slot in places)

    def wait_for(self, held: Held) -> None:
        """Return when the block is decoded; its data stays None when it could not be."""
        process = self._process
        while not held.is_done and process is not None and self._receive(process):
            pass

    def _receive(self, process: DecoderProcess) -> bool:
        """Take note of the next block that is done; False when the process has died."""
        decoded = process.receive()
        if decoded is None:
            return False
        done = self._used[decoded.job]
        done.is_done = True
        self._free_inlet(done)
        if decoded.bad is not None:
            start = decoded.job * self._room
            done.data, done.bad = self._shared[start : start + done.plain_len], decoded.bad
        if not done.takers:
            self.leave(done)
        return True

    def leave(self, held: Held) -> None:
        """Note that nobody waits for the block any more."""
        with self._unsent_lock:
            is_unsent = held.slot in self._unsent
        if is_unsent or (held.is_done and held.data is None):
            self._release(held)
        elif held.is_done:
            twin = self._idle.pop(held.block_no, None)  # asked for again while under way
            if twin is not None:
                self._release(twin)
            self._idle[held.block_no] = held
        # else: its slot is taken until the process is done with it

    def revive(self, block_no: int) -> Held | None:
        """Return a block that lies in a slot still, for somebody waits for it again."""
        return self._idle.pop(block_no, None)

    def _free_inlet(self, held: Held) -> None:
        if held.inlet is not None:
            self._free_inlets.append(held.inlet)
            held.inlet = None

    def _release(self, held: Held) -> None:
        self._free_inlet(held)
        slot = held.slot
        if slot is not None and self._used.pop(slot, None) is not None:
            held.data = None
            self._free.append(slot)
            with self._unsent_lock:
                self._unsent.discard(slot)
