"""Stretches say the same as the chunks they were made of, many at a time."""

from __future__ import annotations

from itertools import accumulate

import pytest

from coopfs.archive.index_rows import ChunkLocation
from coopfs.errors import ChunkMissing
from coopfs.format.tree import Span
from coopfs.ids import ChunkId
from coopfs.view.filemap import SpanLevel
from coopfs.view.layout import HOLE, Layout, Stretch


class Blocks:
    """An index of blocks with these chunks: block -> (id, length)."""

    def __init__(self, *blocks: list[tuple[int, int]]) -> None:
        self.loaded_generation = 1
        self.asked = 0
        self.rows = [
            type(
                "Row",
                (),
                {
                    "chunk_ids": tuple(chunk(number) for number, _ in block),
                    "chunk_offsets": tuple(accumulate((size for _, size in block), initial=0)),
                },
            )
            for block in blocks
        ]

    def first_location(self, chunk_id: bytes) -> ChunkLocation:
        self.asked += 1
        for block_no, row in enumerate(self.rows):
            if chunk_id in row.chunk_ids:
                place = row.chunk_ids.index(chunk_id)
                start, end = row.chunk_offsets[place : place + 2]
                return ChunkLocation(block_no, start, end - start)
        raise ChunkMissing("no such chunk")

    def block(self, block_no: int) -> object:
        return self.rows[block_no]

    def load_block(self, block_no: int) -> None:
        pass


def chunk(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


def leaf(*spans: tuple[int, int | None]) -> SpanLevel:
    return SpanLevel.of_spans(
        tuple(Span(size, None if number is None else chunk(number)) for size, number in spans)
    )


def layout(blocks: Blocks) -> Layout:
    return Layout(blocks)  # type: ignore[arg-type]  # all that it asks an index for


def test_neighbours_in_file_and_block_are_one_stretch() -> None:
    blocks = Blocks([(1, 10), (2, 20), (3, 30)], [(4, 5)])
    level = leaf((10, 1), (20, 2), (30, 3), (5, 4))
    found = layout(blocks).stretches([(level, 0)], 0, 65)
    assert found == [Stretch(0, 0, 60), Stretch(1, 0, 5)]
    assert blocks.asked == 2


def test_holes_repeats_and_disorder_part_stretches() -> None:
    blocks = Blocks([(1, 10), (2, 20), (3, 30)])
    level = leaf((20, 2), (10, 1), (7, None), (20, 2), (30, 3), (30, 3))
    assert layout(blocks).stretches([(level, 100)], 100, 217) == [
        Stretch(0, 10, 20),
        Stretch(0, 0, 10),
        Stretch(HOLE, 0, 7),
        Stretch(0, 10, 50),
        Stretch(0, 30, 30),
    ]


def test_a_range_within_stretches_is_cut_on_both_sides() -> None:
    blocks = Blocks([(1, 10), (2, 20)], [(3, 30)])
    level = leaf((10, 1), (20, 2), (30, 3))
    assert layout(blocks).stretches([(level, 0)], 12, 33) == [Stretch(0, 12, 18), Stretch(1, 0, 3)]


@pytest.mark.parametrize("spans", [[(10, 1), (20, 9)], [(11, 1)], [(10, 1), (19, 2)]])
def test_a_missing_chunk_or_another_length_is_no_stretch(spans: list[tuple[int, int]]) -> None:
    blocks = Blocks([(1, 10), (2, 20)])
    assert layout(blocks).stretches([(leaf(*spans), 0)], 0, 10) is None


def test_stretches_are_looked_up_again_when_the_index_has_changed() -> None:
    level = leaf((10, 1))
    blocks = Blocks([(1, 10)])
    one = layout(blocks)
    one.stretches([(level, 0)], 0, 10)
    one.stretches([(level, 0)], 0, 10)
    assert blocks.asked == 1
    blocks.rows.insert(0, blocks.rows[0])
    blocks.rows[0] = type("Row", (), {"chunk_ids": (), "chunk_offsets": (0,)})
    blocks.loaded_generation += 1
    assert one.stretches([(level, 0)], 0, 10) == [Stretch(1, 0, 10)]
