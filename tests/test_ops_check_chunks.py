"""The table of chunks: the same answers as a plain list of copies would give."""

from __future__ import annotations

import tracemalloc

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from coopfs.ops.check_chunks import ChunkTable


def chunk_id(number: int) -> bytes:
    return blake3(number.to_bytes(8, "big")).digest()


COPIES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=40)


@given(
    packs=st.lists(COPIES, max_size=4),
    spoiled=COPIES,
    needed=COPIES,
)
def test_the_table_answers_like_a_list_of_copies(
    packs: list[list[tuple[int, int]]],
    spoiled: list[tuple[int, int]],
    needed: list[tuple[int, int]],
) -> None:
    table = ChunkTable()
    copies: list[tuple[int, int]] = []
    for pack in packs:
        table.add([chunk_id(number) for number, _ in pack], [length for _, length in pack])
        copies += pack
    table.seal()
    assert len(table) == len(copies)
    for copy in spoiled:
        table.spoil(chunk_id(copy[0]), copy[1])
        if copy in copies:
            copies.remove(copy)
    for number, length in needed:
        assert table.need(chunk_id(number), length) is ((number, length) in copies)
    wanted = {number for number, _ in needed}
    left = [length for number, length in copies if number not in wanted]
    assert table.unneeded() == (len(left), sum(left))


def test_a_chunk_of_the_largest_size_is_told_from_one_byte_less() -> None:
    table = ChunkTable()
    table.add([chunk_id(1)], [1 << 25])
    table.seal()
    assert not table.need(chunk_id(1), (1 << 25) - 1)
    assert table.need(chunk_id(1), 1 << 25)


def test_a_chunk_takes_less_than_thirty_bytes() -> None:
    tracemalloc.start()
    try:
        table = ChunkTable()
        for start in range(0, 200_000, 1000):
            ids = [chunk_id(number) for number in range(start, start + 1000)]
            table.add(ids, [1000] * 1000)
        table.seal()
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 200_000 * 30
    assert peak < 200_000 * 60
