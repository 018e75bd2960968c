"""The local index: what index objects say, every location kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from vectors import samples as s

from coopfs.archive.index import Index
from coopfs.archive.state import State
from coopfs.errors import ChunkMissing
from coopfs.format.index import IndexedPack, IndexObject
from coopfs.format.keys import Role
from coopfs.format.pack import build_pack
from coopfs.ids import ObjectId


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    state = State(tmp_path)
    yield Index(state)
    state.close()


def listed(*packs: IndexedPack) -> IndexObject:
    return IndexObject(packs, (), (), s.WRITER.writer_id, 0)


def name(label: str) -> ObjectId:
    return ObjectId(s.digest_of(label))


def test_every_chunk_of_a_listed_pack_is_found(index: Index) -> None:
    index.add_object(name("one"), listed(s.indexed(s.data_pack())))

    for content in s.CHUNKS:
        (location,) = index.locate(s.KEYS.chunk_id(content))
        assert location.length == len(content)
        assert index.has(s.KEYS.chunk_id(content))
    with pytest.raises(ChunkMissing):
        index.locate(s.digest_of("unknown"))


def test_a_pack_that_is_listed_twice_the_same_way_is_one(index: Index) -> None:
    index.add_object(name("one"), listed(s.indexed(s.data_pack())))
    index.add_object(name("two"), listed(s.indexed(s.data_pack())))

    assert len(list(index.packs())) == 1
    assert len(index.locate(s.KEYS.chunk_id(s.XS))) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_false_listing_of_a_pack_hides_nothing_of_the_true_one(
    index: Index, *, is_first: bool
) -> None:
    true = s.indexed(s.data_pack())
    other = build_pack(
        s.KEYS, s.OTHER_WRITER, Role.DATA, [s.draft(b"not in there")], s.random_of("false")
    )
    false = replace(s.indexed(other), pack_id=true.pack_id)  # what a hacked host may claim
    objects = [(name("false"), listed(false)), (name("true"), listed(true))]

    for object_id, content in objects if is_first else objects[::-1]:
        index.add_object(object_id, content)

    for content in s.CHUNKS:
        (location,) = index.locate(s.KEYS.chunk_id(content))
        pack = index.pack(index.block(location.block_no).pack_no)
        assert (pack.pack_id, pack.header) == (true.pack_id, true.header)


def test_what_a_vanished_object_listed_is_dropped(index: Index) -> None:
    index.add_object(name("one"), listed(s.indexed(s.data_pack())))
    index.add_object(name("two"), listed(s.indexed(s.meta_pack())))

    index.retain_objects([name("two")])

    assert not index.has(s.KEYS.chunk_id(s.XS))
    assert [pack.pack_id for pack in index.packs()] == [s.meta_pack().pack_id]


def test_what_a_replaced_object_listed_counts_only_through_its_replacement(index: Index) -> None:
    index.add_object(name("old"), listed(s.indexed(s.data_pack()), s.indexed(s.meta_pack())))
    index.add_object(
        name("new"), replace(listed(s.indexed(s.meta_pack())), replaces=(name("old"),))
    )

    index.retain_objects([name("old"), name("new")])

    assert [pack.pack_id for pack in index.packs()] == [s.meta_pack().pack_id]


def test_a_marked_pack_is_read_from_but_not_relied_on(index: Index) -> None:
    pack = s.indexed(s.data_pack())
    index.add_object(name("one"), listed(pack))
    assert index.is_whole

    index.add_object(name("mark"), replace(listed(), marked=(pack.pack_id,)))

    assert not index.has(s.KEYS.chunk_id(s.XS))
    assert len(index.locate(s.KEYS.chunk_id(s.XS))) == 1
    assert not index.is_whole
