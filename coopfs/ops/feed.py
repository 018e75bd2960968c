"""Chunks that are about to be needed: their blocks are fetched and decoded ahead.

Owns the window of blocks between what a reader has announced and what it has taken.
Readers announce chunks in the order in which they will take them, which is close to
the order of the packs: a snapshot's walk stored them in that order.  Neighbouring
blocks are fetched by one request; memory is bounded by the window, whatever the size
of what is read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Self

from coopfs.archive.archive import Archive
from coopfs.archive.blocks import Block
from coopfs.archive.index_rows import ChunkLocation
from coopfs.errors import ChunkMissing, DataError, ObjectNotFound
from coopfs.format.tree import Entry, Span
from coopfs.ids import ChunkId, short_hex
from coopfs.ops.slots import Held, Slots

# Bytes of blocks announced and not yet taken.  Over a line it is two times what 1 Gbit/s
# holds in 100 ms; locally more than this gains nothing.
WINDOW_LEN_LOCAL: Final = 16 << 20
WINDOW_LEN_REMOTE: Final = 32 << 20
# Bytes of blocks decoded by one thread at a time.  Over a line one request must be worth
# its round trip; locally small runs keep the threads evenly busy.
RUN_LEN_LOCAL: Final = 4 << 20
RUN_LEN_REMOTE: Final = 8 << 20
# Decoding a block costs ~1.5 ms of CPU without the interpreter lock, writing its files
# about as much: one thread more than that gains nothing on a local store.  Over a line
# the threads mostly wait.
THREADS_LOCAL: Final = min(2, os.cpu_count() or 1)
THREADS_REMOTE: Final = 4
PROCESS_LEN: Final = 64 << 20  # bytes; below, a process of its own would start too late
PIECES_AHEAD: Final = 4096  # of a file, holes included
HOLE_PIECE: Final = bytes(1 << 20)


class BlockFeed:
    """See the module; one thread announces and takes, others decode.

    Use it as a context manager.
    """

    def __init__(self, archive: Archive, *, expected_len: int = 0) -> None:
        """Start nothing before something is announced, unless much is expected.

        *expected_len*: bytes that will be read into many small files; the decoding then
        goes to a process of its own once that has started.
        """
        self._archive = archive
        self._locate = archive.index.first_location
        is_local = archive.store.is_local
        self._run_len = RUN_LEN_LOCAL if is_local else RUN_LEN_REMOTE
        self._window_len = WINDOW_LEN_LOCAL if is_local else WINDOW_LEN_REMOTE
        self._pool = ThreadPoolExecutor(
            THREADS_LOCAL if is_local else THREADS_REMOTE, thread_name_prefix="decode"
        )
        self._slots = Slots(archive) if expected_len >= PROCESS_LEN else None
        self._held: dict[int, Held] = {}
        self._held_len = 0  # bytes
        self._pending: list[Held] = []  # announced, not yet asked for
        self._pending_len = 0  # bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._held.clear()
        if self._slots is not None:
            self._slots.close()

    @property
    def is_full(self) -> bool:
        """Whether the reader should take before it announces more."""
        return self._held_len >= self._window_len

    def announce(self, chunk_id: ChunkId) -> ChunkLocation | None:
        """Say that *chunk_id* will be taken, once; return what :meth:`take` wants to know.

        None when the index does not know it: then taking it fails.
        """
        try:
            location = self._locate(chunk_id)
            held = self._held.get(location.block_no)
            if held is None:
                held = self._hold(location.block_no)
        except ChunkMissing:
            return None
        held.takers += 1
        return location

    def _hold(self, block_no: int) -> Held:
        held = self._slots.revive(block_no) if self._slots is not None else None
        if held is None:
            held = Held(block_no, self._archive.index.block(block_no).plain_len)
            self._pending.append(held)
            self._pending_len += held.plain_len
        self._held[block_no] = held
        self._held_len += held.plain_len
        if self._pending_len >= self._run_len:
            self._ask()
        return held

    def _ask(self) -> None:
        """Have what is pending decoded, neighbours together."""
        # Blocks of a pack are numbered in its order.
        pending = sorted(self._pending, key=lambda held: held.block_no)
        self._pending, self._pending_len = [], 0
        start = 0
        for place in range(1, len(pending) + 1):
            if place == len(pending) or pending[place].block_no != pending[place - 1].block_no + 1:
                self._ask_for(pending[start:place])
                start = place

    def _ask_for(self, run: list[Held]) -> None:
        job: Future[list[tuple[int, Block]] | None]
        if self._slots is not None and self._slots.give(run):
            job = self._pool.submit(self._slots.fetch, run)
        else:
            job = self._pool.submit(self._load, [held.block_no for held in run])
        for held in run:
            held.job = job

    def _load(self, block_nos: list[int]) -> list[tuple[int, Block]]:
        return list(zip(block_nos, self._archive.blocks.load_run(block_nos), strict=True))

    def take(self, chunk_id: ChunkId, location: ChunkLocation | None) -> memoryview | bytes:
        """Return a chunk that was announced, verified; valid until more is announced.

        Raises:
            ChunkMissing, ChunkCorrupt: no location has it whole.
            StoreUnavailable: the partner cannot be reached.
        """
        if location is None:
            return self._archive.load_chunk(chunk_id)
        block_no, offset, length = location
        held = self._held[block_no]
        data = held.data
        if data is None:
            data = self._await(held)
        self.drop(location)
        if data is None or offset in held.bad:
            return self._archive.load_chunk(chunk_id)  # alone, and wherever else it lies
        return memoryview(data)[offset : offset + length]

    def drop(self, location: ChunkLocation | None) -> None:
        """Take back one announcement; nothing happens once the feed is closed."""
        held = None if location is None else self._held.get(location.block_no)
        if held is None:
            return
        held.takers -= 1
        if held.takers:
            return
        del self._held[held.block_no]
        self._held_len -= held.plain_len
        if held.job is None:
            self._pending.remove(held)
            self._pending_len -= held.plain_len
        elif held.slot is not None and self._slots is not None:
            self._slots.leave(held)

    def _await(self, held: Held) -> bytes | bytearray | memoryview | None:
        """Wait for a block; None when it cannot be had, so that each chunk is tried alone."""
        if held.job is None:
            self._ask()
        if held.job is None:
            raise AssertionError("asking gave every pending block a job")
        try:
            blocks = held.job.result()
        except (DataError, ObjectNotFound):
            return None
        if blocks is not None:
            for block_no, block in blocks:
                other = self._held.get(block_no)
                if other is not None and other.job is held.job:
                    other.data, other.bad = block.data, block.bad
        elif self._slots is not None:
            self._slots.wait_for(held)
        return held.data


class Piece(NamedTuple):
    """A span of a file and where its chunk was found."""

    length: int  # bytes
    chunk_id: ChunkId | None  # None: a hole
    location: ChunkLocation | None


def read_content(archive: Archive, feed: BlockFeed, entry: Entry) -> Iterator[memoryview | bytes]:
    """Yield the content of a file in order, in pieces of at most a chunk; holes as zeros.

    Raises:
        DataError: a chunk is missing or damaged; what was yielded before is right.
        StoreUnavailable: the partner cannot be reached.
    """
    if entry.inline is not None:
        yield entry.inline
        return
    for piece in _ahead(feed, archive.iter_spans(entry)):
        if piece.chunk_id is None:
            yield from _zeros(piece.length)
            continue
        yield checked_chunk(feed.take(piece.chunk_id, piece.location), piece.length, piece.chunk_id)


def checked_chunk(chunk: memoryview | bytes, length: int, chunk_id: ChunkId) -> memoryview | bytes:
    """Return *chunk* if it has the length its span says (DataError)."""
    if len(chunk) != length:
        raise DataError(
            f"chunk {short_hex(chunk_id)}: has {len(chunk)} bytes where the file says {length}; "
            'run "coopfs check --read-data"'
        )
    return chunk


def _ahead(feed: BlockFeed, spans: Iterable[Span]) -> Iterator[Piece]:
    waiting: deque[Piece] = deque()
    try:
        for length, chunk_id in spans:
            location = None if chunk_id is None else feed.announce(chunk_id)
            waiting.append(Piece(length, chunk_id, location))
            while waiting and (feed.is_full or len(waiting) > PIECES_AHEAD):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for piece in waiting:
            feed.drop(piece.location)


def _zeros(length: int) -> Iterator[memoryview | bytes]:
    whole, rest = divmod(length, len(HOLE_PIECE))
    for _ in range(whole):
        yield HOLE_PIECE
    if rest:
        yield memoryview(HOLE_PIECE)[:rest]
