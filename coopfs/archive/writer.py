"""Chunks on their way in: dedup, blocks, packs, store, index object.

The reading thread hashes and dedups; blocks are compressed by a small pool of
threads, packs sealed and put by another.  Every queue is bounded, so memory is.
Commit order: packs durable, then the index object, then local state; a crash
leaves unreferenced packs, never a dangling reference.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from blake3 import blake3

from coopfs.archive.archive import Archive
from coopfs.errors import ObjectNotFound
from coopfs.format.body import seal_body
from coopfs.format.codec import Compressor
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role, SigningKey
from coopfs.format.nodes import TreeNode, decode_tree_node
from coopfs.format.pack import (
    PACK_ROLES,
    PACK_TARGET,
    BlockDraft,
    build_pack,
    decode_directory,
)
from coopfs.format.sealing import TAG_LEN, decode_header, padded_len
from coopfs.ids import ChunkId, PackId, SpanNodeId, TreeId, short_hex
from coopfs.store.base import Kind

COMPRESS_THREADS: Final = 2
QUEUED_BLOCKS: Final = 12  # per lane, being compressed or waiting for their pack
PACKS_IN_FLIGHT: Final = 2  # being sealed or put: 2 x (16 MiB of drafts + 16 MiB sealed)
PACK_LEAST: Final = 12 << 20  # bytes; from here on a pack is closed where it needs no padding
PADDING_GOOD: Final = 48 << 10  # bytes of padding that are not worth waiting to avoid

Piece = bytes | memoryview


class _Lane:
    """The open block and the open pack of one role."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.pieces: list[Piece] = []
        self.chunks: list[tuple[bytes, int]] = []
        self.plain_len = 0  # bytes in the open block
        self.whole: object = None  # the buffer all pieces are views of, one after the other
        self.whole_start = 0  # where in it they begin
        self.whole_end = 0
        self.compressing: deque[Future[BlockDraft]] = deque()
        self.drafts: list[BlockDraft] = []
        self.pack_len = 0  # bytes of sealed blocks and their directory entries
        self.chunk_count = 0  # in drafts

    def take_drafts(self) -> list[BlockDraft]:
        """Start a new pack; return the finished one's blocks."""
        drafts = self.drafts
        self.drafts, self.pack_len, self.chunk_count = [], 0, 0
        return drafts


class ArchiveWriter:
    """Adds chunks to an archive.  One thread uses it; it runs others.

    As a context manager it stops its threads; what was not flushed is then in no
    index object yet, and is found again by the next writer on this host.
    """

    def __init__(self, archive: Archive, signer: SigningKey) -> None:
        """Take over what an interrupted run has left behind."""
        self._archive = archive
        self._keys = archive.keys
        self._chunk_id_key = archive.keys.chunk_id_key
        self._signer = signer
        self._block_target = archive.config.block_len
        self._lanes = {role: _Lane(role) for role in PACK_ROLES}
        self._data = self._lanes[Role.DATA]
        self._meta = self._lanes[Role.META]
        self._compressors = threading.local()
        self._compress_pool = ThreadPoolExecutor(COMPRESS_THREADS, "coopfs-compress")
        self._put_pool = ThreadPoolExecutor(PACKS_IN_FLIGHT, "coopfs-put")
        self._putting: deque[Future[IndexedPack]] = deque()
        self._packs: list[IndexedPack] = []  # durable, not in an index object yet
        self._pending: set[bytes] = set()  # ids saved since the last flush
        self._unsent: dict[bytes, tuple[bool, bytes]] = {}  # nodes since then: (is tree, bytes)
        self.new_len = 0  # bytes of chunks that the archive did not have
        self.stored_len = 0  # bytes put into the store
        self.unflushed_len = 0  # bytes stored since the last flush
        self._adopt_leftovers()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; work not begun is dropped."""
        self._compress_pool.shutdown(wait=True, cancel_futures=True)
        self._put_pool.shutdown(wait=True, cancel_futures=True)

    # --- saving ---------------------------------------------------------------

    def save_chunk(self, content: Piece, at: int = -1) -> ChunkId:
        """Store a chunk of file content unless the archive has it; return its id.

        A view must stay valid and unchanged; it is let go when its block is packed.
        *at* is where in its buffer a view begins: neighbours are then not copied.

        Raises:
            StoreError: an earlier pack could not be put.
        """
        # As keys.chunk_id(), without the call: a source tree has 100,000 of them.
        chunk_id = ChunkId(blake3(content, key=self._chunk_id_key).digest())
        if chunk_id not in self._pending and not self._archive.index.has(chunk_id):
            self._append(self._data, chunk_id, content, at)
        return chunk_id

    def save_tree_node(self, node: bytes) -> TreeId:
        """Store an encoded tree node unless the archive has it; return its id."""
        tree_id = self._keys.tree_id(node)
        self._save_node(tree_id, node, is_tree=True)
        return tree_id

    def save_span_node(self, node: bytes) -> SpanNodeId:
        """Store an encoded span node unless the archive has it; return its id."""
        node_id = self._keys.span_node_id(node)
        self._save_node(node_id, node, is_tree=False)
        return node_id

    def _save_node(self, node_id: bytes, node: bytes, *, is_tree: bool) -> None:
        if node_id not in self._pending and not self._archive.index.has(node_id):
            self._unsent[node_id] = (is_tree, node)
            self._append(self._meta, node_id, node)

    def has(self, chunk_id: bytes) -> bool:
        """Tell whether a chunk is stored in a usable pack, or on its way."""
        return chunk_id in self._pending or self._archive.index.has(chunk_id)

    @property
    def pending_count(self) -> int:
        """How many chunks are in no index object yet; bounds a flush's memory."""
        return len(self._pending)

    def _append(self, lane: _Lane, chunk_id: bytes, content: Piece, at: int = -1) -> None:
        length = len(content)
        self._pending.add(chunk_id)
        self.new_len += length
        if lane.pieces and lane.plain_len + length > self._block_target + self._block_target // 4:
            self._close_block(lane)
        if at >= 0 and isinstance(content, memoryview):
            if not lane.pieces:
                lane.whole, lane.whole_start, lane.whole_end = content.obj, at, at
            if lane.whole is content.obj and lane.whole_end == at:
                lane.whole_end = at + length
            else:
                lane.whole = None
        else:
            lane.whole = None
        lane.pieces.append(content)
        lane.chunks.append((chunk_id, length))
        lane.plain_len += length
        if lane.plain_len >= self._block_target:
            self._close_block(lane)

    # --- blocks and packs -----------------------------------------------------

    def _close_block(self, lane: _Lane) -> None:
        if not lane.pieces:
            return
        if isinstance(lane.whole, bytes):
            lane.pieces = [memoryview(lane.whole)[lane.whole_start : lane.whole_end]]
        lane.whole = None
        job = self._compress_pool.submit(self._compress, lane.pieces, tuple(lane.chunks))
        lane.compressing.append(job)
        lane.pieces, lane.chunks, lane.plain_len = [], [], 0
        while lane.compressing and (
            lane.compressing[0].done() or len(lane.compressing) > QUEUED_BLOCKS
        ):
            self._take_draft(lane)

    def _compress(
        self, pieces: Sequence[Piece], chunks: tuple[tuple[bytes, int], ...]
    ) -> BlockDraft:
        compressor: Compressor | None = getattr(self._compressors, "compressor", None)
        if compressor is None:
            compressor = self._compressors.compressor = Compressor()
        plain = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        codec, stored = compressor.compress(plain)
        return BlockDraft(codec, stored, len(plain), chunks)

    def _take_draft(self, lane: _Lane) -> None:
        draft = lane.compressing.popleft().result()
        lane.drafts.append(draft)
        lane.chunk_count += len(draft.chunks)
        lane.pack_len += len(draft.stored) + TAG_LEN + 36 * len(draft.chunks) + 16
        if lane.pack_len < PACK_LEAST:
            return
        padding = padded_len(lane.pack_len + 512) - lane.pack_len
        if lane.pack_len >= PACK_TARGET or padding <= PADDING_GOOD:
            self._close_pack(lane)

    def _close_pack(self, lane: _Lane) -> None:
        drafts = lane.take_drafts()
        if not drafts:
            return
        while len(self._putting) >= PACKS_IN_FLIGHT:
            self._take_pack()
        self._putting.append(self._put_pool.submit(self._seal_and_put, lane.role, drafts))

    def _take_pack(self) -> None:
        pack = self._putting.popleft().result()
        self._packs.append(pack)
        self.stored_len += pack.size
        self.unflushed_len += pack.size

    def _seal_and_put(self, role: Role, drafts: Sequence[BlockDraft]) -> IndexedPack:
        built = build_pack(self._keys, self._signer, role, drafts, os.urandom(32))
        self._archive.store.put(Kind.DATA, built.pack_id, built.data)
        # Noted only when durable: whatever happens now, it is never sent again.
        with self._archive.state.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO unindexed_packs VALUES (?, ?, ?, ?, ?)",
                (
                    built.pack_id,
                    len(built.data),
                    built.header.encode(),
                    built.directory.body,
                    built.directory.signature,
                ),
            )
        return IndexedPack(built.pack_id, len(built.data), built.header, built.directory)

    # --- making it count ------------------------------------------------------

    def flush(self) -> None:
        """Store everything saved so far and put an index object that names it.

        On return every chunk saved so far is durable and found through the index.

        Raises:
            StoreError: something could not be put; what could is not sent again.
        """
        for lane in self._lanes.values():
            self._close_block(lane)
        for lane in self._lanes.values():
            while lane.compressing:
                self._take_draft(lane)
            self._close_pack(lane)
        while self._putting:
            self._take_pack()
        if self._packs:
            self._put_index(tuple(self._packs))
        self._packs.clear()
        self._pending.clear()
        self._unsent.clear()
        self.unflushed_len = 0

    def _put_index(self, packs: tuple[IndexedPack, ...]) -> None:
        archive = self._archive
        content = IndexObject(packs, (), (), self._signer.writer_id, time.time_ns())
        sealed = seal_body(
            self._keys,
            self._signer,
            Role.INDEX,
            archive.config.archive_id,
            encode_index(content),
            os.urandom(32),
        )
        # Index only after every put() returned: a crash before leaves packs that no
        # index names, never a location that does not exist.
        archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)
        self.stored_len += len(sealed.data)
        archive.index.add_object(sealed.object_id, content)
        with archive.state.transaction() as connection:
            connection.executemany(
                "DELETE FROM unindexed_packs WHERE pack_id = ?", [(p.pack_id,) for p in packs]
            )
            connection.execute("DELETE FROM unsent_nodes")

    # --- after an interruption ------------------------------------------------

    def salvage(self) -> set[bytes]:
        """After a failure: keep locally what the next run needs; return what is durable.

        The ids returned are of chunks in packs that were put before the store
        failed; unsent tree and span nodes are kept in the local state.
        """
        self._compress_pool.shutdown(wait=True, cancel_futures=True)
        self._put_pool.shutdown(wait=True)
        for job in self._putting:
            if not job.cancelled() and job.exception() is None:
                self._packs.append(job.result())
        self._putting.clear()
        with self._archive.state.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO unsent_nodes VALUES (?, ?, ?)",
                [(node_id, is_tree, node) for node_id, (is_tree, node) in self._unsent.items()],
            )
        durable = {chunk_id for pack in self._packs for chunk_id in pack.directory.chunk_ids}
        return durable | self._unsent.keys()

    def unsent_tree_node(self, tree_id: TreeId) -> TreeNode | None:
        """Return a tree node saved since the last flush, or None."""
        kept = self._unsent.get(tree_id)
        return decode_tree_node(kept[1], "unsent tree") if kept and kept[0] else None

    def _adopt_leftovers(self) -> None:
        """Go on with packs and nodes of a run that did not come to its index object."""
        connection = self._archive.state.connection
        rows = connection.execute("SELECT * FROM unindexed_packs").fetchall()
        for pack_id, size, header, body, signature in rows:
            what = f"pack {short_hex(pack_id)}"
            try:
                is_whole = self._archive.store.size(Kind.DATA, pack_id) == size
            except ObjectNotFound:
                is_whole = False
            if not is_whole:
                connection.execute("DELETE FROM unindexed_packs WHERE pack_id = ?", (pack_id,))
                continue
            directory = decode_directory(body, signature, what)
            if directory.writer_id != self._signer.writer_id:
                continue
            self._packs.append(
                IndexedPack(
                    PackId(pack_id), size, decode_header(header, what, PACK_ROLES), directory
                )
            )
            self._pending.update(directory.chunk_ids)
        nodes = connection.execute("SELECT is_tree, node FROM unsent_nodes").fetchall()
        for is_tree, node in nodes:
            if is_tree:
                self.save_tree_node(node)
            else:
                self.save_span_node(node)
        if self._packs or nodes:
            # At once, so that trees and chunks of the interrupted run are found by look-up.
            self.flush()


class DryRunWriter(ArchiveWriter):
    """Counts what an :class:`ArchiveWriter` would store, and stores nothing."""

    def _append(self, lane: _Lane, chunk_id: bytes, content: Piece, at: int = -1) -> None:
        self._pending.add(chunk_id)
        self.new_len += len(content)

    def _adopt_leftovers(self) -> None:
        """Leave them to the next real run."""

    def flush(self) -> None:
        """Nothing was stored."""

    def salvage(self) -> set[bytes]:
        """Nothing was stored."""
        return set()
