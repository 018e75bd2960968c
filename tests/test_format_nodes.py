"""Folders and span lists as trees of nodes: whole, ordered, and local to change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import pytest
from format_strategies import names, spans
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import DataError, ObjectCorrupt
from coopfs.format import encoding, nodes
from coopfs.format.tree import Entry, Kind, Span, encode_entry, flatten_spans
from coopfs.ids import ChunkId, SpanNodeId, TreeId

CUT_KEY = s.KEYS.tree_id_key
Nodes = dict[bytes, bytes]


def entry_of(name: bytes) -> Entry:
    return Entry(name, Kind.FILE, 0o644, 0, 0, 0, inline=b"")


def folder(entries: Iterable[Entry]) -> tuple[TreeId, Nodes]:
    roots: list[TreeId] = []
    stored = s.collect(
        lambda save: roots.append(nodes.build_tree(entries, CUT_KEY, save)), s.KEYS.tree_id
    )
    return roots[0], stored


def tree_loader(stored: Nodes) -> Callable[[TreeId], nodes.TreeNode]:
    return lambda tree_id: nodes.decode_tree_node(stored[tree_id], "node")


def span_loader(stored: Nodes) -> Callable[[SpanNodeId], nodes.SpanNode]:
    return lambda node_id: nodes.decode_span_node(stored[node_id], "node")


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make nodes of 2 to 8 items, so that small examples have several levels."""
    for kind in ("ENTRY", "SPAN"):
        for what, value in (("MIN", 2), ("MASK", 3), ("MAX", 8)):
            monkeypatch.setattr(nodes, f"{kind}_{what}", value)


# --- folders -------------------------------------------------------------------------


@given(st.sets(names, max_size=200))
def test_a_folder_gives_back_its_entries_at_any_depth(all_names: set[bytes]) -> None:
    entries = [entry_of(name) for name in sorted(all_names)]
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        root, stored = folder(entries)
        load = tree_loader(stored)

        assert list(nodes.iter_entries(root, load)) == entries
        for entry in entries:
            assert nodes.find_entry(root, entry.name, load) == entry
            assert nodes.find_entry(root, entry.name + b"\0", load) is None
        assert nodes.find_entry(root, b"", load) is None
        assert nodes.find_entry(root, b"\xff" * 41, load) is None


def test_an_empty_folder_is_one_node() -> None:
    root, stored = folder([])

    assert list(stored.values()) == [b"\x82\x00\x00\x01\x90"]
    assert list(nodes.iter_entries(root, tree_loader(stored))) == []


@pytest.mark.parametrize("count", [255, 256, 257, 4096, 4097, 20_000])
def test_nodes_stay_within_their_bounds(count: int) -> None:
    entries = [entry_of(b"%06d" % number) for number in range(count)]
    root, stored = folder(entries)
    load = tree_loader(stored)

    assert list(nodes.iter_entries(root, load)) == entries
    top = load(root)
    for child in top.children[:-1]:
        assert nodes.ENTRY_MIN <= child.entry_count <= nodes.ENTRY_MAX
    if top.level:
        assert sum(child.entry_count for child in top.children) == count


def test_a_node_is_cut_before_it_grows_beyond_a_mebibyte() -> None:
    big = ((b"user.big", bytes(60_000)),)
    entries = [entry_of(b"%06d" % number)._replace(xattrs=big) for number in range(100)]
    root, stored = folder(entries)

    assert list(nodes.iter_entries(root, tree_loader(stored))) == entries
    assert max(map(len, stored.values())) <= nodes.NODE_BYTES_MAX
    assert len(stored) < 10


def test_an_entry_larger_than_a_node_has_one_for_itself() -> None:
    big = ((b"user.big", bytes(1 << 20)), (b"user.more", bytes(1 << 20)))
    entries = [entry_of(b"%d" % number)._replace(xattrs=big) for number in range(5)]
    root, stored = folder(entries)

    assert list(nodes.iter_entries(root, tree_loader(stored))) == entries
    assert len(stored) == 6


def test_one_insertion_rewrites_few_nodes() -> None:
    shuffled = random.Random(7)
    entries = [entry_of(b"%08d" % (2 * number)) for number in range(30_000)]
    _, before = folder(entries)
    rewritten = []
    for _ in range(10):
        name = b"%08d" % (2 * shuffled.randrange(30_000) + 1)
        changed = sorted([*entries, entry_of(name)])
        _, after = folder(changed)
        rewritten.append(len(after.keys() - before.keys()))

    assert len(before) > 15
    # The leaf and the root; now and then a forced cut moves, and some leaves with it.
    assert sorted(rewritten)[5] <= 3
    assert max(rewritten) <= 8


def test_cut_points_depend_on_the_key() -> None:
    entries = [entry_of(b"%08d" % number) for number in range(20_000)]
    sizes = []
    for key in (s.KEYS.tree_id_key, s.OTHER_KEYS.tree_id_key):
        leaves: list[bytes] = []

        def save(node: bytes, into: list[bytes] = leaves) -> TreeId:
            into.append(node)
            return s.KEYS.tree_id(node)

        nodes.build_tree(entries, key, save)
        sizes.append([len(node) for node in leaves])

    assert sizes[0] != sizes[1]


# --- folders that lie ------------------------------------------------------------------


def leaf(*all_names: bytes) -> bytes:
    return encoding.encode({0: 0, 1: [encode_entry(entry_of(name)) for name in all_names]})


def inner(level: int, *children: tuple[bytes, bytes, int]) -> bytes:
    pointers = [[first, s.KEYS.tree_id(node), count] for first, node, count in children]
    return encoding.encode({0: level, 1: pointers})


def walk(top: bytes, *below: bytes) -> list[bytes]:
    stored = {bytes(s.KEYS.tree_id(node)): node for node in (top, *below)}
    root = s.KEYS.tree_id(top)
    return [entry.name for entry in nodes.iter_entries(root, tree_loader(stored))]


def test_children_as_announced_are_read() -> None:
    one, two = leaf(b"a", b"b"), leaf(b"c")

    assert walk(inner(1, (b"a", one, 2), (b"c", two, 1)), one, two) == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("children", "what"),
    [
        ([(b"a", (b"a", b"d"), 2), (b"c", (b"c",), 1)], "ascending"),
        ([(b"a", (b"a", b"c"), 2), (b"c", (b"c",), 1)], "ascending"),
        ([(b"a", (b"b",), 1)], "above"),
        ([(b"a", (b"a",), 2)], "above"),
        ([(b"a", (), 1)], "above"),
    ],
    ids=["overlap", "twice", "first name", "count", "empty"],
)
def test_children_that_are_not_as_announced_are_refused(
    children: list[tuple[bytes, tuple[bytes, ...], int]], what: str
) -> None:
    leaves = [leaf(*all_names) for _, all_names, _ in children]
    pointers = [(c[0], node, c[2]) for c, node in zip(children, leaves, strict=True)]

    with pytest.raises(ObjectCorrupt, match=what):
        walk(inner(1, *pointers), *leaves)


def test_a_child_at_the_wrong_level_is_refused() -> None:
    bottom = leaf(b"a")
    middle = inner(1, (b"a", bottom, 1))
    top = inner(3, (b"a", middle, 1))
    stored = {bytes(s.KEYS.tree_id(node)): node for node in (bottom, middle, top)}

    with pytest.raises(ObjectCorrupt):
        walk(top, middle, bottom)
    with pytest.raises(ObjectCorrupt):
        nodes.find_entry(s.KEYS.tree_id(top), b"a", tree_loader(stored))
    with pytest.raises(ObjectCorrupt):
        walk(inner(2, (b"a", bottom, 1)), bottom)


def test_a_subtree_shared_by_two_pointers_is_refused() -> None:
    """A few such levels would be a folder of more entries than there are atoms."""
    bottom = leaf(b"a")
    once = inner(2, (b"a", inner(1, (b"a", bottom, 1)), 1))
    assert walk(once, inner(1, (b"a", bottom, 1)), bottom) == [b"a"]

    with pytest.raises(ObjectCorrupt):
        walk(inner(1, (b"a", bottom, 1), (b"b", bottom, 1)), bottom)


@given(st.binary(max_size=80))
def test_nodes_of_noise_are_refused(data: bytes) -> None:
    for decode in (nodes.decode_tree_node, nodes.decode_span_node):
        with pytest.raises(DataError, match="node: "):
            decode(data, "node")


# --- spans -----------------------------------------------------------------------------


def build_spans(items: Sequence[Span]) -> tuple[SpanNodeId, Nodes]:
    return s.span_tree(tuple(items))


@given(st.lists(spans, min_size=1, max_size=300))
def test_a_span_tree_is_equal_to_its_list(items: list[Span]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        root, stored = build_spans(items)
        size = sum(span.length for span in items)

        assert list(nodes.iter_spans(root, span_loader(stored), size)) == items
        assert list(nodes.iter_spans(root, span_loader(stored))) == items


@pytest.mark.parametrize("count", [1, 255, 256, 257, 4096, 4097, 30_000])
def test_long_span_lists_come_back(count: int) -> None:
    items = s.many_spans(count)
    root, stored = build_spans(items)

    assert tuple(nodes.iter_spans(root, span_loader(stored))) == items
    load = span_loader(stored)
    for node in map(SpanNodeId, stored):
        decoded = load(node)
        assert len(decoded.spans or decoded.children) <= nodes.SPAN_MAX


def test_holes_alone_are_cut_at_the_maximum() -> None:
    items = [Span(1, None)] * 10_000
    root, stored = build_spans(items)
    load = span_loader(stored)

    assert list(nodes.iter_spans(root, load)) == items
    assert len(stored) == 3  # two equal full leaves are one node, the rest, the root


def test_a_span_tree_takes_bounded_memory_while_it_grows() -> None:
    open_items = []
    builder = nodes.SpanTreeBuilder(s.KEYS.span_node_id)
    for span in s.many_spans(20_000):
        builder.add(span)
        open_items.append(sum(map(len, builder._levels)))

    assert max(open_items) < 2 * nodes.SPAN_MAX


def test_one_changed_chunk_rewrites_few_span_nodes() -> None:
    items = list(s.many_spans(30_000))
    _, before = build_spans(items)
    changed = [*items[:15_000], Span(5, ChunkId(s.digest_of("new"))), *items[15_000:]]
    _, after = build_spans(changed)

    assert len(before) > 15
    assert len(after.keys() - before.keys()) <= 4


def test_span_nodes_that_are_not_as_announced_are_refused() -> None:
    bottom = encoding.encode({0: 0, 1: flatten_spans((Span(5, None),))})
    node_id = s.KEYS.span_node_id(bottom)
    stored: Nodes = {bytes(node_id): bottom}
    for level, length in ((1, 6), (2, 5)):
        top = encoding.encode({0: level, 1: [length, node_id]})
        root = s.KEYS.span_node_id(top)
        stored[root] = top
        with pytest.raises(ObjectCorrupt, match="not what the node above it says"):
            list(nodes.iter_spans(root, span_loader(stored)))
    with pytest.raises(ObjectCorrupt, match="does not add up to 4 bytes"):
        list(nodes.iter_spans(node_id, span_loader(stored), 4))


def test_chunk_ids_in_an_entry_are_those_of_its_chunks() -> None:
    sparse = next(entry for entry in s.ENTRIES if entry.name == b"sparse")

    assert list(nodes.chunk_ids_of(sparse)) == [s.digest_of("data")]
    assert list(nodes.chunk_ids_of(entry_of(b"inline"))) == []
