"""Where the bytes of a file lie: stretches of blocks, many chunks at a time.

A file's chunks mostly lie in their blocks as they do in the file.  Looked up chunk
by chunk, a megabyte of 32 KiB chunks cost more of the event loop than its copy to the
kernel; joined into stretches it costs two bisections.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from coopfs.archive.index import Index
from coopfs.errors import ChunkMissing
from coopfs.view.filemap import SpanLevel

HOLE: Final = -1  # in place of a block's number


class Stretch(NamedTuple):
    """Bytes of a file that lie side by side in one block, or a hole."""

    block_no: int  # or HOLE
    start: int  # bytes into the block
    length: int  # bytes


class _Located(NamedTuple):
    """A leaf's stretches and the index they were looked up in."""

    generation: int
    starts: list[int]  # bytes from the leaf's own start
    stretches: list[Stretch] | None  # None: some chunk is not where and what it should be


class Layout:
    """Looks stretches up in the index, and keeps them with the leaves they belong to."""

    def __init__(self, index: Index) -> None:
        """Look up in *index*."""
        self._index = index

    def stretches(
        self, leaves: Iterable[tuple[SpanLevel, int]], offset: int, end: int
    ) -> list[Stretch] | None:
        """Return what makes up [*offset*, *end*) of a file, which its *leaves* cover.

        None where that takes a look at every chunk: one of them is in no pack, or of
        another length than the file says.
        """
        found: list[Stretch] = []
        for leaf, base in leaves:
            located = leaf.located
            if (
                not isinstance(located, _Located)
                or located.generation != self._index.loaded_generation
            ):
                located = leaf.located = self._locate(leaf)
            if located.stretches is None:
                return None
            starts = located.starts
            place = bisect_right(starts, max(offset - base, 0)) - 1
            while place < len(starts) and base + starts[place] < end:
                begin = base + starts[place]
                block_no, start, length = located.stretches[place]
                skip = max(offset - begin, 0)
                found.append(Stretch(block_no, start + skip, min(end - begin, length) - skip))
                place += 1
        return found

    def _locate(self, leaf: SpanLevel) -> _Located:
        generation = self._index.loaded_generation
        starts: list[int] = []
        stretches: list[Stretch] = []
        spans, count = leaf.spans, len(leaf.spans)
        next_block = 0
        place = 0
        while place < count:
            first = place
            length, chunk_id = spans[place]
            if chunk_id is None:
                block_no, start, place = HOLE, 0, place + 1
            else:
                try:
                    if next_block:  # mostly it goes on there: then the index knows the chunk
                        self._index.load_block(next_block)
                    block_no, start, found_len = self._index.first_location(chunk_id)
                    block = self._index.block(block_no)
                except ChunkMissing:
                    return _Located(generation, [], None)
                if found_len != length:
                    return _Located(generation, [], None)
                # As long as the file's next chunk is the block's next chunk.
                ids, offsets = block.chunk_ids, block.chunk_offsets
                at, most = offsets.index(start) + 1, len(ids)
                place += 1
                while (
                    place < count
                    and at < most
                    and spans[place].chunk_id == ids[at]
                    and spans[place].length == offsets[at + 1] - offsets[at]
                ):
                    place += 1
                    at += 1
                next_block = block_no + 1 if at == most else 0
            end = leaf.starts[place] if place < count else leaf.length
            starts.append(leaf.starts[first])
            stretches.append(Stretch(block_no, start, end - leaf.starts[first]))
        return _Located(generation, starts, stretches)
