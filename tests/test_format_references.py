"""What a node refers to is what full parsing finds; what could hide something is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from format_strategies import ids
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import CoopfsError, FormatUnsupported, ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.nodes import decode_tree_node
from coopfs.format.references import References, _of_usual, tree_references


def chunks_of(found: References) -> list[bytes]:
    return [found.chunks[at : at + 32] for at in range(0, len(found.chunks), 32)]


def by_parsing(node: bytes) -> tuple[list[bytes], list[bytes], list[bytes]]:
    parsed = decode_tree_node(node, "node")
    assert not any(entry.unsupported for entry in parsed.entries)
    return (
        [e.tree for e in parsed.entries if e.tree] + [c.tree_id for c in parsed.children],
        [x.chunk_id for e in parsed.entries for x in e.spans or () if x.chunk_id],
        [e.span_root for e in parsed.entries if e.span_root],
    )


@pytest.mark.parametrize("number", range(len(s.tree_nodes())))
def test_references_are_those_of_full_parsing(number: int) -> None:
    node = list(s.tree_nodes().values())[number]
    found = tree_references(node, "node")
    assert (found.trees, chunks_of(found), found.span_roots) == by_parsing(node)


def entry(**fields: Any) -> dict[int, Any]:
    return {0: b"name", 1: 0, **{int(key[1:]): value for key, value in fields.items()}}


def node_of(*items: Any, level: int = 0) -> bytes:
    return encoding.encode({0: level, 1: list(items)})


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | ids), max_size=4), ids, ids)
def test_content_of_each_kind(
    spans: list[tuple[int, bytes | None]], root: bytes, tree: bytes
) -> None:
    flat = [item for span in spans for item in span]
    node = node_of(entry(k17=flat), entry(k18=root), entry(k19=tree), entry(k16=b"inline"), entry())
    found = tree_references(node, "node")
    assert chunks_of(found) == [chunk_id for _, chunk_id in spans if chunk_id is not None]
    assert (found.span_roots, found.trees) == ([root], [tree])


def test_content_of_a_newer_version_is_refused() -> None:
    with pytest.raises(FormatUnsupported, match="critical key 64"):
        tree_references(node_of(entry(k16=b""), entry(k64=b"recipe")), "node")


@pytest.mark.parametrize(
    "node",
    [
        b"",
        encoding.encode([]),
        encoding.encode({0: 0}),
        encoding.encode({0: 0, 1: {}}),
        node_of(b"entry"),
        node_of({}),
        node_of({"a": 1}),
        node_of(entry(k17=b"x" * 32)),
        node_of(entry(k17=[1, b"short"])),
        node_of(entry(k17=[1, "text"])),
        node_of(entry(k18=b"short")),
        node_of(entry(k19=None)),
        node_of([b"name"], level=1),
        node_of([b"name", b"short", 1], level=1),
        node_of(7, level=1),
    ],
)
def test_what_could_hide_something_is_refused(node: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        tree_references(node, "node")


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 5))
def test_edited_bytes_are_refused_or_read(data: bytes, place: int, cut: int) -> None:
    node = bytearray(next(iter(s.tree_nodes().values())))
    node[place : place + cut] = data
    with suppress(CoopfsError):
        tree_references(bytes(node), "node")


def usual(name: bytes, kind: int = 0, **fields: Any) -> dict[int, Any]:
    """An entry of the kind that the pattern is for."""
    owned = {0: name, 1: kind, 2: 0o644, 3: 0, 4: 1000, 5: b"root", 6: b"staff"}
    sized = owned if kind else owned | {7: 70_000}
    return sized | {8: 1 << 60} | {int(key[1:]): value for key, value in fields.items()}


chunk_ids = st.lists(ids, min_size=1, max_size=9)
# What looks like the middle of an entry, of a node, or of a reference.
odd_bytes = st.sampled_from(
    (b"\x01\x00\x02", b"\x01\x01\x02\x00\x03", b"\x11\x92\x01\xc4\x20" + b"i" * 32, b"\x8a\x00\xc4")
)
odd_names = st.lists(odd_bytes | st.binary(min_size=1, max_size=9), min_size=1, max_size=3)


@st.composite
def usual_items(draw: st.DrawFn) -> dict[int, Any]:
    name = b"".join(draw(odd_names))[:70]
    form = draw(st.sampled_from(("inline", "spans", "root", "folder", "symlink")))
    if form == "inline":
        return usual(name, k16=b"".join(draw(odd_names)))
    if form == "spans":
        return usual(name, k17=[x for chunk_id in draw(chunk_ids) for x in (300, chunk_id)])
    if form == "root":
        return usual(name, k18=draw(ids))
    if form == "folder":
        return usual(name, 1, k19=draw(ids), k20=[1, 0, 70_000])
    return usual(name, 2, k11=b"".join(draw(odd_names)))


@given(st.lists(usual_items(), max_size=20))
def test_usual_entries_hide_nothing_whatever_they_are_called(items: list[dict[int, Any]]) -> None:
    found = tree_references(node_of(*items), "node")
    assert found.trees == [item[19] for item in items if 19 in item]
    assert found.span_roots == [item[18] for item in items if 18 in item]
    assert sorted(chunks_of(found)) == sorted(x for i in items for x in i.get(17, [])[1::2])


def test_the_pattern_does_what_usual_entries_need() -> None:
    items = [
        usual(b"a", k16=b""),
        usual(b"b", k17=[70_000, b"1" * 32]),
        usual(b"c", k17=[1, b"2" * 32, 69_999, b"3" * 32]),
        usual(b"d", k18=b"4" * 32),
        usual(b"e", 1, k19=b"5" * 32, k20=[1, 2, 3]),
        usual(b"f", 2, k11=b"target"),
    ]
    found = _of_usual(node_of(*items))
    assert found == tree_references(node_of(*items), "node")
    assert found is not None
    assert (len(found.chunks), len(found.trees), len(found.span_roots)) == (96, 1, 1)
    newer = usual(b"g", k64=b"recipe")
    for odd in (entry(k16=b""), newer, usual(b"h", k17=[1, None, 2, b"6" * 32])):
        assert _of_usual(node_of(*items, odd)) is None  # decoded instead
    node = node_of(*items)
    assert _of_usual(node[:-1]) is None
    assert _of_usual(node + b"\x00") is None
    assert _of_usual(node[:4] + b"\x95" + node[5:]) is None  # says one entry less
    two = node_of(items[2])
    assert _of_usual(two.replace(b"\x11\x94", b"\x11\x96")) is None  # says three spans
