"""The index: where every chunk lies, looked up locally, rebuilt from the store.

Owns chunk -> block -> pack, and which packs may not be relied on (marked by a
prune, lost, of a writer that is distrusted).  Every location of a chunk is kept; readers
fall back to the next.  Thread-safe.  Object format: coopfs-format(5), "Index object".
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from coopfs.archive.index_rows import (
    PREFIX_LEN,
    SELECT_PACK,
    BlockInfo,
    ChunkLocation,
    PackInfo,
    block_of_row,
    block_rows,
    drop_pack,
    insert_places,
    listing_digest,
    pack_of_row,
)
from coopfs.archive.standing import MARKED, PackStanding
from coopfs.archive.state import State
from coopfs.errors import ChunkMissing
from coopfs.format.index import IndexedPack, IndexObject
from coopfs.ids import ID_LEN, ChunkId, ObjectId, short_hex

BLOCKS_KEPT: Final = 1024  # decoded block rows in memory, ~6 KB each
ROW_CHUNKS_KEPT: Final = 100_000  # in those, ~110 bytes each: blocks of nodes have a thousand
HOT_CHUNKS: Final = 50_000  # chunks of recently seen blocks, found without SQLite


class Index(PackStanding):
    """Look-ups and updates of the local index."""

    def __init__(self, state: State) -> None:
        """Use the tables of *state*."""
        super().__init__(state)
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, BlockInfo] = OrderedDict()
        self._block_chunks = 0  # in those
        self._packs: dict[int, PackInfo] = {}
        self._hot: dict[bytes, ChunkLocation] = {}
        self._unusable: frozenset[int] = frozenset()
        self._is_empty = True  # the first snapshot asks 100,000 times
        self.loaded_generation = -1
        self.reload()

    # --- looking up -----------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether every known pack may be relied on."""
        return not self._unusable

    def reload(self) -> None:
        """Forget what is remembered of the tables; another process may have changed them."""
        generation = self.generation  # before what it stands for
        unusable = self.unusable()
        first = self._state.connection.execute("SELECT 1 FROM chunks LIMIT 1").fetchone()
        with self._lock:
            self._unusable = unusable
            self._blocks.clear()
            self._block_chunks = 0
            self._packs.clear()
            self._hot = {}
            self._is_empty = first is None
            self.loaded_generation = generation

    def reload_if_changed(self) -> None:
        """Reload when another process has marked, lost or dropped packs, or added the first."""
        if self._is_empty or self.generation != self.loaded_generation:
            self.reload()

    def has(self, chunk_id: bytes) -> bool:
        """Tell whether a usable pack holds *chunk_id*, so that it need not be stored."""
        if self._is_empty:
            return False
        if not self._unusable:
            row = self._state.connection.execute(
                "SELECT 1 FROM chunks WHERE prefix = ? LIMIT 1", (chunk_id[:PREFIX_LEN],)
            ).fetchone()
            return row is not None
        rows = self._state.connection.execute(
            "SELECT pack_no FROM chunks JOIN blocks USING (block_no) WHERE prefix = ?",
            (chunk_id[:PREFIX_LEN],),
        ).fetchall()
        return any(pack_no not in self._unusable for (pack_no,) in rows)

    def first_location(self, chunk_id: bytes) -> ChunkLocation:
        """Return the best location of *chunk_id* (ChunkMissing); the quick way to read."""
        location = self._hot.get(chunk_id)
        return location if location is not None else self.locate(chunk_id)[0]

    def locate(self, chunk_id: bytes) -> tuple[ChunkLocation, ...]:
        """Return all locations of *chunk_id*, those in usable packs first.

        Raises:
            ChunkMissing: the index knows none.
        """
        found = self._locations(chunk_id)
        if not found:
            raise ChunkMissing(
                f"chunk {short_hex(chunk_id)}: no pack in the index holds it; "
                'run "coopfs check" to see which files are hurt'
            )
        if self._unusable and len(found) > 1:
            found.sort(key=lambda place: self.block(place.block_no).pack_no in self._unusable)
        return tuple(found)

    def other_locations(self, chunk_id: bytes, block_no: int) -> list[ChunkLocation]:
        """Return the locations of *chunk_id* outside of one block; quick where there are none."""
        return self._locations(chunk_id, besides=block_no)

    def _locations(self, chunk_id: bytes, besides: int = -1) -> list[ChunkLocation]:
        rows = self._state.connection.execute(
            "SELECT block_no FROM chunks WHERE prefix = ?", (chunk_id[:PREFIX_LEN],)
        ).fetchall()
        found = []
        for (block_no,) in rows:
            if block_no == besides:
                continue
            block = self.block(block_no)
            # The whole id is compared, so a colliding prefix is merely skipped.
            if chunk_id in block.chunk_ids:
                place = block.chunk_ids.index(ChunkId(chunk_id))
                start, end = block.chunk_offsets[place], block.chunk_offsets[place + 1]
                found.append(ChunkLocation(block_no, start, end - start))
        return found

    def block(self, block_no: int) -> BlockInfo:
        """Return what is known of a block; ChunkMissing when it has left the index."""
        block = self._blocks.get(block_no)
        if block is not None:
            return block
        row = self._state.connection.execute(
            "SELECT block_no, pack_no, ordinal, offset, sealed_len, plain_len, codec, chunks"
            " FROM blocks WHERE block_no = ?",
            (block_no,),
        ).fetchone()
        if row is None:
            raise ChunkMissing("a block has left the index meanwhile; try again")
        block = block_of_row(row)
        with self._lock:
            if block_no not in self._blocks:
                self._block_chunks += len(block.chunk_ids)
            self._blocks[block_no] = block
            while len(self._blocks) > BLOCKS_KEPT or (
                self._block_chunks > ROW_CHUNKS_KEPT and len(self._blocks) > 1
            ):
                _, dropped = self._blocks.popitem(last=False)
                self._block_chunks -= len(dropped.chunk_ids)
            if len(self._hot) > HOT_CHUNKS:
                self._hot = {}
            if block.pack_no not in self._unusable:
                offsets = block.chunk_offsets
                for place, chunk_id in enumerate(block.chunk_ids):
                    self._hot[chunk_id] = ChunkLocation(
                        block_no, offsets[place], offsets[place + 1] - offsets[place]
                    )
        return block

    def load_block(self, block_no: int) -> None:
        """Make chunks of a block, if there is one of this number, quick to be located."""
        with suppress(ChunkMissing):
            self.block(block_no)

    def pack(self, pack_no: int) -> PackInfo:
        """Return what is known of a pack; ChunkMissing when it has left the index."""
        pack = self._packs.get(pack_no)
        if pack is None:
            row = self._state.connection.execute(
                f"{SELECT_PACK} WHERE pack_no = ?", (pack_no,)
            ).fetchone()
            if row is None:
                raise ChunkMissing("a pack has left the index meanwhile; try again")
            pack = self._packs[pack_no] = pack_of_row(row)
        return pack

    def chunk_ids(self, pack_no: int) -> bytes:
        """Return the ids of a pack's chunks in order, back to back, 32 bytes each."""
        rows = self._state.connection.execute(
            "SELECT chunks FROM blocks WHERE pack_no = ? ORDER BY ordinal", (pack_no,)
        )
        return b"".join([row[: len(row) // (ID_LEN + 4) * ID_LEN] for (row,) in rows])

    @property
    def pack_count(self) -> int:
        """How many packs the index knows."""
        (count,) = self._state.connection.execute("SELECT count(*) FROM packs").fetchone()
        return int(count)

    @property
    def packs_len(self) -> int:
        """How many bytes the packs have that the index knows."""
        (total,) = self._state.connection.execute("SELECT SUM(size) FROM packs").fetchone()
        return int(total or 0)

    def packs(self) -> Iterator[PackInfo]:
        """Yield all packs, in the order in which they became known."""
        for row in self._state.connection.execute(f"{SELECT_PACK} ORDER BY pack_no").fetchall():
            yield pack_of_row(row)

    @property
    def last_pack_no(self) -> int:
        """The highest number that was ever given to a pack."""
        row = self._state.connection.execute(
            "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'packs'"
        ).fetchone()
        return int(row[0])

    def packs_after(self, pack_no: int) -> list[PackInfo]:
        """Return the packs that became known after the one with that number."""
        rows = self._state.connection.execute(f"{SELECT_PACK} WHERE pack_no > ?", (pack_no,))
        return [pack_of_row(row) for row in rows.fetchall()]

    def audit_answers(self, pack_no: int) -> bytes:
        """Return a pack's answers to the questions of audits, 32 bytes each."""
        row = self._state.connection.execute(
            "SELECT audit_answers FROM packs WHERE pack_no = ?", (pack_no,)
        ).fetchone()
        return bytes(row[0]) if row else b""

    def blocks_of(self, pack_no: int) -> list[BlockInfo]:
        """Return the blocks of a pack in order."""
        rows = self._state.connection.execute(
            "SELECT block_no, pack_no, ordinal, offset, sealed_len, plain_len, codec, chunks"
            " FROM blocks WHERE pack_no = ? ORDER BY ordinal",
            (pack_no,),
        )
        return [block_of_row(row) for row in rows.fetchall()]

    def is_usable(self, pack_no: int) -> bool:
        """Tell whether chunks may be relied on in that pack (not marked, not lost)."""
        return pack_no not in self._unusable

    # --- changing -------------------------------------------------------------

    def known_objects(self) -> set[ObjectId]:
        """Return the index objects whose content is in the tables."""
        rows = self._state.connection.execute("SELECT object_id FROM index_objects")
        return {ObjectId(row[0]) for row in rows}

    def replaced_objects(self) -> set[ObjectId]:
        """Return the names that known index objects replace."""
        rows = self._state.connection.execute("SELECT replaces FROM index_objects")
        return {
            ObjectId(replaces[start : start + ID_LEN])
            for (replaces,) in rows.fetchall()
            for start in range(0, len(replaces), ID_LEN)
        }

    def add_object(self, object_id: ObjectId, content: IndexObject) -> None:
        """Take in one verified index object; its packs become visible at once, or not at all."""
        with self._state.transaction() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO index_objects"
                " (object_id, writer_id, time_ns, replaces, marked) VALUES (?, ?, ?, ?, ?)",
                (
                    object_id,
                    content.writer_id,
                    content.time_ns,
                    b"".join(content.replaces),
                    b"".join(content.marked),
                ),
            )
            if cursor.rowcount == 0:
                return  # another process was quicker
            object_no = cursor.lastrowid
            places: list[tuple[bytes, int]] = []
            for pack in content.packs:
                pack_no = self._add_pack(pack, places)
                connection.execute(
                    "INSERT OR IGNORE INTO pack_listings VALUES (?, ?)", (pack_no, object_no)
                )
            insert_places(connection, places)
            if content.marked:
                connection.executemany(
                    "INSERT OR REPLACE INTO lost_packs VALUES (?, ?)",
                    [(pack_id, MARKED) for pack_id in content.marked],
                )
                self._bump_generation()
            # A mark may have come before the object that lists its pack.
            (has_unusable,) = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM lost_packs)"
                " OR EXISTS (SELECT 1 FROM distrusted_writers)"
            ).fetchone()
        self._is_empty = False
        if has_unusable:
            self.reload()

    def _add_pack(self, pack: IndexedPack, places: list[tuple[bytes, int]]) -> int:
        """Add a pack's rows but for its chunks', which go to *places*; return its number."""
        connection = self._state.connection
        directory = pack.directory
        # Another host may be hacked and list a pack that is not its own, wrongly: both
        # listings are kept, so that it can add a location that fails but hide none, until
        # somebody has looked at the pack (coopfs.archive.listings).
        listing = listing_digest(pack)
        row = connection.execute(
            "SELECT pack_no FROM packs WHERE pack_id = ? AND listing = ?", (pack.pack_id, listing)
        ).fetchone()
        if row is not None:
            return int(row[0])
        cursor = connection.execute(
            "INSERT INTO packs (pack_id, listing, size, header, writer_id, audit_answers)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                pack.pack_id,
                listing,
                pack.size,
                pack.header.encode(),
                directory.writer_id,
                b"".join(pack.audit_answers),
            ),
        )
        pack_no = cursor.lastrowid
        if pack_no is None:
            raise AssertionError("SQLite gave no row number")
        # Never a number that was given out before: readers remember blocks by it.
        (last,) = connection.execute(
            "SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'blocks'"
        ).fetchone()
        first = last + 1
        rows = block_rows(directory, pack_no, first)
        connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        ids = [chunk_id[:PREFIX_LEN] for chunk_id in directory.chunk_ids]
        for block_no, block in enumerate(directory.blocks, first):
            end = block.first_chunk + block.chunk_count
            places += [(prefix, block_no) for prefix in ids[block.first_chunk : end]]
        return pack_no

    def retain_objects(
        self, present: Iterable[ObjectId], known: set[ObjectId] | None = None
    ) -> bool:
        """Drop what only index objects list that are gone from the store or replaced.

        *present* is a listing of the store made after *known* was read (None: all there
        are now): what another process has added since is in neither.  Returns whether
        objects must be read again because what replaced them is gone.
        """
        rows = self._state.connection.execute(
            "SELECT object_no, object_id, replaces FROM index_objects"
        ).fetchall()
        here = set(present)
        gone = [
            (no,)
            for no, object_id, _ in rows
            if object_id not in here and (known is None or object_id in known)
        ]
        replaced: set[bytes] = set()
        freed: set[bytes] = set()
        for no, _, replaces in rows:
            names = {replaces[start : start + ID_LEN] for start in range(0, len(replaces), ID_LEN)}
            (freed if (no,) in gone else replaced).update(names)
        # A replaced object that cannot be deleted stays known, so it is not read again;
        # unless its replacement is gone: then it counts, and what it lists is wanted.
        again = [(no,) for no, object_id, _ in rows if object_id in (freed - replaced) & here]
        idle = gone + [(no,) for no, object_id, _ in rows if object_id in replaced]
        listing = self._state.connection.execute("SELECT DISTINCT object_no FROM pack_listings")
        if not gone and not set(idle) & set(listing):
            return False
        with self._state.transaction() as connection:
            connection.executemany("DELETE FROM pack_listings WHERE object_no = ?", idle)
            connection.executemany("DELETE FROM index_objects WHERE object_no = ?", gone + again)
            orphans = connection.execute(
                "SELECT pack_no FROM packs WHERE pack_no NOT IN (SELECT pack_no FROM pack_listings)"
            ).fetchall()
            for (pack_no,) in orphans:
                drop_pack(connection, pack_no)
            if orphans:
                self._bump_generation()
        self.reload()
        return bool(again)
