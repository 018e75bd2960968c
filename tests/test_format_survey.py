"""A survey accepts exactly what full parsing accepts, and finds the same in it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from format_strategies import entries, ids, names, owners
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import CoopfsError, ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.likeness import Surveyor
from coopfs.format.nodes import decode_tree_node
from coopfs.format.survey import Survey, survey_tree_node, survey_usual
from coopfs.format.tree import Entry, Kind, Span, Totals, encode_entry
from coopfs.ids import ChunkId, SpanNodeId, TreeId

sizes = st.integers(1, 130) | st.integers(1, 1 << 40)  # every spelling of a number
numbers = st.sampled_from((0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1))


@st.composite
def usual_entries(draw: st.DrawFn) -> Entry:
    """An ordinary file or folder, as nine of ten are."""
    entry = Entry(
        draw(names),
        Kind.FILE,
        draw(st.integers(0, 0o7777)),
        draw(numbers),
        draw(numbers),
        draw(st.integers(1 << 32, (1 << 63) - 1)),
        user=draw(owners),
        group=draw(owners),
    )
    form = draw(st.sampled_from(("inline", "one", "many", "root", "folder", "symlink")))
    if form == "inline":
        content = draw(st.binary(max_size=255) | st.binary(min_size=256, max_size=256))
        return entry._replace(size=len(content), inline=content)
    if form == "folder":
        totals = Totals(*(draw(sizes) for _ in range(3)))
        owned = entry._replace(user=entry.user or b"ann", group=entry.group or b"staff")
        return owned._replace(kind=Kind.FOLDER, tree=TreeId(draw(ids)), totals=totals)
    if form == "symlink":
        owned = entry._replace(user=entry.user or b"ann", group=entry.group or b"staff")
        target = draw(st.binary(min_size=1, max_size=255).filter(lambda target: 0 not in target))
        return owned._replace(kind=Kind.SYMLINK, target=target)
    if form == "root":
        return entry._replace(size=draw(sizes), span_root=SpanNodeId(draw(ids)))
    least, most = (1, 1) if form == "one" else (2, 66)
    lens = draw(st.lists(sizes, min_size=least, max_size=most))
    spans = tuple(Span(length, ChunkId(draw(ids))) for length in lens)
    return entry._replace(size=sum(lens), spans=spans)


ENDS = frozenset(range(9))  # bytes that may stand after a name


def node_of(folder: list[Entry]) -> bytes:
    ordered = sorted({entry.name: entry for entry in folder}.values())
    return encoding.encode({0: 0, 1: [encode_entry(entry) for entry in ordered]})


def by_parsing(node: bytes) -> dict[str, Any]:
    """What a reader finds in *node*."""
    parsed = decode_tree_node(node, "node")
    files = [entry for entry in parsed.entries if entry.tree is None]
    named = [entry.name for entry in parsed.entries] or [c.first_name for c in parsed.children]
    return {
        "level": parsed.level,
        "count": len(parsed.entries),
        "ends": (named[0], named[-1]) if named else (b"", b""),
        "files": (len(files), sum(entry.size for entry in files)),
        "chunks": sorted(
            (span.chunk_id, span.length)
            for entry in files
            for span in entry.spans or ()
            if span.chunk_id is not None
        ),
        "folders": [
            (entry.name, entry.tree, entry.totals and list(entry.totals))
            for entry in parsed.entries
            if entry.tree is not None
        ],
        "rooted": [(entry.size, entry.span_root) for entry in files if entry.span_root],
        "unsupported": [(e.size, e.unsupported) for e in files if e.unsupported],
        "children": [tuple(child) for child in parsed.children],
    }


def plainly(found: Survey) -> dict[str, Any]:
    chunk_ids = [found.chunk_ids[at : at + 32] for at in range(0, len(found.chunk_ids), 32)]
    return {
        "level": found.level,
        "count": found.entry_count,
        "ends": (found.first_name, found.last_name),
        "files": (found.files, found.size),
        "chunks": sorted(zip(chunk_ids, found.span_lens, strict=True)),
        "folders": [(n, tree, t and list(t)) for n, tree, t in found.folders],
        "rooted": list(found.rooted),
        "unsupported": list(found.unsupported),
        "children": [tuple(child) for child in found.children],
    }


def outcome(look: Any, node: bytes) -> Any:
    try:
        return look(node)
    except CoopfsError as exc:
        return type(exc)


def surveyed(node: bytes) -> dict[str, Any]:
    return plainly(survey_tree_node(node, "node"))


@given(st.lists(usual_entries(), min_size=1, max_size=20))
def test_usual_entries_are_found_by_the_pattern_alone(folder: list[Entry]) -> None:
    kept = {entry.name: entry for entry in folder}.values()
    is_rare = any(len(e.spans or ()) > 64 or ENDS & {*e.name, *e.user, *e.group} for e in kept)
    node = node_of(folder)
    assert (survey_usual(node, "node") is None) is is_rare
    assert surveyed(node) == by_parsing(node)


@given(st.lists(usual_entries() | entries(), max_size=6))
@example([])
def test_entries_of_any_kind_are_found(folder: list[Entry]) -> None:
    node = node_of(folder)
    assert surveyed(node) == by_parsing(node)


@given(st.lists(usual_entries(), min_size=1, max_size=3), st.data())
def test_what_was_altered_is_judged_as_a_reader_does(
    folder: list[Entry], data: st.DataObject
) -> None:
    node = bytearray(node_of(folder))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(node) - 1))
        how = data.draw(st.sampled_from(("change", "insert", "cut")))
        byte = data.draw(
            st.sampled_from(b"\0\1\x0a./\x10\x11\x7f\x80\x8a\x92\xc4\xcc\xcd\xce\xcf\xff")
        )
        if how == "change":
            node[place] = byte
        elif how == "insert":
            node.insert(place, byte)
        elif len(node) > 1:
            del node[place]
    altered = bytes(node)
    assert outcome(surveyed, altered) == outcome(by_parsing, altered)


FILE = Entry(
    b"name",
    Kind.FILE,
    0o644,
    1,
    2,
    1 << 60,
    b"ann",
    b"staff",
    9,
    spans=(Span(9, ChunkId(bytes(32))),),
)


@pytest.mark.parametrize(
    "change",
    [
        {0: b".."},
        {0: b"a/b"},
        {0: b"a\0"},
        {2: 0o10000},
        {3: 1 << 32},
        {5: b"a\0b"},
        {7: 10},
        {7: 0, 17: [0, bytes(32)]},
        {8: -(1 << 63)},
        {17: [9, bytes(31)]},
        {17: [4, bytes(32), 4, bytes(32)]},
        {17: [4, bytes(32), 5]},
        {17: [9, bytes(32), 0, bytes(32)]},
    ],
)
def test_what_a_reader_refuses_is_refused(change: dict[int, Any]) -> None:
    node = encoding.encode({0: 0, 1: [encode_entry(FILE) | change]})
    with pytest.raises(ObjectCorrupt):
        survey_tree_node(node, "node")


@pytest.mark.parametrize("second", [b"name", b"nam", b"a"])
def test_names_out_of_order_are_refused(second: bytes) -> None:
    fields = [encode_entry(FILE), encode_entry(FILE._replace(name=second))]
    with pytest.raises(ObjectCorrupt, match="ascending"):
        survey_tree_node(encoding.encode({0: 0, 1: fields}), "node")


def test_lengths_that_another_spelling_would_have_are_refused() -> None:
    node = node_of([FILE])
    spelled = node.replace(b"\x07\x09", b"\x07\xcc\x09").replace(b"\x92\x09", b"\x92\xcc\x09")
    assert spelled != node
    with pytest.raises(ObjectCorrupt, match="canonical"):
        survey_tree_node(spelled, "node")


@pytest.mark.parametrize("ends", [b"\x06\xc4b", b"\x06\xc4b\x08\xcf"])
def test_a_node_made_to_be_read_in_many_ways_is_refused_at_once(ends: bytes) -> None:
    # Every piece could end a name or begin an owner: to try them all took time in n^3.
    piece = b"\x01\x01\x02\x40\x03\x40\x04\x40\x05\xc4a"
    node = b"\x82\x00\x00\x01\x91\x8a\x00\xc4\x05" + piece * 3000 + ends * 3000
    begun_s = time.process_time()
    with pytest.raises(ObjectCorrupt):
        survey_tree_node(node, "node")
    assert time.process_time() - begun_s < 1.0  # seconds; it was an hour


@pytest.mark.parametrize("field", [0, 5, 6, 11])
def test_a_length_that_bytes_go_beyond_is_refused(field: int) -> None:
    link = Entry(b"name", Kind.SYMLINK, 0o777, 1, 2, 1 << 60, b"ann", b"staff", target=b"there")
    text = encode_entry(link)[field]
    for longer in (text + b"x" * 5, text + b"x" * 300):
        node = node_of([link]).replace(b"\xc4%c%b" % (len(text), text), b"\xc4\x04" + longer)
        assert node != node_of([link])
        with pytest.raises(ObjectCorrupt):
            survey_tree_node(node, "node")


def test_a_block_gives_its_sound_tree_nodes_and_passes_over_the_rest() -> None:
    keys = s.KEYS
    sound, broken, spans = node_of([FILE]), b"\x82\x00\x00\x01\x91\xc0", b"a span node"
    nodes = [sound, broken, spans, sound]
    named = [keys.tree_id(sound), keys.tree_id(broken), keys.span_node_id(spans), bytes(32)]
    found = Surveyor().survey_block(keys, named, map(len, nodes), memoryview(b"".join(nodes)))
    assert [(name, plainly(survey)) for name, survey in found] == [(named[0], by_parsing(sound))]
