"""Blocks become packs: compressed in order, gathered, sealed.

Owns when a pack is closed.  Knows neither store nor index: it is pure work on
bytes, so it can run in a process of its own (:mod:`coopfs.archive.packer_process`).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from coopfs.archive.effort import Effort
from coopfs.format.codec import Compressor
from coopfs.format.keys import PACK_ROLES, ArchiveKeys, Role, SigningKey
from coopfs.format.pack import PACK_TARGET, BlockDraft, BuiltPack, build_pack
from coopfs.format.sealing import TAG_LEN, padded_len
from coopfs.ids import PackId

COMPRESS_THREADS: Final = 2
QUEUED_BLOCKS: Final = 6  # per role, being compressed or waiting for those before them
PACKS_SEALING: Final = 2  # beside the one being filled: 16 MiB of drafts each
PACK_LEAST: Final = 12 << 20  # bytes; from here on a pack is closed where it needs no padding
PADDING_GOOD: Final = 48 << 10  # bytes of padding that are not worth waiting to avoid

Chunks = Sequence[tuple[bytes, int]]  # (id, length in bytes) in order
Allocate = Callable[[int], memoryview]
Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack ready to be stored; *free* must be called once *data* is needed no more."""

    pack_id: PackId
    data: memoryview
    header: bytes  # 64 bytes
    directory: bytes  # its body
    signature: bytes
    free: Callable[[], None]


class _Lane:
    """The open pack of one role."""

    def __init__(self) -> None:
        self.compressing: deque[Future[BlockDraft]] = deque()
        self.drafts: list[BlockDraft] = []
        self.sealed_len = 0  # bytes of sealed blocks and their directory entries


class Packer:
    """Turns blocks into packs, in the order given.  One thread uses it."""

    def __init__(
        self,
        keys: ArchiveKeys,
        signer: SigningKey,
        threads: int,
        effort: Effort,
        allocate: Allocate,
        on_pack: Callable[[BuiltPack], None],
    ) -> None:
        """Compress in *threads* threads and seal in others, or all at once with 0.

        *allocate* gives room for a pack, *on_pack* gets it when it is sealed; the
        thread that seals a pack calls one, then the other.
        """
        self._keys = keys
        self._signer = signer
        self._effort = effort
        self._allocate = allocate
        self._on_pack = on_pack
        self._lanes = {role: _Lane() for role in PACK_ROLES}
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads, "coopfs-compress") if threads else None
        # Apart, or nothing would be compressed while 16 MiB are sealed and hashed.
        self._sealer = ThreadPoolExecutor(PACKS_SEALING, "coopfs-seal") if threads else None
        self._sealing: deque[Future[None]] = deque()

    def add_block(
        self, role: Role, plain: bytes | memoryview, chunks: Chunks, done: Callable[[], None]
    ) -> None:
        """Take a block in; *done* is called, by any thread, when *plain* is needed no more."""
        lane = self._lanes[role]
        if self._pool is None:
            job: Future[BlockDraft] = Future()
            job.set_result(self._compress(plain, chunks, done))
        else:
            job = self._pool.submit(self._compress, plain, chunks, done)
        lane.compressing.append(job)
        while lane.compressing and (
            lane.compressing[0].done() or len(lane.compressing) > QUEUED_BLOCKS
        ):
            self._take_draft(role, lane)

    def finish(self) -> None:
        """Seal what was taken in, full packs or not; on return *on_pack* had them all."""
        for role, lane in self._lanes.items():
            while lane.compressing:
                self._take_draft(role, lane)
            if lane.drafts:
                self._close_pack(role, lane)
        while self._sealing:
            self._sealing.popleft().result()

    def _compress(
        self, plain: bytes | memoryview, chunks: Chunks, done: Callable[[], None]
    ) -> BlockDraft:
        compressor: Compressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = Compressor()
        codec, stored = compressor.compress(plain, self._effort.level)
        if stored is plain:
            stored = bytes(plain)
        done()
        return BlockDraft(codec, stored, len(plain), tuple(chunks))

    def _take_draft(self, role: Role, lane: _Lane) -> None:
        draft = lane.compressing.popleft().result()
        lane.drafts.append(draft)
        lane.sealed_len += len(draft.stored) + TAG_LEN + 36 * len(draft.chunks) + 16
        if lane.sealed_len < PACK_LEAST:
            return
        padding = padded_len(lane.sealed_len + 512) - lane.sealed_len
        if lane.sealed_len >= PACK_TARGET or padding <= PADDING_GOOD:
            self._close_pack(role, lane)

    def _close_pack(self, role: Role, lane: _Lane) -> None:
        drafts, lane.drafts, lane.sealed_len = lane.drafts, [], 0
        if self._sealer is None:
            self._seal(role, drafts)
            return
        while len(self._sealing) >= PACKS_SEALING:
            self._sealing.popleft().result()
        self._sealing.append(self._sealer.submit(self._seal, role, drafts))

    def _seal(self, role: Role, drafts: Sequence[BlockDraft]) -> None:
        pack = build_pack(
            self._keys, self._signer, role, drafts, os.urandom(32), allocate=self._allocate
        )
        self._on_pack(pack)


def pack_here(
    keys: ArchiveKeys,
    signer: SigningKey,
    effort: Effort,
    blocks: Sequence[tuple[Role, Sequence[Piece], Chunks]],
) -> Iterator[FinishedPack]:
    """Pack a few blocks at once, in this thread; all of it is in memory twice."""
    finished: list[BuiltPack] = []
    packer = Packer(keys, signer, 0, effort, _plain_room, finished.append)
    for role, pieces, chunks in blocks:
        packer.add_block(role, b"".join(pieces), chunks, _nothing)
    packer.finish()
    for pack in finished:
        yield FinishedPack(
            pack.pack_id,
            pack.data,
            pack.header.encode(),
            pack.directory.body,
            pack.directory.signature,
            _nothing,
        )


def _plain_room(size: int) -> memoryview:
    return memoryview(bytearray(size))


def _nothing() -> None:
    """Keep nothing: the memory is this process's own."""
