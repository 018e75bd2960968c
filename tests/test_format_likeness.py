"""Nodes surveyed by what differs say, together, what each says when surveyed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

import pytest
from format_strategies import entries
from hypothesis import given
from hypothesis import strategies as st
from test_format_survey import FILE, node_of, usual_entries
from vectors import samples as s

from coopfs.errors import CoopfsError
from coopfs.format import encoding
from coopfs.format.likeness import Surveyor
from coopfs.format.survey import Survey, survey_tree_node, survey_usual
from coopfs.format.tree import Entry, Kind, Span, Totals, encode_entry
from coopfs.ids import ChunkId, TreeId

KEYS = s.KEYS


def surveyed(blocks: Sequence[Sequence[bytes]], surveyor: Surveyor) -> list[tuple[bytes, Survey]]:
    return [
        pair
        for nodes in blocks
        for pair in surveyor.survey_block(
            KEYS, map(KEYS.tree_id, nodes), map(len, nodes), memoryview(b"".join(nodes))
        )
    ]


def alone(blocks: Sequence[Sequence[bytes]]) -> list[tuple[bytes, Survey]]:
    found = []
    for node in chain.from_iterable(blocks):
        with suppress(CoopfsError):
            found.append((bytes(KEYS.tree_id(node)), survey_tree_node(node, "tree")))
    return found


def chunks_of(survey: Survey) -> list[tuple[bytes, int]]:
    ids = [survey.chunk_ids[at : at + 32] for at in range(0, len(survey.chunk_ids), 32)]
    return list(zip(ids, survey.span_lens, strict=True))


def assert_same(found: list[tuple[bytes, Survey]], expected: list[tuple[bytes, Survey]]) -> None:
    """Compare; what a survey leaves out must be in the one that it is like."""
    assert [node_id for node_id, _ in found] == [node_id for node_id, _ in expected]
    whole = {node_id: (set(chunks_of(one)), set(one.rooted)) for node_id, one in expected}
    for (node_id, one), (_, other) in zip(found, expected, strict=True):
        chunks, rooted = set(chunks_of(one)), set(one.rooted)
        if one.like:
            assert whole[node_id][0] - chunks <= whole[one.like][0]
            assert whole[node_id][1] - rooted <= whole[one.like][1]
            assert chunks <= whole[node_id][0]
            assert rooted <= whole[node_id][1]
        else:
            assert chunks_of(one) == chunks_of(other)
            assert one.rooted == other.rooted
        plain = one._replace(chunk_ids=b"", span_lens=(), rooted=(), like=b"")
        assert plain == other._replace(chunk_ids=b"", span_lens=(), rooted=())


@given(
    st.lists(usual_entries(), min_size=1, max_size=12, unique_by=lambda entry: entry.name),
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 20), st.none() | usual_entries() | entries()), max_size=4
        ),
        max_size=6,
    ),
)
def test_versions_of_a_folder_are_surveyed_as_each_by_itself(
    folder: list[Entry], changes: list[list[tuple[int, Entry | None]]]
) -> None:
    blocks = [[node_of(folder)]]
    for night in changes:
        for place, entry in night:
            if entry is not None:
                folder = [other for other in folder if other.name != entry.name]
                folder.insert(place, entry)
            elif folder:
                folder = folder[: place % len(folder)] + folder[place % len(folder) + 1 :]
        blocks.append([node_of(folder)])
    surveyor = Surveyor()
    assert_same(surveyed(blocks, surveyor), alone(blocks))
    assert_same(surveyed([[node for block in blocks for node in block]], surveyor), alone(blocks))


def file(number: int, content: int = 0) -> Entry:
    chunk_id = ChunkId(bytes((number, content)) * 16)
    return FILE._replace(name=b"file%03d" % number, spans=(Span(9, chunk_id),))


def folder_of(*numbers: int, changed: Sequence[int] = ()) -> bytes:
    return node_of([file(number, int(number in changed)) for number in numbers])


@pytest.mark.parametrize(
    ("node", "new"),
    [
        (folder_of(*range(40), changed=[20]), [20]),
        (folder_of(*range(40), changed=[1, 2, 17, 38]), [1, 2, 17, 38]),
        (folder_of(*range(40), 77), [77]),
        (folder_of(*range(12), *range(13, 40)), []),
        (folder_of(*range(1, 40)), []),
    ],
)
def test_only_what_is_new_is_named(node: bytes, new: list[int]) -> None:
    first = folder_of(*range(40))
    (_, before), (_, after) = surveyed([[first], [node]], Surveyor())
    assert not before.like
    assert after.like == KEYS.tree_id(first)
    named = [chunk_id[0] for chunk_id, _ in chunks_of(after)]
    assert named == new


def test_a_damaged_entry_among_sound_ones_is_refused() -> None:
    fields = [encode_entry(file(number)) for number in range(40)]
    sound = encoding.encode({0: 0, 1: fields})
    for damage in ({2: 0o10000}, {7: 10}, {0: b"file000"}, {0: b"file999"}, {0: b"a/b"}):
        damaged = [*fields[:20], fields[20] | damage, *fields[21:]]
        node = encoding.encode({0: 0, 1: damaged})
        assert [pair[0] for pair in surveyed([[sound], [node]], Surveyor())] == [
            KEYS.tree_id(sound)
        ]


def test_the_number_of_entries_must_be_right() -> None:
    sound = folder_of(*range(40))
    for count in (39, 41):
        node = sound.replace(b"\xdc\x00\x28", b"\xdc\x00" + bytes((count,)), 1)
        assert node != sound
        assert len(surveyed([[sound], [node]], Surveyor())) == 1


def test_an_unusual_entry_keeps_no_other_node_from_being_compared() -> None:
    first, second = folder_of(*range(40)), folder_of(*range(40), changed=[7])
    pipe = node_of([Entry(b"pipe", Kind.FIFO, 0o600, 0, 0, 1 << 60)])
    assert survey_usual(pipe, "node") is None
    found = surveyed([[first, pipe], [pipe, second]], Surveyor())
    assert_same(found, alone([[first, pipe], [pipe, second]]))
    assert found[-1][1].like == KEYS.tree_id(first)


def test_nodes_kept_for_comparing_are_bounded() -> None:
    surveyor = Surveyor(memory_len=50_000)
    blocks = [[folder_of(*range(40), changed=range(number))] for number in range(40)]
    blocks += [[node_of([file(number, 3), file(number + 1, 4)])] for number in range(200)]
    assert_same(surveyed(blocks, surveyor), alone(blocks))
    kept = {
        item.node_id: len(item.body)
        for item in (*surveyor._young.values(), *surveyor._old.values())
    }
    assert 0 < sum(kept.values()) < 150_000


def test_a_run_found_where_no_entry_begins_is_not_taken_for_one() -> None:
    """An inline content may hold the very bytes of another entry."""
    inner = node_of([file(9)])[5:]
    holder = FILE._replace(name=b"a", size=len(inner), spans=None, inline=inner)
    first = node_of([file(9), file(10)])
    second = node_of([holder, file(10)])
    assert_same(surveyed([[first], [second]], Surveyor()), alone([[first], [second]]))


def test_folders_are_named_whether_new_or_not() -> None:
    below = FILE._replace(
        kind=Kind.FOLDER, size=0, spans=None, tree=TreeId(bytes(32)), totals=Totals(1, 2, 3)
    )
    folder = [file(1), below._replace(name=b"x"), below._replace(name=b"y")]
    blocks = [[node_of(folder)], [node_of([file(1, 1), *folder[1:]])]]
    found = surveyed(blocks, Surveyor())
    assert_same(found, alone(blocks))
    assert [name for name, _, _ in found[1][1].folders] == [b"x", b"y"]
