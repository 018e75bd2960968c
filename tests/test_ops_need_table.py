"""Which chunks are needed: as a dictionary would say it."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from coopfs.ops.need_table import NeedTable


def chunk(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


numbers = st.integers(0, 30)


@given(st.lists(st.lists(numbers, max_size=8), max_size=6), st.lists(numbers), st.sets(numbers))
def test_needs_and_claims(packs: list[list[int]], needed: list[int], late: set[int]) -> None:
    table = NeedTable(lambda chunk_id: chunk_id in set(map(chunk, late)))
    for pack in packs:
        table.add(b"".join(map(chunk, pack)))
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
    for _ in range(2):
        table.unclaim()
        left = set(seen)
        for pack in packs:
            claimed = list(table.claim(b"".join(map(chunk, pack))))
            for number, is_first in zip(pack, claimed, strict=True):
                assert is_first is (number in left)
                left.discard(number)


@given(st.lists(numbers), st.lists(numbers), st.sets(numbers))
def test_many_at_once_are_needed_as_one_by_one(
    known: list[int], needed: list[int], late: set[int]
) -> None:
    table = NeedTable(lambda chunk_id: chunk_id in set(map(chunk, late)))
    table.add(b"".join(map(chunk, known)))
    table.seal()
    missing = table.need_all(b"".join(map(chunk, needed)))
    nowhere = [number for number in needed if number not in {*known, *late}]
    assert missing == (chunk(nowhere[0]) if nowhere else None)
    if not nowhere:
        assert {n for n in range(31) if table.is_needed(chunk(n))} == set(needed)
