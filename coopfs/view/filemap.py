"""Which bytes of which chunks make up a range of a file.

Pure: spans are found by bisection, nodes of a span tree are asked for by
raising :class:`NodeAbsent`, so that whoever may wait fetches them and asks again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from coopfs.errors import ObjectCorrupt
from coopfs.format.nodes import SpanNode
from coopfs.format.tree import Entry, Span
from coopfs.ids import ChunkId, SpanNodeId, short_hex


class Piece(NamedTuple):
    """A run of bytes from one chunk, or of zeros (no id)."""

    chunk_id: ChunkId | None
    chunk_len: int  # bytes the chunk must have
    start: int  # bytes into the chunk
    length: int  # bytes


class NodeAbsent(Exception):
    """A span node is needed and not in memory."""

    def __init__(self, node_id: SpanNodeId) -> None:
        """Remember which one."""
        super().__init__(short_hex(node_id))
        self.node_id = node_id


class SpanLevel:
    """A decoded span node with the places of its items, ready for bisection."""

    __slots__ = ("child_ids", "length", "level", "located", "spans", "starts")

    def __init__(
        self,
        level: int,
        lengths: list[int],
        spans: tuple[Span, ...],
        child_ids: tuple[SpanNodeId, ...],
    ) -> None:
        starts = tuple(accumulate(lengths, initial=0))
        self.level = level
        self.spans = spans  # at level 0: (length, chunk id or None)
        self.child_ids = child_ids  # above level 0
        self.starts = starts[:-1]  # bytes from the node's own start
        self.length = starts[-1]  # bytes below
        self.located: object = None  # where its chunks lie; kept by coopfs.view.layout

    @classmethod
    def of_node(cls, node: SpanNode) -> SpanLevel:
        """Prepare *node*."""
        lengths = [item.length for item in node.spans or node.children]
        child_ids = tuple(child.node_id for child in node.children)
        return cls(node.level, lengths, node.spans, child_ids)

    @classmethod
    def of_spans(cls, spans: tuple[Span, ...]) -> SpanLevel:
        """Prepare the spans that stand in an entry itself."""
        return cls(0, [span.length for span in spans], spans, ())


class FileMap:
    """The content of one file that is not inline."""

    __slots__ = ("_root", "_top", "size")

    def __init__(self, entry: Entry) -> None:
        """Map *entry*, a file with spans or a span root."""
        self.size = entry.size
        self._root = entry.span_root
        self._top = None if entry.spans is None else SpanLevel.of_spans(entry.spans)

    def leaves(
        self, offset: int, size: int, peek: Callable[[SpanNodeId], SpanLevel | None]
    ) -> Iterator[tuple[SpanLevel, int]]:
        """Yield the leaves that hold *size* bytes from *offset*: (leaf, its place in the file).

        *peek* returns a span node from memory, or None.

        Raises:
            NodeAbsent: a span node has to be fetched first.
            ObjectCorrupt: the nodes' lengths contradict each other.
        """
        end = min(offset + size, self.size)
        top = self._top
        if top is None:
            if self._root is None:
                return
            top = _peek(self._root, peek)
            if top.length != self.size:
                raise ObjectCorrupt(
                    f"span node {short_hex(self._root)}: {top.length} bytes below, "
                    f"the file has {self.size}"
                )
        if offset < end:
            yield from _leaves_below(top, 0, offset, end, peek)

    def pieces(
        self, offset: int, size: int, peek: Callable[[SpanNodeId], SpanLevel | None]
    ) -> list[Piece]:
        """Return what makes up *size* bytes from *offset*, cut at the file's end.

        Raises as :meth:`leaves`.
        """
        end = min(offset + size, self.size)
        found: list[Piece] = []
        for leaf, base in self.leaves(offset, size, peek):
            starts = leaf.starts
            place = bisect_right(starts, max(offset - base, 0)) - 1
            while place < len(starts) and base + starts[place] < end:
                start = base + starts[place]
                length, chunk_id = leaf.spans[place]
                skip = max(offset - start, 0)
                found.append(Piece(chunk_id, length, skip, min(end - start, length) - skip))
                place += 1
        return found


def _peek(node_id: SpanNodeId, peek: Callable[[SpanNodeId], SpanLevel | None]) -> SpanLevel:
    level = peek(node_id)
    if level is None:
        raise NodeAbsent(node_id)
    return level


def _leaves_below(
    node: SpanLevel,
    base: int,
    offset: int,
    end: int,
    peek: Callable[[SpanNodeId], SpanLevel | None],
) -> Iterator[tuple[SpanLevel, int]]:
    """Yield the leaves of [*offset*, *end*) below *node*, which starts at *base*."""
    if not node.level:
        yield node, base
        return
    starts = node.starts
    place = bisect_right(starts, max(offset - base, 0)) - 1
    while place < len(starts) and base + starts[place] < end:
        start = base + starts[place]
        child_id = node.child_ids[place]
        child = _peek(child_id, peek)
        after = base + (starts[place + 1] if place + 1 < len(starts) else node.length)
        if child.level != node.level - 1 or child.length != after - start:
            raise ObjectCorrupt(
                f"span node {short_hex(child_id)}: level {child.level} with "
                f"{child.length} bytes, expected level {node.level - 1} with "
                f"{after - start}"
            )
        yield from _leaves_below(child, start, offset, end, peek)
        place += 1
