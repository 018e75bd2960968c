"""Which bytes of which chunks make up a range of a file.

Pure: spans are found by bisection, nodes of a span tree are asked for by
raising :class:`NodeAbsent`, so that whoever may wait fetches them and asks again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class SpanLevel:
    """A decoded span node with the places of its items, ready for bisection."""

    level: int
    spans: tuple[Span, ...]  # at level 0: (length, chunk id or None)
    child_ids: tuple[SpanNodeId, ...]  # above level 0
    starts: tuple[int, ...]  # bytes from the node's own start
    length: int  # bytes below

    @classmethod
    def of_node(cls, node: SpanNode) -> SpanLevel:
        """Prepare *node*."""
        lengths = [item.length for item in node.spans or node.children]
        starts = tuple(accumulate(lengths, initial=0))
        child_ids = tuple(child.node_id for child in node.children)
        return cls(node.level, node.spans, child_ids, starts[:-1], starts[-1])

    @classmethod
    def of_spans(cls, spans: tuple[Span, ...]) -> SpanLevel:
        """Prepare the spans that stand in an entry itself."""
        starts = tuple(accumulate((span.length for span in spans), initial=0))
        return cls(0, spans, (), starts[:-1], starts[-1])


class FileMap:
    """The content of one file that is not inline."""

    __slots__ = ("_root", "_top", "size")

    def __init__(self, entry: Entry) -> None:
        """Map *entry*, a file with spans or a span root."""
        self.size = entry.size
        self._root = entry.span_root
        self._top = None if entry.spans is None else SpanLevel.of_spans(entry.spans)

    def pieces(
        self, offset: int, size: int, peek: Callable[[SpanNodeId], SpanLevel | None]
    ) -> list[Piece]:
        """Return what makes up *size* bytes from *offset*, cut at the file's end.

        *peek* returns a span node from memory, or None.

        Raises:
            NodeAbsent: a span node has to be fetched first.
            ObjectCorrupt: the nodes' lengths contradict each other.
        """
        end = min(offset + size, self.size)
        top = self._top
        if top is None:
            if self._root is None:
                return []
            top = self._peek(self._root, peek)
            if top.length != self.size:
                raise ObjectCorrupt(
                    f"span node {short_hex(self._root)}: {top.length} bytes below, "
                    f"the file has {self.size}"
                )
        found: list[Piece] = []
        if offset < end:
            self._collect(top, 0, offset, end, peek, found)
        return found

    def _peek(
        self, node_id: SpanNodeId, peek: Callable[[SpanNodeId], SpanLevel | None]
    ) -> SpanLevel:
        level = peek(node_id)
        if level is None:
            raise NodeAbsent(node_id)
        return level

    def _collect(
        self,
        node: SpanLevel,
        base: int,
        offset: int,
        end: int,
        peek: Callable[[SpanNodeId], SpanLevel | None],
        found: list[Piece],
    ) -> None:
        """Append the pieces of [*offset*, *end*) below *node*, which starts at *base*."""
        starts = node.starts
        place = bisect_right(starts, offset - base) - 1
        while place < len(starts):
            start = base + starts[place]
            if start >= end:
                return
            if node.level:
                child_id = node.child_ids[place]
                child = self._peek(child_id, peek)
                after = base + (starts[place + 1] if place + 1 < len(starts) else node.length)
                if child.level != node.level - 1 or child.length != after - start:
                    raise ObjectCorrupt(
                        f"span node {short_hex(child_id)}: level {child.level} with "
                        f"{child.length} bytes, expected level {node.level - 1} with "
                        f"{after - start}"
                    )
                self._collect(child, start, max(offset, start), end, peek, found)
            else:
                length, chunk_id = node.spans[place]
                skip = max(offset - start, 0)
                found.append(Piece(chunk_id, length, skip, min(end - start, length) - skip))
            place += 1
