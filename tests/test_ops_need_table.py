"""Which chunks are needed: as a dictionary would say it."""

from __future__ import annotations

import hashlib

from hypothesis import example, given
from hypothesis import strategies as st

from coopfs.ops.need_table import NeedTable


def chunk(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


numbers = st.integers(0, 30)


@given(st.lists(st.lists(numbers, max_size=8), max_size=6), st.lists(numbers), st.sets(numbers))
def test_needs_and_where_they_are(
    packs: list[list[int]], needed: list[int], late: set[int]
) -> None:
    table = NeedTable(lambda chunk_id: chunk_id in set(map(chunk, late)))
    firsts = [table.add(b"".join(map(chunk, pack))) for pack in packs]
    table.seal()
    known = {n for pack in packs for n in pack}
    seen: set[int] = set()
    for number in needed:
        answer = table.need(chunk(number))
        if number in known | late:
            assert answer is (number not in seen)
            seen.add(number)
        else:
            assert answer is None
    assert [n for n in range(31) if table.is_needed(chunk(n))] == sorted(seen)
    left = set(seen)
    for first, pack in zip(firsts, packs, strict=True):
        flags = table.needed_of(first, len(pack))
        for number, is_needed in zip(pack, flags, strict=True):
            assert is_needed == (number in left)  # of twins the first
            left.discard(number)


@given(st.lists(numbers), st.lists(st.lists(numbers)), st.sets(numbers))
@example([0, 1, 0, 2], [[1, 0, 2], [2]], set())  # what follows is a twin
@example([0, 1, 2], [[1, 2], [3], [0]], {3})
def test_many_at_once_are_needed_as_one_by_one(
    known: list[int], folders: list[list[int]], late: set[int]
) -> None:
    table = NeedTable(lambda chunk_id: chunk_id in set(map(chunk, late)))
    table.add(b"".join(map(chunk, known)))
    table.seal()
    seen: set[int] = set()
    for needed in folders:
        missing = table.need_all(b"".join(map(chunk, needed)))
        nowhere = [number for number in needed if number not in {*known, *late}]
        assert missing == (chunk(nowhere[0]) if nowhere else None)
        if nowhere:
            return
        seen.update(needed)
        assert {n for n in range(31) if table.is_needed(chunk(n))} == seen
    flags = table.needed_of(0, len(known))
    assert [n for n, flag in zip(known, flags, strict=True) if flag] == [
        n for n in dict.fromkeys(known) if n in seen
    ]


def test_many_parts_are_sorted_as_one() -> None:
    ids = [hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(5000)]
    table = NeedTable(lambda chunk_id: False)
    table.add(b"".join(ids[:4000]))
    table.add(b"".join(ids[3000:]))
    table.seal()
    assert table.need_all(b"".join(reversed(ids))) is None
    flags = table.needed_of(0, 6000)
    assert flags == b"\x01" * 4000 + b"\x00" * 1000 + b"\x01" * 1000
    assert table.need(b"\xff" * 32) is None
