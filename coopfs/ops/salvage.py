"""After the store failed: which witnesses hold although no index object was put.

Owns what of an unfinished run is kept locally, so that the next one neither reads
nor sends it again: rows of folders, cut down to the files whose chunks are durable,
and the tree nodes they need.
"""

from __future__ import annotations

from collections.abc import Iterator

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import CoopfsError
from coopfs.format.nodes import SpanNode, TreeBuilder, TreeNode, decode_span_node, decode_tree_node
from coopfs.format.tree import Entry, Totals
from coopfs.ids import SpanNodeId, TreeId
from coopfs.ops.witness import Witness, split_names


class Salvage:
    """Sorts out the rows of a run whose store has failed; the writer is already stopped."""

    def __init__(self, archive: Archive, writer: ArchiveWriter) -> None:
        """*writer* has been told to :meth:`~ArchiveWriter.salvage`."""
        self._archive = archive
        self._writer = writer

    def durable_rows(self, rows: list[Witness]) -> Iterator[Witness]:
        """Yield what of *rows* holds; nodes made for it go to the writer's unsent ones."""
        for row in rows:
            try:
                kept = self._durable_part(row)
            except CoopfsError:
                continue  # a node of it lies in the store only, and that has failed
            yield kept

    def _durable_part(self, row: Witness) -> Witness:
        if all(self._is_durable(entry) for entry in self._entries(row.tree)):
            return row
        builder = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
        files = folders = size = 0
        here: set[bytes] = set()
        for entry in self._entries(row.tree):
            if not self._is_durable(entry):
                continue
            builder.add(entry)
            here.add(entry.name)
            inner = entry.totals or Totals(1, -1, entry.size)
            files, size = files + inner.files, size + inner.size
            folders += inner.folders + 1
        # The files left out have no record any more, so the next run looks at them.
        names = b"".join(
            record + name + b"\0" for name, record in split_names(row.names) if name in here
        )
        return row._replace(names=names, tree=builder.finish(), totals=Totals(files, folders, size))

    def _entries(self, tree_id: TreeId) -> Iterator[Entry]:
        node = self._tree_node(tree_id)
        yield from node.entries
        for child in node.children:
            yield from self._entries(child.tree_id)

    def _tree_node(self, tree_id: TreeId) -> TreeNode:
        unsent = self._writer.unsent_node(tree_id)
        if unsent is not None:
            return decode_tree_node(unsent, "unsent tree")
        return self._archive.load_tree_node(tree_id)

    def _is_durable(self, entry: Entry) -> bool:
        """Tell whether all of *entry* is in the store or among the unsent nodes.

        A folder always is, as its nodes are; whether what is in it holds, its own row says.
        """
        if entry.span_root is not None:
            return self._is_durable_below(entry.span_root)
        is_durable = self._writer.is_durable
        return all(chunk_id is None or is_durable(chunk_id) for _, chunk_id in entry.spans or ())

    def _is_durable_below(self, node_id: SpanNodeId) -> bool:
        unsent = self._writer.unsent_node(node_id)
        node: SpanNode = (
            self._archive.load_span_node(node_id)
            if unsent is None
            else decode_span_node(unsent, "unsent span node")
        )
        is_durable = self._writer.is_durable
        return all(chunk_id is None or is_durable(chunk_id) for _, chunk_id in node.spans) and all(
            self._is_durable_below(child.node_id) for child in node.children
        )
