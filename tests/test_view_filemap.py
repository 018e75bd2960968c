"""Spans and span trees by bisection: every range is exact, and lies are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import ObjectCorrupt
from coopfs.format.nodes import SpanChild, SpanNode, SpanTreeBuilder, decode_span_node
from coopfs.format.tree import Entry, Kind, Span
from coopfs.ids import ChunkId, SpanNodeId
from coopfs.view.filemap import FileMap, NodeAbsent, Piece, SpanLevel

SPANS = st.lists(
    st.tuples(st.integers(1, 9), st.booleans()).map(
        lambda pair: Span(pair[0], None if pair[1] else ChunkId(bytes(32)))
    ),
    min_size=1,
    max_size=30,
)


def numbered(spans: list[Span]) -> tuple[list[Span], dict[bytes, bytes], bytes]:
    """Give every span that is no hole its own chunk: (spans, chunks by id, whole content)."""
    chunks: dict[bytes, bytes] = {}
    made = []
    content = b""
    for number, span in enumerate(spans):
        if span.chunk_id is None:
            made.append(span)
            content += bytes(span.length)
            continue
        data = hashlib.sha256(b"%d" % number).digest()[: span.length]
        chunk_id = ChunkId(hashlib.sha256(b"id %d" % number).digest())
        chunks[chunk_id] = data
        made.append(Span(span.length, chunk_id))
        content += data
    return made, chunks, content


def entry_of(size: int, **content: object) -> Entry:
    return Entry(b"f", Kind.FILE, 0o644, 0, 0, 0, size=size, **content)  # type: ignore[arg-type]  # one of two


def assembled(pieces: list[Piece], chunks: dict[bytes, bytes]) -> bytes:
    parts = []
    for piece in pieces:
        assert piece.length > 0
        if piece.chunk_id is None:
            parts.append(bytes(piece.length))
        else:
            chunk = chunks[piece.chunk_id]
            assert piece.chunk_len == len(chunk)
            parts.append(chunk[piece.start : piece.start + piece.length])
    return b"".join(parts)


def nothing(node_id: SpanNodeId) -> SpanLevel | None:
    raise AssertionError("no node is needed")


@given(SPANS, st.integers(0, 300), st.integers(0, 300))
def test_any_range_of_plain_spans_is_exact(spans: list[Span], offset: int, size: int) -> None:
    made, chunks, content = numbered(spans)
    file = FileMap(entry_of(len(content), spans=tuple(made)))
    found = assembled(file.pieces(offset, size, nothing), chunks)
    assert found == content[offset : offset + size]


def span_tree(spans: list[Span], fan_out: int) -> tuple[SpanNodeId, dict[SpanNodeId, SpanLevel]]:
    """Build a span tree with few children a node: (root, prepared nodes)."""
    nodes: dict[SpanNodeId, SpanLevel] = {}

    def save(node: SpanNode) -> SpanChild:
        node_id = SpanNodeId(hashlib.sha256(b"node %d" % len(nodes)).digest())
        nodes[node_id] = SpanLevel.of_node(node)
        return SpanChild(nodes[node_id].length, node_id)

    children = [
        save(SpanNode(0, tuple(spans[at : at + fan_out]), ()))
        for at in range(0, len(spans), fan_out)
    ]
    level = 0
    while len(children) > 1:
        level += 1
        children = [
            save(SpanNode(level, (), tuple(children[at : at + fan_out])))
            for at in range(0, len(children), fan_out)
        ]
    return children[0].node_id, nodes


@given(SPANS, st.integers(0, 300), st.integers(0, 300), st.integers(2, 4))
def test_any_range_of_a_span_tree_is_exact(
    spans: list[Span], offset: int, size: int, fan_out: int
) -> None:
    made, chunks, content = numbered(spans)
    root, nodes = span_tree(made, fan_out)
    file = FileMap(entry_of(len(content), span_root=root))
    found = assembled(file.pieces(offset, size, nodes.get), chunks)
    assert found == content[offset : offset + size]


@given(SPANS, st.integers(0, 270), st.integers(1, 300))
def test_a_reader_needs_only_the_nodes_it_is_told_of(
    spans: list[Span], offset: int, size: int
) -> None:
    made, chunks, content = numbered(spans)
    root, nodes = span_tree(made, 2)
    file = FileMap(entry_of(len(content), span_root=root))
    had: dict[SpanNodeId, SpanLevel] = {}
    while True:
        try:
            pieces = file.pieces(offset, size, had.get)
            break
        except NodeAbsent as absent:
            assert absent.node_id not in had
            had[absent.node_id] = nodes[absent.node_id]
    assert assembled(pieces, chunks) == content[offset : offset + size]


def test_one_byte_of_a_long_file_needs_one_path_of_nodes() -> None:
    stored: dict[SpanNodeId, bytes] = {}

    def save(node: bytes) -> SpanNodeId:
        node_id = SpanNodeId(hashlib.sha256(node).digest())
        stored[node_id] = node
        return node_id

    builder = SpanTreeBuilder(save)
    for number in range(20_000):
        builder.add(Span(1000, ChunkId(hashlib.sha256(b"%d" % number).digest())))
    root = builder.finish()
    used = []

    def peek(node_id: SpanNodeId) -> SpanLevel:
        used.append(node_id)
        return SpanLevel.of_node(decode_span_node(stored[node_id], "node"))

    file = FileMap(entry_of(20_000_000, span_root=root))
    (piece,) = file.pieces(12_345_678, 1, peek)
    assert piece == Piece(ChunkId(hashlib.sha256(b"12345").digest()), 1000, 678, 1)
    assert 2 <= len(used) <= 4
    assert len(stored) > 8


@pytest.mark.parametrize(
    "spoil",
    [
        lambda level: SpanLevel(level.level, [5, 1], level.spans, level.child_ids),
        lambda level: SpanLevel(level.level + 1, [5, 5], level.spans, level.child_ids),
    ],
)
def test_nodes_that_contradict_each_other_are_refused(
    spoil: Callable[[SpanLevel], SpanLevel],
) -> None:
    made, _, content = numbered([Span(5, ChunkId(bytes(32)))] * 6)
    root, nodes = span_tree(made, 2)
    leaf = next(node_id for node_id, level in nodes.items() if level.level == 0)
    nodes[leaf] = spoil(nodes[leaf])
    file = FileMap(entry_of(len(content), span_root=root))
    with pytest.raises(ObjectCorrupt):
        file.pieces(0, 1, nodes.get)


def test_a_span_root_of_another_size_is_refused() -> None:
    made, _, content = numbered([Span(5, ChunkId(bytes(32)))] * 3)
    root, nodes = span_tree(made, 2)
    file = FileMap(entry_of(len(content) + 1, span_root=root))
    with pytest.raises(ObjectCorrupt, match="the file has"):
        file.pieces(0, 1, nodes.get)
