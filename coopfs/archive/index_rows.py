"""Rows of the local index, to and from values: chunks' places, blocks, packs.

Owns how a block's row packs its chunks: ids back to back, then lengths.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final, NamedTuple

from blake3 import blake3

from coopfs.format.index import IndexedPack
from coopfs.format.keys import PACK_ROLES, Role
from coopfs.format.pack import Directory
from coopfs.format.sealing import Header, decode_header
from coopfs.ids import ID_LEN, ChunkId, PackId, WriterId, short_hex

PREFIX_LEN: Final = 16  # bytes of an id in the look-up table; 2^64 tries to collide
ROWS_AT_ONCE: Final = 256  # in one statement; SQLite takes 32,766 values (999 before 3.32)


class ChunkLocation(NamedTuple):
    """One place a chunk can be read from."""

    block_no: int
    offset: int  # bytes into the block's plaintext
    length: int  # bytes


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """A block as the index knows it."""

    block_no: int  # local number, not stored anywhere else
    pack_no: int
    ordinal: int  # its place in the pack
    offset: int  # bytes from the start of the pack
    sealed_len: int  # bytes
    plain_len: int  # bytes
    codec: int
    chunk_ids: tuple[ChunkId, ...]
    chunk_offsets: tuple[int, ...]  # bytes into the plaintext; one more than there are chunks


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack as the index knows it."""

    pack_no: int  # local number
    pack_id: PackId
    size: int  # bytes
    header: Header
    writer_id: WriterId

    @property
    def is_meta(self) -> bool:
        """Whether it holds tree and span nodes, not file content."""
        return self.header.role is Role.META


def block_facts(block: BlockInfo, pack: PackInfo) -> list[Any]:
    """Return what another process must be told to open a block and to know its chunks.

    In order: header, ordinal, codec, plain length, ids back to back, lengths.
    """
    lengths = [end - start for start, end in pairwise(block.chunk_offsets)]
    ids = b"".join(block.chunk_ids)
    return [pack.header.encode(), block.ordinal, block.codec, block.plain_len, ids, lengths]


SELECT_PACK: Final = "SELECT pack_no, pack_id, size, header, writer_id FROM packs"


def pack_of_row(row: tuple[int, bytes, int, bytes, bytes]) -> PackInfo:
    """Return the pack that a row of :data:`SELECT_PACK` describes."""
    pack_no, pack_id, size, header, writer_id = row
    what = f"pack {short_hex(pack_id)}"
    return PackInfo(
        pack_no, PackId(pack_id), size, decode_header(header, what, PACK_ROLES), WriterId(writer_id)
    )


def block_rows(
    directory: Directory, pack_no: int, first: int
) -> Iterator[tuple[int, int, int, int, int, int, int, bytes]]:
    """Yield the rows of a pack's blocks, numbered from *first* on."""
    for ordinal, block in enumerate(directory.blocks):
        chosen = slice(block.first_chunk, block.first_chunk + block.chunk_count)
        ids, lens = directory.chunk_ids[chosen], directory.chunk_lens[chosen]
        chunks = b"".join(ids) + struct.pack(f"<{len(lens)}I", *lens)
        yield (
            first + ordinal,
            pack_no,
            ordinal,
            block.offset,
            block.sealed_len,
            block.plain_len,
            block.codec,
            chunks,
        )


def block_of_row(row: tuple[int, int, int, int, int, int, int, bytes]) -> BlockInfo:
    """Return the block that a row describes, its chunks unpacked."""
    chunks = row[7]
    count = len(chunks) // (ID_LEN + 4)
    offsets = [0]
    for length in struct.unpack_from(f"<{count}I", chunks, count * ID_LEN):
        offsets.append(offsets[-1] + length)
    ids = tuple(ChunkId(chunks[i : i + ID_LEN]) for i in range(0, count * ID_LEN, ID_LEN))
    return BlockInfo(*row[:7], ids, tuple(offsets))


def listing_digest(pack: IndexedPack) -> bytes:
    """Return 16 bytes over all that an index object says of a pack, audits apart."""
    size = pack.size.to_bytes(8, "little")
    return blake3(pack.header.encode() + size + pack.directory.body).digest(16)


def insert_places(connection: sqlite3.Connection, places: list[tuple[bytes, int]]) -> None:
    """Add (prefix, block number) pairs to the table of chunks."""
    # Sorted: SQLite then fills its pages in order (three times as fast at 3 million).
    places.sort(key=itemgetter(0))
    # Many rows a statement: a statement a row costs a third more.
    whole = len(places) // ROWS_AT_ONCE * ROWS_AT_ONCE
    flat = [value for place in places[:whole] for value in place]
    step = 2 * ROWS_AT_ONCE
    rows = ",".join(["(?, ?)"] * ROWS_AT_ONCE)
    connection.executemany(
        f"INSERT OR IGNORE INTO chunks VALUES {rows}",  # noqa: S608  # of our own making
        (flat[start : start + step] for start in range(0, len(flat), step)),
    )
    connection.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?)", places[whole:])


def drop_pack(connection: sqlite3.Connection, pack_no: int) -> None:
    """Delete the rows of a pack, of its blocks and of their chunks."""
    blocks = connection.execute(
        "SELECT block_no, chunks FROM blocks WHERE pack_no = ?", (pack_no,)
    ).fetchall()
    # By the whole key: by the block alone, all of the table is read for every pack.
    places = sorted(
        (chunks[start : start + PREFIX_LEN], block_no)
        for block_no, chunks in blocks
        for start in range(0, len(chunks) // (ID_LEN + 4) * ID_LEN, ID_LEN)
    )
    connection.executemany("DELETE FROM chunks WHERE prefix = ? AND block_no = ?", places)
    connection.executemany(
        "DELETE FROM sound_blocks WHERE block_no = ?", [(block_no,) for block_no, _ in blocks]
    )
    connection.execute("DELETE FROM blocks WHERE pack_no = ?", (pack_no,))
    connection.execute("DELETE FROM packs WHERE pack_no = ?", (pack_no,))
