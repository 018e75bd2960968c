"""Inode numbers: given out per visited folder path, never per content.

A visited folder gets one run of numbers, a base plus the entry's place, so
memory grows with folders looked at, not with files, and two folders with the
same content are two sets of inodes.  The links of a hard-link group share one
number within their snapshot.  Used from the event loop only; nothing here waits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Final

from coopfs.archive.snapshots import Snapshot
from coopfs.errors import ObjectCorrupt
from coopfs.format.nodes import TreeChild, TreeNode
from coopfs.format.tree import Entry
from coopfs.ids import TreeId, short_hex
from coopfs.view.catalogue import VirtualNode

ROOT_INO: Final = 1  # fixed by FUSE
_first_name = itemgetter(0)


class Folder:
    """A visited folder inside a snapshot: where its entries lie and how they are numbered."""

    __slots__ = ("base", "count", "ino", "leaves", "name", "parent", "snapshot", "starts", "tree")

    def __init__(
        self,
        ino: int,
        parent: Folder | None,
        name: bytes,
        snapshot: Snapshot,
        tree: TreeId,
        leaves: tuple[TreeChild, ...],
        base: int,
    ) -> None:
        """*leaves* are the level-0 nodes in order; entries have inodes from *base* up."""
        self.ino = ino
        self.parent = parent
        self.name = name
        self.snapshot = snapshot
        self.tree = tree
        self.leaves = leaves
        self.base = base
        self.starts = tuple(accumulate((leaf.entry_count for leaf in leaves[:-1]), initial=0))
        self.count = self.starts[-1] + leaves[-1].entry_count

    def leaf_at(self, place: int) -> tuple[TreeChild, int]:
        """Return the leaf that holds entry number *place*, and the leaf's first place."""
        number = bisect_right(self.starts, place) - 1
        return self.leaves[number], self.starts[number]

    def leaf_for(self, name: bytes) -> tuple[TreeChild, int] | None:
        """Return the only leaf that can hold *name*, and its first place."""
        number = bisect_right(self.leaves, name, key=_first_name) - 1
        return (self.leaves[number], self.starts[number]) if number >= 0 else None

    def path(self) -> bytes:
        """Return the folder's path within its snapshot, without slashes at the ends."""
        names = []
        folder: Folder | None = self
        while folder is not None:
            names.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed([name for name in names if name]))


def leaves_of(tree: TreeId, node: TreeNode) -> tuple[TreeChild, ...]:
    """Return the leaves of a folder whose topmost node has level 0 or 1."""
    if node.level == 0:
        first_name = node.entries[0].name if node.entries else b""
        return (TreeChild(first_name, tree, len(node.entries)),)
    return node.children


def checked_entries(leaf: TreeChild, node: TreeNode) -> tuple[Entry, ...]:
    """Return a leaf's entries; they must be as many as the node above says (ObjectCorrupt)."""
    if node.level or len(node.entries) != leaf.entry_count:
        raise ObjectCorrupt(
            f"tree {short_hex(leaf.tree_id)}: {len(node.entries)} entries at level {node.level}, "
            f"expected {leaf.entry_count} at level 0"
        )
    return node.entries


@dataclass(frozen=True, slots=True)
class Place:
    """Where an inode's entry stands."""

    folder: Folder
    place: int


class Names:
    """All inode numbers of one mount."""

    def __init__(self, catalogue: VirtualNode) -> None:
        """Number the *catalogue*; its top is inode 1."""
        self._next = ROOT_INO + 1
        self._bases: list[int] = []  # ascending, as handed out
        self._by_base: list[Folder] = []
        self._folders: dict[int, Folder] = {}
        self._virtual: dict[int, VirtualNode] = {}
        self._virtual_inos: dict[bytes, int] = {b"": ROOT_INO}
        self._hard_links: dict[tuple[bytes, bytes], int] = {}
        self.replace_catalogue(catalogue)

    # --- above the snapshots --------------------------------------------------

    def replace_catalogue(self, catalogue: VirtualNode) -> None:
        """Show another *catalogue*; what stays keeps its number."""
        fresh: dict[int, VirtualNode] = {}
        for node in _walk(catalogue):
            ino = self._virtual_inos.get(node.path)
            if ino is not None:
                before = self._virtual.get(ino)
                if before is not None and _identity(before) != _identity(node):
                    ino = None  # another snapshot took over the name: another inode
            if ino is None:
                ino = self._take(1)
                self._virtual_inos[node.path] = ino
            fresh[ino] = node
        # Numbers of what is gone stay known, so open handles still say what they were.
        self._virtual.update(fresh)
        self.catalogue = catalogue

    def virtual(self, ino: int) -> VirtualNode | None:
        """Return the node above the snapshots that has this number."""
        return self._virtual.get(ino)

    def virtual_ino(self, node: VirtualNode) -> int:
        """Return the number of a node of the present catalogue."""
        return self._virtual_inos[node.path]

    def virtual_parent_ino(self, ino: int) -> int:
        """Return the number of the folder that holds the virtual node *ino*."""
        return self._virtual_inos[self._virtual[ino].path.rpartition(b"/")[0]]

    # --- inside snapshots -----------------------------------------------------

    def folder(self, ino: int) -> Folder | None:
        """Return the folder *ino* if it was visited before."""
        return self._folders.get(ino)

    def add_folder(
        self,
        ino: int,
        parent: Folder | None,
        name: bytes,
        snapshot: Snapshot,
        tree: TreeId,
        leaves: tuple[TreeChild, ...],
    ) -> Folder:
        """Number the entries of the folder *ino*; of two callers the first one wins."""
        folder = self._folders.get(ino)
        if folder is None:
            folder = Folder(ino, parent, name, snapshot, tree, leaves, self._next)
            self._take(max(folder.count, 1))  # bases stay distinct
            self._bases.append(folder.base)
            self._by_base.append(folder)
            self._folders[ino] = folder
        return folder

    def place(self, ino: int) -> Place | None:
        """Return where the entry *ino* stands; None for a number never given out."""
        number = bisect_right(self._bases, ino) - 1
        if number < 0:
            return None
        folder = self._by_base[number]
        place = ino - folder.base
        return Place(folder, place) if place < folder.count else None

    def entry_ino(self, folder: Folder, place: int, entry: Entry) -> int:
        """Return the number of a folder's entry; links of one group get the first one's."""
        ino = folder.base + place
        if entry.hard_link_id is None:
            return ino
        group = (folder.snapshot.snapshot_id, entry.hard_link_id)
        return self._hard_links.setdefault(group, ino)

    @property
    def folder_count(self) -> int:
        """Folders visited so far."""
        return len(self._folders)

    def _take(self, count: int) -> int:
        first = self._next
        self._next += count
        return first


def _walk(node: VirtualNode) -> Iterator[VirtualNode]:
    yield node
    for child in (node.children or {}).values():
        yield from _walk(child)


def _identity(node: VirtualNode) -> tuple[bytes | None, bool, bool]:
    """What must not change under one inode number."""
    snapshot_id = node.snapshot.snapshot_id if node.snapshot else None
    return snapshot_id, node.is_folder, bool(node.target)
