"""Just before a snapshot is put: every chunk it relies on is in a usable pack.

A prune may have marked packs while the run was going on; what is needed of them
is stored anew.  Free when nothing was marked.
"""

from __future__ import annotations

import time
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError
from coopfs.format.nodes import decode_span_node, decode_tree_node
from coopfs.ids import TreeId

GRACE_S: Final = 7 * 24 * 3600  # a prune's default; marked packs are kept at least so long
FRESH_S: Final = GRACE_S / 2  # within this of reading the index the snapshot must be put


def secure_tree(archive: Archive, writer: ArchiveWriter, root: TreeId, generation: int) -> None:
    """Read the index again; store anew what *root* needs of marked packs.

    *generation* is the index's from before the run first relied on it.

    Raises:
        DataError: a chunk is in no pack any more; the next run reads its file again.
        StoreError: the store failed.
    """
    while True:
        # BOOTTIME goes on while the machine sleeps: a suspended run must look again.
        read_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        archive.refresh_index()
        if archive.index.generation != generation:
            generation = archive.index.generation
            _store_anew(archive, writer, root)
            writer.flush()
            continue
        if time.clock_gettime(time.CLOCK_BOOTTIME) - read_at < FRESH_S:
            return


def _store_anew(archive: Archive, writer: ArchiveWriter, root: TreeId) -> None:
    seen: set[bytes] = set()
    trees: list[TreeId] = [root]

    def fetch(chunk_id: bytes) -> bytes:
        try:
            return archive.load_chunk(chunk_id)
        except DataError as exc:
            raise DataError(
                f"while this snapshot was taken, something it relies on left the store ({exc}); "
                "run it again"
            ) from exc

    while trees:
        tree_id = trees.pop()
        if tree_id in seen:
            continue
        seen.add(tree_id)
        raw = fetch(tree_id)
        writer.save_tree_node(raw)
        node = decode_tree_node(raw, "tree")
        trees.extend(child.tree_id for child in node.children)
        for entry in node.entries:
            if entry.tree is not None:
                trees.append(entry.tree)
            pending = [entry.span_root] if entry.span_root is not None else []
            while pending:
                raw = fetch(pending.pop())
                writer.save_span_node(raw)
                pending.extend(child.node_id for child in decode_span_node(raw, "span").children)
            for span in archive.iter_spans(entry):
                if span.chunk_id is not None and not writer.has(span.chunk_id):
                    writer.save_chunk(fetch(span.chunk_id))
