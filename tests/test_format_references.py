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
from coopfs.format.references import References, tree_references


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
