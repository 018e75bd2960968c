"""Blocks on their way out: fetched once, opened, decompressed, every id verified.

Owns the memory cache of decoded blocks and the sharing of fetches between
threads.  Nothing unverified leaves: a chunk whose id does not match is named in
:attr:`Block.bad` and never handed out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from coopfs.archive.cache import BlockCache
from coopfs.archive.index import Index
from coopfs.archive.index_rows import BlockInfo, PackInfo
from coopfs.errors import ChunkCorrupt, CoopfsError, DataError, ObjectNotFound
from coopfs.format.codec import Codec, decompress
from coopfs.format.keys import ArchiveKeys
from coopfs.format.pack import Directory
from coopfs.format.sealing import TAG_LEN, Opener, Section
from coopfs.ids import PackId, short_hex
from coopfs.store.base import Kind, Store

MEMORY_LEN: Final = 64 << 20  # bytes of decoded blocks kept by default
OPENERS_KEPT: Final = 256
SCRATCH_LEN: Final = 1 << 20  # bytes; most blocks are no larger
RUN_LEN_MAX: Final = 16 << 20  # bytes one coalesced range request may ask for

_thread = threading.local()  # scratch: where this thread decrypts what it then decompresses


@dataclass(frozen=True, slots=True)
class Block:
    """A decoded block; its chunks lie back to back in *data*."""

    data: bytes | bytearray | memoryview
    bad: frozenset[int]  # offsets of chunks whose id does not match

    def chunk(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on."""
        return bytes(memoryview(self.data)[offset : offset + length])


class BlockReader:
    """Reads blocks through memory, disk cache and store; thread-safe."""

    def __init__(
        self,
        index: Index,
        keys: ArchiveKeys,
        store: Store,
        cache: BlockCache | None,
        memory_len: int = MEMORY_LEN,
    ) -> None:
        """*cache* is None for a local store, which is its own cache."""
        self._index = index
        self._keys = keys
        self._store = store
        self._cache = cache
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, Block] = OrderedDict()
        self._memory_len = 0
        self._memory_max = memory_len
        self._fetching: dict[int, Future[Block]] = {}
        self._openers: OrderedDict[int, Opener] = OrderedDict()
        self.fetched_len = 0  # bytes of sealed blocks that came from the store

    # --- what callers use -----------------------------------------------------

    def peek(self, block_no: int) -> Block | None:
        """Return the block if it is in memory; never blocks, so an event loop may ask."""
        with self._lock:
            block = self._memory.get(block_no)
            if block is not None:
                self._memory.move_to_end(block_no)
            return block

    def is_cached(self, block_no: int) -> bool:
        """Tell whether the block can be had without the partner."""
        if self._cache is None or self.peek(block_no) is not None:
            return True
        block = self._index.block(block_no)
        pack = self._index.pack(block.pack_no)
        return self._cache.has(pack.pack_id, block.ordinal, is_meta=pack.is_meta)

    def load(self, block_no: int) -> Block:
        """Return a decoded block; concurrent callers share one fetch.

        Raises:
            ObjectCorrupt: the block does not open.
            ObjectNotFound: its pack is gone.
            StoreUnavailable: the partner cannot be reached.
        """
        return self.load_run((block_no,))[0]

    def load_from_store(self, block_no: int) -> Block:
        """Return a block as the store has it now, whatever is in memory or cached here.

        Raises as :meth:`load`.
        """
        info = self._index.block(block_no)
        pack = self._index.pack(info.pack_no)
        sealed = self._store.get(Kind.DATA, pack.pack_id, info.offset, info.sealed_len)
        data = self._decode(info, pack, sealed)
        return Block(data, self._bad_chunks(info, pack, data))

    def load_run(self, block_nos: Sequence[int]) -> list[Block]:
        """Return several blocks; neighbours of a pack come with one range request.

        Raises as :meth:`load`, for the first block that fails.
        """
        claimed: list[int] = []
        waiting: dict[int, Future[Block]] = {}
        found: dict[int, Block] = {}
        with self._lock:
            for block_no in block_nos:
                block = self._memory.get(block_no)
                if block is not None:
                    self._memory.move_to_end(block_no)
                    found[block_no] = block
                elif block_no in self._fetching:
                    waiting[block_no] = self._fetching[block_no]
                else:
                    self._fetching[block_no] = Future()
                    claimed.append(block_no)
        self._fetch_claimed(claimed, found)
        for block_no, future in waiting.items():
            found[block_no] = future.result()
        return [found[block_no] for block_no in block_nos]

    def load_chunk(self, chunk_id: bytes) -> bytes:
        """Return a chunk from the first location that has it whole.

        Raises:
            ChunkMissing: the index has no location.
            ChunkCorrupt: all locations are damaged; names the last failure.
            StoreUnavailable: the partner cannot be reached.
        """
        first = self._index.first_location(chunk_id)  # no query where the block is known
        held = self.peek(first.block_no)
        if held is not None and first.offset not in held.bad:
            return held.chunk(first.offset, first.length)
        failure: CoopfsError | None = None
        for location in self._index.locate(chunk_id):
            try:
                block = self.load(location.block_no)
            except (DataError, ObjectNotFound) as exc:
                failure = exc
                continue
            if location.offset not in block.bad:
                return block.chunk(location.offset, location.length)
            pack = self._index.pack(self._index.block(location.block_no).pack_no)
            failure = ChunkCorrupt(
                f"pack {short_hex(pack.pack_id)}: its writer {short_hex(pack.writer_id)} stored "
                "other content under this id"
            )
        raise ChunkCorrupt(
            f"chunk {short_hex(chunk_id)}: {failure}; "
            'run "coopfs check --read-data" to see which files are hurt'
        ) from failure

    def fetch_sealed(
        self, block_nos: Sequence[int]
    ) -> Iterator[tuple[BlockInfo, PackInfo, bytes | memoryview]]:
        """Yield blocks as they are stored, for somebody else to open; nothing is verified.

        Neighbours of a pack come with one range request, cached ones from the disk.

        Raises:
            ObjectNotFound, ObjectCorrupt: a pack is gone or truncated.
            StoreUnavailable: the partner cannot be reached.
        """
        for run in self._runs(list(block_nos)):
            pack = self._index.pack(run[0].pack_no)
            pieces, _ = self._fetch(run, pack)
            for info, sealed in zip(run, pieces, strict=True):
                yield info, pack, sealed

    def fetch_ahead(self, infos: Sequence[BlockInfo], pack: PackInfo) -> None:
        """Copy blocks of one pack that are not there yet to the disk cache, still sealed.

        Does nothing for a local store.  What is damaged is left for whoever reads it.

        Raises:
            StoreUnavailable: the partner cannot be reached.
        """
        cache = self._cache
        if cache is None:
            return
        absent = [
            info.block_no
            for info in infos
            if not cache.has(pack.pack_id, info.ordinal, is_meta=pack.is_meta)
        ]
        for run in self._runs(absent):
            with suppress(ObjectNotFound, DataError):
                for info, sealed in zip(run, self._fetch(run, pack)[0], strict=True):
                    cache.put(pack.pack_id, info.ordinal, bytes(sealed), is_meta=pack.is_meta)

    def keep_pack(self, pack_id: PackId, directory: Directory, data: memoryview) -> None:
        """Keep the blocks of a pack of metadata that was just made, in the disk cache."""
        if self._cache is not None:
            for ordinal, block in enumerate(directory.blocks):
                sealed = data[block.offset : block.offset + block.sealed_len]
                self._cache.put(pack_id, ordinal, bytes(sealed), is_meta=True)

    def keep_only_metadata(self, pack_ids: Container[PackId]) -> None:
        """Drop the cached metadata of all packs but *pack_ids* from the disk cache."""
        if self._cache is not None:
            self._cache.keep_only_meta(pack_ids)

    def forget_memory(self, memory_len: int | None = None) -> None:
        """Drop all decoded blocks; with *memory_len* keep no more bytes from now on."""
        with self._lock:
            if memory_len is not None:
                self._memory_max = memory_len
            self._memory.clear()
            self._memory_len = 0

    # --- fetching -------------------------------------------------------------

    def _fetch_claimed(self, claimed: list[int], found: dict[int, Block]) -> None:
        """Fetch what this thread has claimed; every claim ends with a result or an error.

        One damaged block does not keep those beside it from whoever waits for them.
        """
        failure: CoopfsError | None = None
        try:
            runs = deque(self._runs(claimed))
            while runs:
                run = runs.popleft()
                pack = self._index.pack(run[0].pack_no)
                try:
                    pieces, is_from_cache = self._fetch(run, pack)
                except ObjectNotFound as exc:
                    failure = failure or exc
                    self._fail([info.block_no for info in run], exc)
                    continue
                except DataError as exc:
                    if len(run) > 1:  # truncated: some of them may be whole
                        runs.extendleft([info] for info in reversed(run))
                    else:
                        failure = failure or exc
                        self._fail([run[0].block_no], exc)
                    continue
                for info, sealed in zip(run, pieces, strict=True):
                    try:
                        block = self._open(info, pack, sealed, is_from_cache=is_from_cache)
                    except (DataError, ObjectNotFound) as exc:
                        failure = failure or exc
                        self._fail([info.block_no], exc)
                    else:
                        found[info.block_no] = block
                        self._remember(info.block_no, block)
        except BaseException as exc:
            self._fail(claimed, exc)
            raise
        if failure is not None:
            raise failure

    def _fail(self, block_nos: list[int], exc: BaseException) -> None:
        """Tell whoever waits for blocks that are not here yet."""
        with self._lock:
            futures = [self._fetching.pop(block_no, None) for block_no in block_nos]
        for future in futures:
            if future is not None:
                future.set_exception(exc)

    def _remember(self, block_no: int, block: Block) -> None:
        with self._lock:
            self._memory[block_no] = block
            self._memory_len += len(block.data)
            while self._memory_len > self._memory_max and len(self._memory) > 1:
                _, dropped = self._memory.popitem(last=False)
                self._memory_len -= len(dropped.data)
            future = self._fetching.pop(block_no)
        future.set_result(block)

    def _runs(self, block_nos: list[int]) -> list[list[BlockInfo]]:
        """Group blocks that lie side by side in a pack and fit one request."""
        runs: list[list[BlockInfo]] = []
        run_len = 0
        for info in map(self._index.block, block_nos):
            last = runs[-1][-1] if runs else None
            if (
                last is not None
                and last.pack_no == info.pack_no
                and last.ordinal + 1 == info.ordinal
                and run_len + info.sealed_len <= RUN_LEN_MAX
            ):
                runs[-1].append(info)
                run_len += info.sealed_len
            else:
                runs.append([info])
                run_len = info.sealed_len
        return runs

    def _fetch(self, run: list[BlockInfo], pack: PackInfo) -> tuple[list[bytes | memoryview], bool]:
        """Return the sealed blocks of *run* and whether they came from the disk cache."""
        if self._cache is not None:
            cached: list[bytes | memoryview] = []
            for info in run:
                sealed = self._cache.get(pack.pack_id, info.ordinal, is_meta=pack.is_meta)
                if sealed is None:
                    break
                cached.append(sealed)
            else:
                return cached, True
        start = run[0].offset
        length = sum(info.sealed_len for info in run)
        data = self._store.get(Kind.DATA, pack.pack_id, start, length)
        with self._lock:
            self.fetched_len += length
        if len(run) == 1:
            return [data], False
        view = memoryview(data)
        return [view[i.offset - start : i.offset - start + i.sealed_len] for i in run], False

    def _open(
        self, info: BlockInfo, pack: PackInfo, sealed: bytes | memoryview, *, is_from_cache: bool
    ) -> Block:
        try:
            data = self._decode(info, pack, sealed)
        except DataError:
            if not is_from_cache:
                raise
            # The cached copy is damaged: ask the store once.
            is_from_cache = False
            sealed = self._store.get(Kind.DATA, pack.pack_id, info.offset, info.sealed_len)
            data = self._decode(info, pack, sealed)
        if self._cache is not None and not is_from_cache:
            self._cache.put(pack.pack_id, info.ordinal, bytes(sealed), is_meta=pack.is_meta)
        return Block(data, self._bad_chunks(info, pack, data))

    def _decode(
        self, info: BlockInfo, pack: PackInfo, sealed: bytes | memoryview
    ) -> bytes | bytearray | memoryview:
        opener = self._openers.get(info.pack_no)
        if opener is None:
            what = f"pack {pack.pack_id.hex()}"
            opener = Opener(self._keys, pack.header, what)
            with self._lock:
                self._openers[info.pack_no] = opener
                if len(self._openers) > OPENERS_KEPT:
                    self._openers.popitem(last=False)
        return decode_block(opener, info, sealed)

    def _bad_chunks(
        self, info: BlockInfo, pack: PackInfo, data: bytes | bytearray | memoryview
    ) -> frozenset[int]:
        keys = self._keys
        view = memoryview(data)
        offsets = info.chunk_offsets
        bad = []
        for place, chunk_id in enumerate(info.chunk_ids):
            chunk = view[offsets[place] : offsets[place + 1]]
            if pack.is_meta:
                plain = bytes(chunk)
                is_tree = bytes(keys.tree_id(plain)) == chunk_id
                if not is_tree and bytes(keys.span_node_id(plain)) != chunk_id:
                    bad.append(offsets[place])
            elif keys.chunk_id(chunk) != chunk_id:
                bad.append(offsets[place])
        return frozenset(bad)


def decode_block(
    opener: Opener, info: BlockInfo, sealed: bytes | memoryview
) -> bytes | bytearray | memoryview:
    """Return the plaintext of one block, its chunks not yet verified.

    Raises:
        ObjectCorrupt: it does not open or decompress as the index says.
        FormatUnsupported: a codec of a newer version.
    """
    stored_len = len(sealed) - TAG_LEN
    if info.codec == Codec.RAW:
        # What is stored is what is handed out: it needs a buffer of its own.
        plain = bytearray(max(stored_len, 0))
        opener.open_into(plain, Section.BLOCK, info.ordinal, sealed)
        return decompress(Codec.RAW, plain, info.plain_len, opener.what)
    scratch: bytearray | None = getattr(_thread, "scratch", None)
    if scratch is None or len(scratch) < stored_len:
        scratch = _thread.scratch = bytearray(max(stored_len, SCRATCH_LEN))
    stored = memoryview(scratch)[: max(stored_len, 0)]
    opener.open_into(stored, Section.BLOCK, info.ordinal, sealed)
    return decompress(info.codec, stored, info.plain_len, opener.what)
