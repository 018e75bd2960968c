"""What a snapshot would add, counted: for ``--dry-run``."""

from __future__ import annotations

from coopfs.archive.packer import Piece
from coopfs.archive.writer import ArchiveWriter, Lane


class DryRunWriter(ArchiveWriter):
    """Counts what an :class:`ArchiveWriter` would store, and stores nothing."""

    def _append(self, lane: Lane, chunk_id: bytes, content: Piece) -> None:
        self._pending.add(chunk_id)
        self.new_len += len(content)

    def _save_node(self, node_id: bytes, node: bytes, *, is_tree: bool) -> None:
        if not self.has(node_id):
            self._append(self._meta, node_id, node)

    def _adopt_leftovers(self) -> None:
        """Leave them to the next real run."""

    @property
    def pending_count(self) -> int:
        """None: nothing is ever flushed."""
        return 0

    def flush(self) -> None:
        """Nothing was stored."""

    def salvage(self) -> None:
        """Nothing was stored."""

    def keep_unsent(self) -> None:
        """Nothing was stored."""
