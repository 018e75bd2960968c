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
from coopfs.ids import ObjectId, PackId, WriterId


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


def listing(
    *packs: IndexedPack, marked: tuple[PackId, ...] = (), replaces: tuple[ObjectId, ...] = ()
) -> IndexObject:
    return IndexObject(packs, marked, replaces, s.WRITER.writer_id, 0)


def pack_with(content: bytes) -> IndexedPack:
    """Return a pack that holds one chunk."""
    return s.indexed(
        build_pack(s.KEYS, s.WRITER, Role.DATA, [s.draft(content)], s.random_of(repr(content)))
    )


def chunk(content: bytes) -> bytes:
    return s.KEYS.chunk_id(content)


def test_what_is_in_a_marked_pack_is_found_but_not_relied_on(index: Index) -> None:
    pack, copy = pack_with(b"one"), replace(pack_with(b"one"), pack_id=PackId(bytes(32)))
    index.add_object(name("one"), listing(pack))
    assert index.is_whole
    before = index.generation
    index.add_object(name("mark"), listing(marked=(pack.pack_id,)))
    assert index.generation > before
    assert not index.is_whole
    assert not index.has(chunk(b"one"))
    assert len(index.locate(chunk(b"one"))) == 1
    # A copy elsewhere is relied on, and comes first.
    index.add_object(name("two"), listing(copy))
    assert index.has(chunk(b"one"))
    best = index.locate(chunk(b"one"))[0]
    assert index.pack(index.block(best.block_no).pack_no).pack_id == copy.pack_id
    assert index.first_location(chunk(b"one")) == best


def test_a_mark_that_comes_before_the_pack_it_marks_counts(index: Index) -> None:
    pack = pack_with(b"one")
    index.add_object(name("mark"), listing(marked=(pack.pack_id,)))
    index.add_object(name("one"), listing(pack))
    assert not index.has(chunk(b"one"))


def test_a_mark_is_final_and_a_loss_is_not(index: Index) -> None:
    marked, lost = pack_with(b"marked"), pack_with(b"lost")
    index.add_object(name("one"), listing(marked, lost))
    index.add_object(name("mark"), listing(marked=(marked.pack_id,)))
    index.mark_lost(lost.pack_id, "not there")
    assert index.lost() == {lost.pack_id: "not there"}
    assert not index.has(chunk(b"lost"))
    index.mark_found([marked.pack_id, lost.pack_id])
    assert index.has(chunk(b"lost"))
    assert not index.has(chunk(b"marked"))
    assert index.lost() == {}


def test_a_mark_stays_when_the_object_that_made_it_is_gone(index: Index) -> None:
    pack = pack_with(b"one")
    index.add_object(name("one"), listing(pack))
    index.add_object(name("mark"), listing(marked=(pack.pack_id,)))
    index.retain_objects([name("one")])
    assert not index.has(chunk(b"one"))


def test_a_replaced_object_is_ignored_while_its_replacement_exists(index: Index) -> None:
    old, new = pack_with(b"old"), pack_with(b"new")
    index.add_object(name("old"), listing(old))
    index.add_object(name("new"), listing(new, replaces=(name("old"),)))
    assert not index.retain_objects([name("old"), name("new")])
    assert not index.has(chunk(b"old")) and index.has(chunk(b"new"))
    assert name("old") in index.known_objects()  # not to be read at every refresh
    # The replacement is gone: what it replaced counts again, and is to be read again.
    assert index.retain_objects([name("old")])
    assert name("old") not in index.known_objects()
    assert not index.has(chunk(b"new"))


def test_an_object_another_process_adds_after_the_listing_is_kept(index: Index) -> None:
    index.add_object(name("one"), listing(pack_with(b"one")))
    known = index.known_objects()
    listed_before = [name("one")]
    index.add_object(name("late"), listing(pack_with(b"late")))
    index.retain_objects(listed_before, known)
    assert index.has(chunk(b"late"))
    index.retain_objects(listed_before, index.known_objects())
    assert not index.has(chunk(b"late"))


def test_numbers_of_blocks_and_packs_are_never_given_out_again(index: Index) -> None:
    seen: set[int] = set()
    packs: set[int] = set()
    for round_ in range(3):
        content = b"%d" % round_
        index.add_object(name(f"{round_}"), listing(pack_with(content)))
        block_no = index.locate(chunk(content))[0].block_no
        pack_no = index.block(block_no).pack_no
        assert block_no not in seen and pack_no not in packs
        seen.add(block_no)
        packs.add(pack_no)
        index.retain_objects([])


def test_another_process_sees_what_was_marked_once_it_looks(tmp_path: Path) -> None:
    states = State(tmp_path), State(tmp_path)
    mine, other = map(Index, states)
    pack = pack_with(b"one")
    other.add_object(name("one"), listing(pack))
    mine.reload_if_changed()
    assert mine.has(chunk(b"one"))
    other.mark_lost(pack.pack_id, "gone")
    mine.reload_if_changed()
    assert not mine.has(chunk(b"one"))
    other.retain_objects([])
    mine.reload_if_changed()
    with pytest.raises(ChunkMissing):
        mine.locate(chunk(b"one"))
    for state in states:
        state.close()


def test_ids_that_share_a_prefix_are_told_apart(index: Index) -> None:
    pack = pack_with(b"one")
    index.add_object(name("one"), listing(pack))
    alike = chunk(b"one")[:16] + bytes(16)
    with pytest.raises(ChunkMissing):
        index.locate(alike)


def by(writer_id: WriterId, *packs: IndexedPack) -> IndexObject:
    return replace(listed(*packs), writer_id=writer_id)


def test_packs_of_a_distrusted_writer_are_read_and_not_relied_on(index: Index) -> None:
    mine, theirs = s.WRITER.writer_id, s.OTHER_WRITER.writer_id
    first = build_pack(
        s.KEYS, s.OTHER_WRITER, Role.DATA, [s.draft(b"shared", b"alone")], s.random_of("theirs")
    )
    shared, alone = s.KEYS.chunk_id(b"shared"), s.KEYS.chunk_id(b"alone")
    index.add_object(name("theirs"), by(theirs, s.indexed(first)))
    generation = index.generation
    index.distrust([theirs])
    assert index.generation > generation
    assert not index.has(shared)
    assert index.locate(alone)
    index.distrust([theirs])
    assert index.generation == generation + 1  # said again it is nothing new
    second = build_pack(s.KEYS, s.WRITER, Role.DATA, [s.draft(b"shared")], s.random_of("mine"))
    index.add_object(name("mine"), by(mine, s.indexed(second)))
    assert index.has(shared) and not index.has(alone)
    usable, other = index.locate(shared)
    assert index.pack(index.block(usable.block_no).pack_no).writer_id == mine
    assert index.pack(index.block(other.block_no).pack_no).writer_id == theirs
    index.distrust([])
    assert index.has(alone) and index.is_whole


def test_whose_a_pack_is_takes_the_word_of_somebody_else(index: Index) -> None:
    mine, theirs = s.WRITER.writer_id, s.OTHER_WRITER.writer_id
    pack = s.indexed(s.data_pack())
    assert pack.directory.writer_id == mine
    index.add_object(name("claim"), by(theirs, pack))
    (no,) = (found.pack_no for found in index.packs())
    assert index.packs_by([theirs]) == index.packs_by([mine]) == {no}
    index.add_object(name("word"), by(mine, pack))
    assert index.packs_by([theirs]) == set()
    assert index.packs_by([mine]) == index.packs_by([mine, theirs]) == {no}
    assert index.packs_by([]) == set()


def test_rows_kept_in_memory_are_bounded_by_their_chunks(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.archive.index.ROW_CHUNKS_KEPT", 2)
    index.add_object(name("one"), listed(s.indexed(s.data_pack()), s.indexed(s.meta_pack())))
    for pack in index.packs():
        for block in index.blocks_of(pack.pack_no):
            assert index.block(block.block_no) == index.block(block.block_no)
            kept = list(index._blocks.values())
            assert len(kept) == 1 or sum(len(row.chunk_ids) for row in kept) <= 2
    index.reload()
    assert index._block_chunks == 0


def test_a_pack_that_leaves_takes_its_own_rows_and_no_others(index: Index) -> None:
    data, meta = s.indexed(s.data_pack()), s.indexed(s.meta_pack())
    index.add_object(name("one"), listed(data))
    index.add_object(name("two"), listed(meta))
    twin = replace(data, pack_id=PackId(s.digest_of("twin")))  # the same chunks elsewhere
    index.add_object(name("three"), listed(twin))
    index.note_sound(
        block.block_no for pack in index.packs() for block in index.blocks_of(pack.pack_no)
    )

    index.retain_objects([name("two"), name("three")])

    connection = index._state.connection
    left = {pack.pack_id: pack.pack_no for pack in index.packs()}
    assert left.keys() == {meta.pack_id, twin.pack_id}
    assert {no for (no,) in connection.execute("SELECT pack_no FROM blocks")} == {*left.values()}
    for table in ("chunks", "sound_blocks"):
        (strays,) = connection.execute(
            f"SELECT count(*) FROM {table} WHERE block_no NOT IN (SELECT block_no FROM blocks)"  # noqa: S608  # of our own making
        ).fetchone()
        assert strays == 0, table
    for content in s.CHUNKS:
        (location,) = index.locate(s.KEYS.chunk_id(content))
        assert index.block(location.block_no).pack_no == left[twin.pack_id]
