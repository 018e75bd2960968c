"""Chunks on their way in: dedup, blocks, packs, store, index object.

The reading thread hashes and dedups; blocks are compressed and sealed by a process
of their own, packs put by a small pool of threads.  Every queue is bounded, so memory
is.  Commit order: packs durable, then the index object, then local state; a crash
leaves unreferenced packs, never a dangling reference.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from blake3 import blake3

from coopfs.archive.archive import Archive
from coopfs.archive.effort import Effort
from coopfs.archive.packer import FinishedPack, Piece, pack_here
from coopfs.archive.packer_process import PackerProcess
from coopfs.errors import ObjectNotFound
from coopfs.format.audit import audit_answers
from coopfs.format.body import seal_body
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import PACK_ROLES, Role, SigningKey
from coopfs.format.pack import decode_directory
from coopfs.format.sealing import decode_header
from coopfs.ids import ChunkId, PackId, SpanNodeId, TreeId, short_hex
from coopfs.store.base import Kind

AUDIT_ANSWERS: Final = 4  # a pack; an audit uses one of each pack it draws
PUT_THREADS: Final = 2
INDEX_CHUNKS: Final = 1 << 18  # in one index object: 10 MB, and 150 MB while it is taken in
MANY_CHUNKS: Final = 50_000  # the index object of so many takes 30 MB while it is made
SMALL_LEN: Final = 4 << 20  # bytes of new chunks; so few are not worth another process


class Lane:
    """The open block of one role."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.pieces: list[Piece] = []
        self.chunks: list[tuple[bytes, int]] = []
        self.plain_len = 0  # bytes in the open block


class ArchiveWriter:
    """Adds chunks to an archive.  One thread uses it; it runs others.

    As a context manager it stops them; what was not flushed is then in no index
    object yet, and is found again by the next writer on this host.
    """

    def __init__(
        self,
        archive: Archive,
        signer: SigningKey,
        *,
        compression: str | None = None,
        expects_much: bool = False,
    ) -> None:
        """Take over what an interrupted run has left behind.

        With *expects_much* the packing process is started at once, not when it is
        first needed.  *compression* is the settings' unless given.
        """
        self._archive = archive
        self._keys = archive.keys
        self._chunk_id_key = archive.keys.chunk_id_key
        self._signer = signer
        self._effort = Effort(
            compression or archive.settings.compression, is_near=archive.store.is_local
        )
        self._block_target = archive.config.block_len
        # A block is closed at the target; its last chunk may reach beyond it.
        self._block_max = self._block_target + max(
            self._block_target, archive.config.chunker.max_len
        )
        self._lanes = {role: Lane(role) for role in PACK_ROLES}
        self._data = self._lanes[Role.DATA]
        self._meta = self._lanes[Role.META]
        self._packer: PackerProcess | None = None
        self._waiting: list[tuple[Role, list[Piece], list[tuple[bytes, int]]]] = []
        self._put_pool = ThreadPoolExecutor(PUT_THREADS, "coopfs-put")
        self._putting: deque[Future[IndexedPack]] = deque()
        self._packs: list[IndexedPack] = []  # durable, not in an index object yet
        self._pending: set[bytes] = set()  # ids saved since the last flush
        self._unsent: dict[bytes, tuple[bool, bytes]] = {}  # nodes since then: (is tree, bytes)
        self.unsent_len = 0  # bytes of those, which are in memory
        self._adopted: list[bytes] = []  # nodes an earlier run could not send
        self._durable: set[bytes] | None = None  # chunks in packs; once the store has failed
        self.new_len = 0  # bytes of chunks that the archive did not have
        self.stored_len = 0  # bytes put into the store
        self.unflushed_len = 0  # bytes stored since the last flush
        self.flushed: set[PackId] = set()  # packs that are durable and in the index by now
        self._adopt_leftovers()
        if expects_much:
            self._start_packer()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what runs beside; work not begun is dropped."""
        self._put_pool.shutdown(wait=True, cancel_futures=True)
        self._stop_packer()

    def _stop_packer(self) -> None:
        if self._packer is not None:
            self._packer.close()
            self._packer = None

    # --- saving ---------------------------------------------------------------

    def save_chunk(self, content: Piece) -> ChunkId:
        """Store a chunk of file content unless the archive has it; return its id.

        A view must stay valid and unchanged; it is let go when its block is full.

        Raises:
            StoreError: an earlier pack could not be put.
        """
        # As keys.chunk_id(), without the call: a source tree has 100,000 of them.
        chunk_id = ChunkId(blake3(content, key=self._chunk_id_key).digest())
        if chunk_id not in self._pending and not self._archive.index.has(chunk_id):
            self._append(self._data, chunk_id, content)
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
            self.unsent_len += len(node)
            if self._durable is None:
                self._append(self._meta, node_id, node)

    def has(self, chunk_id: bytes) -> bool:
        """Tell whether a chunk is stored in a usable pack, or on its way."""
        return chunk_id in self._pending or self._archive.index.has(chunk_id)

    @property
    def pending_count(self) -> int:
        """How many chunks are in no index object yet; bounds a flush's memory."""
        return len(self._pending)

    def _append(self, lane: Lane, chunk_id: bytes, content: Piece) -> None:
        length = len(content)
        self._pending.add(chunk_id)
        self.new_len += length
        if length >= self._block_target:
            self._close_block(lane)  # a chunk of a block's size is a block alone
        lane.pieces.append(content)
        lane.chunks.append((chunk_id, length))
        lane.plain_len += length
        if lane.plain_len >= self._block_target:
            self._close_block(lane)

    # --- blocks and packs -----------------------------------------------------

    def _close_block(self, lane: Lane) -> None:
        if not lane.pieces:
            return
        pieces, chunks = lane.pieces, lane.chunks
        lane.pieces, lane.chunks, lane.plain_len = [], [], 0
        self._take_packs(wait=False)
        if sum(map(len, pieces)) > self._block_max:
            # A node with megabytes of extended attributes: no slot is made for that.
            for pack in self._pack_here([(lane.role, pieces, chunks)]):
                self._on_pack(pack)
        elif self._packer is None:
            self._waiting.append((lane.role, pieces, chunks))
            if len(self._waiting) * self._block_target >= SMALL_LEN:
                self._start_packer()
        else:
            self._packer.submit(lane.role, pieces, chunks)

    def _start_packer(self) -> None:
        self._packer = PackerProcess(
            self._keys, self._signer, self._block_max, self._effort, self._on_pack
        )
        for role, pieces, chunks in self._waiting:
            self._packer.submit(role, pieces, chunks)
        self._waiting.clear()

    def _pack_here(
        self, blocks: Sequence[tuple[Role, list[Piece], list[tuple[bytes, int]]]]
    ) -> Iterator[FinishedPack]:
        return pack_here(self._keys, self._signer, self._effort, blocks)

    def _on_pack(self, pack: FinishedPack) -> None:
        self._putting.append(self._put_pool.submit(self._put, pack))

    def _put(self, pack: FinishedPack) -> IndexedPack:
        what = f"pack {short_hex(pack.pack_id)}"
        header = decode_header(pack.header, what, PACK_ROLES)
        directory = decode_directory(pack.directory, pack.signature, what)
        store = self._archive.store
        answers: tuple[bytes, ...] = ()
        try:
            store.put(Kind.DATA, pack.pack_id, pack.data)
            size = len(pack.data)
            if store.can_prove:  # 5 ms of CPU an answer and pack, so only where it is of use
                answers = audit_answers(
                    self._keys.audit_key, pack.pack_id, [pack.data], AUDIT_ANSWERS
                )
            if header.role is Role.META:
                self._archive.blocks.keep_pack(pack.pack_id, directory, memoryview(pack.data))
        finally:
            pack.free()
        # Noted only when durable: whatever happens now, it is never sent again.
        with self._archive.state.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO unindexed_packs VALUES (?, ?, ?, ?, ?)",
                (pack.pack_id, size, pack.header, pack.directory, pack.signature),
            )
        return IndexedPack(pack.pack_id, size, header, directory, answers)

    def _take_packs(self, *, wait: bool) -> None:
        """Collect packs that are stored; with *wait* all that are on their way."""
        while self._putting and (wait or self._putting[0].done()):
            pack = self._putting.popleft().result()
            self._packs.append(pack)
            self.stored_len += pack.size
            self.unflushed_len += pack.size

    # --- making it count ------------------------------------------------------

    def flush(self) -> None:
        """Store everything saved so far and put an index object that names it.

        On return every chunk saved so far is durable and found through the index.

        Raises:
            StoreError: something could not be put; what could is not sent again.
        """
        for lane in self._lanes.values():
            self._close_block(lane)
        if self._packer is not None:
            self._packer.finish()
        for pack in self._pack_here(self._waiting):
            self._on_pack(pack)
        self._waiting.clear()
        self._take_packs(wait=True)
        if len(self._pending) >= MANY_CHUNKS:
            # Their index object takes as much memory as the packing; more blocks start it again.
            self._stop_packer()
        for packs in _by_index_object(self._packs):
            self._put_index(packs)
            self.flushed.update(pack.pack_id for pack in packs)
        self._forget_adopted()
        self._packs.clear()
        self._pending.clear()
        self._unsent.clear()
        self.unflushed_len = self.unsent_len = 0

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

    def _forget_adopted(self) -> None:
        """Drop the unsent nodes that are durable now; a run beside may have kept others."""
        if self._adopted:
            with self._archive.state.transaction() as connection:
                connection.executemany(
                    "DELETE FROM unsent_nodes WHERE node_id = ?",
                    [(node_id,) for node_id in self._adopted],
                )
            self._adopted.clear()

    # --- after an interruption ------------------------------------------------

    def salvage(self) -> None:
        """After a failure: find out what is durable; from here on nothing is sent any more.

        Nodes saved from now on are only kept, until :meth:`keep_unsent`.
        """
        self._put_pool.shutdown(wait=True)
        for job in self._putting:
            if not job.cancelled() and job.exception() is None:
                self._packs.append(job.result())
        self._putting.clear()
        self._durable = {chunk_id for pack in self._packs for chunk_id in pack.directory.chunk_ids}

    def is_durable(self, chunk_id: bytes) -> bool:
        """After :meth:`salvage`: tell whether the chunk is in a pack that is in the store."""
        return chunk_id in (self._durable or ()) or self._archive.index.has(chunk_id)

    def unsent_node(self, node_id: bytes) -> bytes | None:
        """Return a tree or span node saved since the last flush, or None."""
        kept = self._unsent.get(node_id)
        return kept[1] if kept else None

    def keep_unsent(self) -> None:
        """Keep the nodes saved since the last flush in the local state, for the next run."""
        with self._archive.state.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO unsent_nodes VALUES (?, ?, ?)",
                [(node_id, is_tree, node) for node_id, (is_tree, node) in self._unsent.items()],
            )

    def _adopt_leftovers(self) -> None:
        """Go on with packs and nodes of a run that did not come to its index object."""
        if self._adopt_packs() + self._adopt_nodes():
            # At once, so that trees and chunks of the interrupted run are found by look-up.
            self.flush()

    def _adopt_packs(self) -> int:
        """Take over durable packs that no index object names; return how many."""
        connection = self._archive.state.connection
        marked = self._archive.index.marked()
        rows = connection.execute("SELECT * FROM unindexed_packs").fetchall()
        for pack_id, size, header, body, signature in rows:
            what = f"pack {short_hex(pack_id)}"
            try:
                # One that a prune has marked meanwhile is deleted some day, whoever lists it.
                is_whole = (
                    pack_id not in marked and self._archive.store.size(Kind.DATA, pack_id) == size
                )
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
        return len(self._packs)

    def _adopt_nodes(self) -> int:
        """Save the nodes an earlier run could not send; return how many."""
        connection = self._archive.state.connection
        nodes = connection.execute("SELECT node_id, is_tree, node FROM unsent_nodes").fetchall()
        for node_id, is_tree, node in nodes:
            self._adopted.append(node_id)
            if is_tree:
                self.save_tree_node(node)
            else:
                self.save_span_node(node)
        return len(nodes)


def _by_index_object(packs: Sequence[IndexedPack]) -> Iterator[tuple[IndexedPack, ...]]:
    """Split *packs* so that each group fits one index object."""
    group: list[IndexedPack] = []
    count = 0
    for pack in packs:
        chunk_count = len(pack.directory.chunk_ids)
        if group and count + chunk_count > INDEX_CHUNKS:
            yield tuple(group)
            group, count = [], 0
        group.append(pack)
        count += chunk_count
    if group:
        yield tuple(group)
