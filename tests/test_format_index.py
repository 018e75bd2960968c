"""Index objects: what they list can be read with one request, or is refused."""

from __future__ import annotations

import pytest
from format_strategies import ids
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.index import IndexObject, decode_index, encode_index, live_objects
from coopfs.format.pack import open_block
from coopfs.format.sealing import Opener
from coopfs.ids import ObjectId, PackId, WriterId

name_lists = st.lists(ids, max_size=5).map(tuple)


@given(
    st.lists(name_lists, max_size=2),
    name_lists,
    name_lists,
    st.binary(min_size=16, max_size=16),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_what_is_listed_comes_back(
    answers: list[tuple[bytes, ...]],
    marked: tuple[bytes, ...],
    replaces: tuple[bytes, ...],
    writer_id: bytes,
    time_ns: int,
) -> None:
    index = IndexObject(
        packs=tuple(s.indexed(s.data_pack(), kept) for kept in answers),
        marked=tuple(map(PackId, marked)),
        replaces=tuple(map(ObjectId, replaces)),
        writer_id=WriterId(writer_id),
        time_ns=time_ns,
    )

    assert decode_index(encode_index(index), "index") == index


def test_the_index_alone_opens_a_block() -> None:
    pack = decode_index(encode_index(s.writer_index()), "index").packs[0]
    data = bytes(s.data_pack().data)
    block = pack.directory.blocks[1]

    plain = open_block(
        Opener(s.KEYS, pack.header, "pack"),
        1,
        block,
        data[block.offset : block.offset + block.sealed_len],
        "pack",
    )

    assert plain == s.XS


def test_the_message_names_the_pack() -> None:
    fields = encoding.decode(encode_index(s.writer_index()), "index")
    fields[0][0][1] = 64

    with pytest.raises(ObjectCorrupt, match=f"index: pack {s.data_pack().pack_id.hex()[:8]}: "):
        decode_index(encoding.encode(fields), "index")


def test_replaced_objects_do_not_count() -> None:
    a, b, c = (ObjectId(s.digest_of(name)) for name in "abc")

    assert live_objects({a: (), b: (a,), c: ()}) == {b, c}
    assert live_objects({a: (), b: (a,), c: (a, b)}) == {c}
    assert live_objects({b: (a,)}) == {b}
    assert live_objects({}) == set()
