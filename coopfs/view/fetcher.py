"""Blocks and nodes for the event loop: from memory at once, else from a thread.

The one place where the mount leaves the event loop.  A thread hop through trio
costs ~140 us and more on a busy machine, so blocks go through a queue to threads
that stay; it is paid per block fetched, never per read.  Concurrent readers of a
block share one fetch, and what is read ahead is a fetch nobody waits for yet.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import trio

from coopfs.archive.archive import Archive
from coopfs.archive.blocks import Block
from coopfs.errors import CoopfsError
from coopfs.format.nodes import TreeNode, decode_tree_node
from coopfs.ids import ChunkId, SpanNodeId, TreeId, short_hex
from coopfs.view.filemap import SpanLevel
from coopfs.view.flights import Flight, Run, RunQueue
from coopfs.view.memory import Trimmer

T = TypeVar("T")

ENTRIES_KEPT: Final = 20_000  # decoded tree entries in memory, ~0.7 KB each
SPANS_KEPT: Final = 60_000  # decoded spans in memory, ~0.2 KB each
LOCAL_THREADS: Final = 2  # opening a block is CPU work; more only add contention
REMOTE_THREADS: Final = 8  # requests in flight to a partner, to fill the line
LOCAL_AHEAD: Final = 16  # blocks fetched ahead at a time, for all readers together
REMOTE_AHEAD: Final = 48
REMOTE_RUN: Final = 4  # neighbouring blocks asked for with one range request


class Fetcher:
    """Fetches what is not in memory; used from the event loop only."""

    def __init__(
        self,
        archive: Archive,
        nursery: trio.Nursery,
        trimmer: Trimmer,
    ) -> None:
        """Employ threads in *nursery*, which must outlive every reader."""
        self._nursery = nursery
        self._trimmer = trimmer
        self._archive = archive
        self._index = archive.index
        self._blocks = archive.blocks
        is_local = archive.store.is_local
        threads = min(LOCAL_THREADS, os.cpu_count() or 1) if is_local else REMOTE_THREADS
        self._data_threads = trio.CapacityLimiter(threads + 1)  # one for mending: see chunk()
        self._ahead_max = LOCAL_AHEAD if is_local else REMOTE_AHEAD
        # A local request is cheap, and blocks opened one by one are there sooner.
        self._run_max = 1 if is_local else REMOTE_RUN
        # Names must not queue behind file content.
        self._name_threads = trio.CapacityLimiter(4)
        self._flights: dict[int, Flight] = {}
        self._waiting = 0
        self._landed: SimpleQueue[tuple[Run, list[Block], BaseException | None]] = SimpleQueue()
        self._queue = RunQueue()
        self._ahead = 0
        self._tree_nodes: OrderedDict[TreeId, TreeNode] = OrderedDict()
        self._entries_kept = 0
        self._span_nodes: OrderedDict[SpanNodeId, SpanLevel] = OrderedDict()
        self._spans_kept = 0
        self._span_nodes_ahead: set[SpanNodeId] = set()
        self.peek_block: Callable[[int], Block | None] = archive.blocks.peek
        self.fetched = 0  # blocks that had to be fetched; for the status file
        self.fetched_ahead = 0  # of these, before anybody asked
        for _ in range(threads):
            nursery.start_soon(self._employ)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a thread."""
        return not self._waiting and not self._name_threads.borrowed_tokens

    # --- data -----------------------------------------------------------------

    async def blocks(self, block_nos: Iterable[int]) -> dict[int, Block]:
        """Return blocks by number; those not in memory are fetched side by side.

        Raises:
            ObjectCorrupt, ObjectNotFound, StoreUnavailable: as BlockReader.load.
        """
        found: dict[int, Block] = {}
        flights: dict[int, Flight] = {}
        absent = []
        for block_no in block_nos:
            block = self.peek_block(block_no)
            if block is not None:
                found[block_no] = block
            elif block_no in self._flights:
                flights[block_no] = self._flights[block_no]
            else:
                absent.append(block_no)
        for run in self._runs(absent):
            flights.update(self._launch(run, is_ahead=False))
        for block_no, flight in flights.items():
            flight.is_awaited = True
            if flight.is_ahead:
                self._queue.hurry(block_no)
        # In this order, and a thread's the other way round: none lands unnoticed.
        self._settle()
        for block_no, flight in flights.items():
            if not flight.landed.is_set():
                self._waiting += 1
                try:
                    await flight.landed.wait()
                finally:
                    self._waiting -= 1
            if flight.error is not None:
                raise flight.error
            if flight.block is None:
                raise AssertionError("a flight landed with nothing")
            found[block_no] = flight.block
        return found

    def prefetch(self, block_nos: Iterable[int]) -> None:
        """Fetch blocks nobody waits for yet, as far as there is room for that."""
        self._settle()
        absent = [
            block_no
            for block_no in block_nos
            if block_no not in self._flights and self.peek_block(block_no) is None
        ]
        for run in self._runs(absent[: max(self._ahead_max - self._ahead, 0)]):
            self._launch(run, is_ahead=True)

    def _runs(self, block_nos: list[int]) -> list[list[int]]:
        """Group neighbours (blocks of a pack are numbered in order) for one request each."""
        runs: list[list[int]] = []
        for block_no in block_nos:
            if runs and runs[-1][-1] + 1 == block_no and len(runs[-1]) < self._run_max:
                runs[-1].append(block_no)
            else:
                runs.append([block_no])
        return runs

    def _launch(self, block_nos: list[int], *, is_ahead: bool) -> dict[int, Flight]:
        run = Run(block_nos, is_ahead)
        self._flights.update(run.flights)
        self.fetched += len(block_nos)
        if is_ahead:
            self._ahead += len(block_nos)
            self.fetched_ahead += len(block_nos)
        self._queue.put(run)
        return run.flights

    async def _employ(self) -> None:
        """Keep one thread at work until the mount ends."""
        try:
            # Abandoned on unmount: a partner that does not answer must not hold it up.
            await trio.to_thread.run_sync(
                self._work,
                trio.lowlevel.current_trio_token(),
                abandon_on_cancel=True,
                limiter=self._data_threads,
            )
        finally:
            self._queue.close()

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        """Load what is wanted, in a thread, run by run."""
        while (run := self._queue.take()) is not None:
            blocks: list[Block] = []
            failure: BaseException | None = None
            try:
                blocks = self._blocks.load_run(list(run.flights))
                self._trimmer.note_fetched(len(blocks))
            except BaseException as exc:  # whoever waits for it gets it, whatever it is
                failure = exc
            self._landed.put((run, blocks, failure))
            # What was read ahead wakes nobody: it is found when somebody looks for it.
            if run.is_awaited:
                try:
                    token.run_sync_soon(self._settle)
                except trio.RunFinishedError:
                    return

    def _settle(self) -> None:
        """Hand what threads have loaded to those who wait; runs on the event loop."""
        while True:
            try:
                run, blocks, failure = self._landed.get_nowait()
            except Empty:
                return
            for place, (block_no, flight) in enumerate(run.flights.items()):
                flight.error = failure
                if failure is None:
                    flight.block = blocks[place]
                del self._flights[block_no]
                self._ahead -= run.is_ahead
                flight.landed.set()

    async def chunk(self, chunk_id: ChunkId) -> bytes:
        """Return a chunk from wherever it can still be read whole (the slow way).

        Raises:
            ChunkMissing, ChunkCorrupt, StoreUnavailable.
        """
        return await trio.to_thread.run_sync(
            self._archive.load_chunk, chunk_id, limiter=self._data_threads, abandon_on_cancel=True
        )

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run blocking work about names (never file content) off the event loop."""
        return await trio.to_thread.run_sync(
            function, limiter=self._name_threads, abandon_on_cancel=True
        )

    # --- nodes ----------------------------------------------------------------

    def peek_tree(self, tree_id: TreeId) -> TreeNode | None:
        """Return a tree node if it is in memory, decoded."""
        node = self._tree_nodes.get(tree_id)
        if node is not None:
            self._tree_nodes.move_to_end(tree_id)
        return node

    async def tree(self, tree_id: TreeId) -> TreeNode:
        """Return a tree node; raises as Archive.load_tree_node."""
        node = self.peek_tree(tree_id)
        if node is not None:
            return node
        # Folders walked one after the other lie in one block: a hop for each would cost
        # more than all the rest.
        location = self._index.first_location(tree_id)
        block = self.peek_block(location.block_no)
        if block is not None:
            data = block.chunk(location.offset, location.length)
            if self._archive.keys.tree_id(data) == tree_id:
                node = decode_tree_node(data, f"tree {short_hex(tree_id)}")
                return self._keep_tree(tree_id, node)
        # Also where the block holds something else: that tries other copies, and says why.
        node = await self.in_thread(lambda: self._archive.load_tree_node(tree_id))
        return self._keep_tree(tree_id, node)

    def _keep_tree(self, tree_id: TreeId, node: TreeNode) -> TreeNode:
        if tree_id not in self._tree_nodes:
            self._tree_nodes[tree_id] = node
            self._entries_kept += len(node.entries) + len(node.children)
            while self._entries_kept > ENTRIES_KEPT and len(self._tree_nodes) > 1:
                _, dropped = self._tree_nodes.popitem(last=False)
                self._entries_kept -= len(dropped.entries) + len(dropped.children)
        return node

    def peek_spans(self, node_id: SpanNodeId) -> SpanLevel | None:
        """Return a span node if it is in memory, decoded."""
        node = self._span_nodes.get(node_id)
        if node is not None:
            self._span_nodes.move_to_end(node_id)
        return node

    async def spans(self, node_id: SpanNodeId) -> SpanLevel:
        """Return a span node; raises as Archive.load_span_node."""
        kept = self.peek_spans(node_id)
        if kept is not None:
            return kept
        node = SpanLevel.of_node(
            await self.in_thread(lambda: self._archive.load_span_node(node_id))
        )
        if node_id not in self._span_nodes:  # another reader may have been quicker
            self._span_nodes[node_id] = node
            self._spans_kept += len(node.starts)
        while self._spans_kept > SPANS_KEPT and len(self._span_nodes) > 1:
            _, dropped = self._span_nodes.popitem(last=False)
            self._spans_kept -= len(dropped.starts)
        return node

    def prefetch_spans(self, node_id: SpanNodeId) -> None:
        """Fetch a span node nobody waits for yet."""
        if node_id not in self._span_nodes_ahead:
            self._span_nodes_ahead.add(node_id)
            self._nursery.start_soon(self._fetch_spans_ahead, node_id)

    async def _fetch_spans_ahead(self, node_id: SpanNodeId) -> None:
        try:
            with suppress(CoopfsError):  # whoever needs it asks again, and is told
                await self.spans(node_id)
        finally:
            self._span_nodes_ahead.discard(node_id)
