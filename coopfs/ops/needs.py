"""What the snapshots need, seen strictly: whatever cannot be read may need anything.

Owns the refusals of a prune: an object that is not understood, a snapshot that is
withheld, a tree that cannot be read, a chunk that is nowhere.  In each of these cases
something that looks unneeded may be needed after all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo
from coopfs.archive.select import folder_name
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import ChunkMissing, DataError, ObjectNotFound, WrongKey
from coopfs.format.keys import Role
from coopfs.format.references import tree_references
from coopfs.ids import SpanNodeId, TreeId, short_hex
from coopfs.ops.need_table import NeedTable
from coopfs.ops.progress import Progress

# A forged record of these kinds counts for nothing, and nothing is needed by one.
_HARMLESS: Final = frozenset((Role.AMENDMENT, Role.FORGET, Role.DISTRUST))


class PruneRefused(DataError):
    """Not everything can be read, so nobody knows what is needed; nothing was deleted."""


class Needs:
    """See the module; kept up to date by :meth:`update`."""

    def __init__(self, archive: Archive, progress: Progress) -> None:
        """Nothing is read before :meth:`load`."""
        self._archive = archive
        self._progress = progress
        self._walked: set[TreeId] = set()  # roots
        self.table = NeedTable(self._is_known)
        self.first_numbers: dict[int, int] = {}  # of a pack: the number of its first chunk
        self.snapshots = 0
        self.nodes = 0

    def _is_known(self, chunk_id: bytes) -> bool:
        try:
            return bool(self._archive.index.locate(chunk_id))
        except ChunkMissing:
            return False

    def refresh(self) -> None:
        """Read snapshots and index afresh (PruneRefused)."""
        archive = self._archive
        # Snapshots before index objects: whatever a listed snapshot needs is then indexed.
        archive.refresh()
        problems = [u.problem for u in archive.objects.unusable if u.role not in _HARMLESS]
        for problem in (*problems, *archive.unusable_index):
            raise PruneRefused(
                f"{problem}; it may say that something is needed, so nothing was pruned. "
                'Update coopfs if it is older here than elsewhere; "coopfs repair" takes away what '
                "nobody who writes to the archive has made"
            )
        for gap in archive.objects.gaps(archive.heads.accepted_ids()):
            raise PruneRefused(
                f"{gap.text}. Nothing was pruned, as what it needs would be lost; if it is gone "
                'for good: "coopfs repair --accept-rollback"'
            )

    def load(self, packs: Iterable[PackInfo]) -> None:
        """Walk every tree, after a :meth:`refresh` (PruneRefused).

        *packs* are those the index knows; of a chunk in several of them the first's is needed.
        """
        index = self._archive.index
        for pack in packs:
            self.first_numbers[pack.pack_no] = self.table.add(index.chunk_ids(pack.pack_no))
        self.table.seal()
        self._walk_new()

    def update(self) -> bool:
        """Read what is new in the store; tell whether anything is (PruneRefused)."""
        generation = self._archive.index.generation
        known = self._archive.index.known_objects()
        self.refresh()
        is_same = generation == self._archive.index.generation
        return self._walk_new() or not is_same or known != self._archive.index.known_objects()

    def release(self) -> None:
        """Forget what is needed: index objects are written anew next, and take as much memory."""
        self.table.clear()
        self._archive.blocks.forget_memory()

    # --- trees --------------------------------------------------------------------

    def _walk_new(self) -> bool:
        new = [s for s in self._archive.snapshots() if s.facts.root not in self._walked]
        self._progress.start(None, None)
        for snapshot in new:
            try:
                self._walk(snapshot.facts.root)
            except (DataError, ObjectNotFound, WrongKey) as exc:
                raise PruneRefused(
                    f"{_name(snapshot)} cannot be read: {exc}. Nothing was pruned, as nobody knows "
                    f"what it needs; {_remedy(snapshot)}"
                ) from exc
            self._walked.add(snapshot.facts.root)
        self.snapshots = len(self._archive.snapshots())
        return bool(new)

    def _walk(self, root: TreeId) -> None:
        archive, table = self._archive, self.table
        pending: list[bytes] = [root]
        while pending:
            tree_id = TreeId(pending.pop())
            if not self._need(tree_id):
                continue  # walked already, in this snapshot or another
            found = tree_references(archive.load_tree_bytes(tree_id), f"tree {short_hex(tree_id)}")
            self.nodes += 1
            if not self.nodes & 255:
                self._progress.update(files=self.nodes, bytes_=0)
            missing = table.need_all(found.chunks)
            if missing is not None:
                self._need(missing)
            for span_root in found.span_roots:
                self._walk_spans(SpanNodeId(span_root))
            # The first comes first: about the order in which chunks were stored.
            pending += reversed(found.trees)

    def _walk_spans(self, root: SpanNodeId) -> None:
        pending = [root]
        while pending:
            node_id = pending.pop()
            if not self._need(node_id):
                continue
            node = self._archive.load_span_node(node_id)
            self.nodes += 1
            for span in node.spans:
                if span.chunk_id is not None:
                    self._need(span.chunk_id)
            pending.extend(child.node_id for child in node.children)

    def _need(self, chunk_id: bytes) -> bool:
        is_new = self.table.need(chunk_id)
        if is_new is None:
            raise ChunkMissing(
                f"chunk {short_hex(chunk_id)}: no pack in the index holds it (is an index object "
                "lost or withheld?)"
            )
        return is_new


def _remedy(snapshot: Snapshot) -> str:
    if not snapshot.is_distrusted:
        return (
            'run "coopfs check"; if what it names is gone for good, '
            f'"coopfs forget {short_hex(snapshot.snapshot_id)}"'
        )
    return (
        "its writer is distrusted: if it is not worth keeping, "
        f'"coopfs forget {short_hex(snapshot.snapshot_id)}"'
    )


def _name(snapshot: Snapshot) -> str:
    facts = snapshot.facts
    return (
        f"snapshot {short_hex(snapshot.snapshot_id)} "
        f"({facts.host}/{facts.series}/{folder_name(facts)})"
    )
