"""Names and entries by inode number: the numbering plus the tree nodes behind it.

What is in memory is answered without a checkpoint; nodes come through the
:class:`~coopfs.view.fetcher.Fetcher`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from coopfs.errors import CoopfsError, NotFound, ObjectCorrupt
from coopfs.format.nodes import TreeChild
from coopfs.format.tree import Entry, Kind
from coopfs.ids import TreeId, short_hex
from coopfs.view.fetcher import Fetcher
from coopfs.view.names import Folder, Names, checked_entries, leaves_of

LINK_COUNTS_KEPT: Final = 50_000  # folders whose subfolders were counted
COUNTED_ENTRIES_MAX: Final = 10_000  # of a folder, read for that: half a second
# Numbers are given out for as many entries as a node claims to have below it: a claim
# beyond reason must not use up the 64 bits of an inode number.
ENTRIES_MAX: Final = 1 << 32
UNKNOWN_LINK_COUNT: Final = 1  # as btrfs shows: tools then count on nothing
_name = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and where it stands."""

    folder: Folder
    place: int  # in the folder
    entry: Entry
    leaf: tuple[Entry, ...]  # the entries stored beside it
    leaf_start: int  # place of the first of these


class Browser:
    """Finds folders and entries; used from the event loop only."""

    def __init__(self, names: Names, fetcher: Fetcher) -> None:
        """Number through *names*, load through *fetcher*."""
        self.names = names
        self._fetcher = fetcher
        self._link_counts: OrderedDict[TreeId, int] = OrderedDict()

    async def folder(self, ino: int) -> Folder:
        """Return the folder with this number, visited now if it was not before.

        Raises:
            NotFound: no such number, or it is not a folder.
            ChunkMissing, ChunkCorrupt, ObjectCorrupt, StoreUnavailable.
        """
        folder = self.names.folder(ino)
        if folder is not None:
            return folder
        virtual = self.names.virtual(ino)
        if virtual is not None:
            if virtual.snapshot is None:
                raise NotFound(f"inode {ino} is not a folder of a snapshot")
            snapshot = virtual.snapshot
            leaves = await self._leaves(snapshot.facts.root)
            return self.names.add_folder(ino, None, b"", snapshot, snapshot.facts.root, leaves)
        found = await self.entry(ino)
        if found.entry.tree is None:
            raise NotFound(f"inode {ino} is not a folder")
        leaves = await self._leaves(found.entry.tree)
        return self.names.add_folder(
            ino, found.folder, found.entry.name, found.folder.snapshot, found.entry.tree, leaves
        )

    async def _leaves(self, tree: TreeId) -> tuple[TreeChild, ...]:
        """Return the level-0 nodes of a folder; those of the usual folder are in one node."""
        node = await self._fetcher.tree(tree)
        if node.level < 2:
            return _checked_leaves(tree, leaves_of(tree, node))
        children = node.children
        for level in range(node.level - 1, 0, -1):
            below: list[TreeChild] = []
            for child in children:
                inner = await self._fetcher.tree(child.tree_id)
                if inner.level != level:
                    raise ObjectCorrupt(f"tree {short_hex(tree)}: a node is at the wrong level")
                below.extend(inner.children)
            children = tuple(below)
        return _checked_leaves(tree, children)

    async def leaf(self, leaf: TreeChild) -> tuple[Entry, ...]:
        """Return the entries of one leaf of a folder."""
        node = self._fetcher.peek_tree(leaf.tree_id)
        if node is None:
            node = await self._fetcher.tree(leaf.tree_id)
        return checked_entries(leaf, node)

    async def entry(self, ino: int) -> Found:
        """Return the entry with this number.

        Raises:
            NotFound: the number was never given out.
            ChunkMissing, ChunkCorrupt, ObjectCorrupt, StoreUnavailable.
        """
        place = self.names.place(ino)
        if place is None:
            raise NotFound(f"inode {ino} is not known")
        leaf, start = place.folder.leaf_at(place.place)
        entries = await self.leaf(leaf)
        return Found(place.folder, place.place, entries[place.place - start], entries, start)

    async def child(self, folder: Folder, name: bytes) -> Found | None:
        """Return the entry called *name* in *folder*, or None."""
        chosen = folder.leaf_for(name)
        if chosen is None:
            return None
        leaf, start = chosen
        entries = await self.leaf(leaf)
        index = bisect_left(entries, name, key=_name)
        if index == len(entries) or entries[index].name != name:
            return None
        return Found(folder, start + index, entries[index], entries, start)

    # --- link counts ----------------------------------------------------------

    def known_link_count(self, entry: Entry) -> int | None:
        """Return an entry's link count, or None when a node has to be read for it."""
        tree = entry.tree
        if tree is None:
            return entry.link_count
        totals = entry.totals
        if totals is not None and totals.folders < 2:
            return 2 + totals.folders  # what lies below is what lies directly in it
        return self._link_counts.get(tree)

    def known_root_link_count(self, tree: TreeId) -> int:
        """Return a snapshot's link count if it was worked out, else "unknown"."""
        return self._link_counts.get(tree, UNKNOWN_LINK_COUNT)

    async def link_count(self, tree: TreeId) -> int:
        """Return a folder's link count: two and one for every folder in it."""
        known = self._link_counts.get(tree)
        if known is not None:
            return known
        try:
            leaves = await self._leaves(tree)
            is_counted = sum(leaf.entry_count for leaf in leaves) <= COUNTED_ENTRIES_MAX
            count = 2 if is_counted else UNKNOWN_LINK_COUNT
            for leaf in leaves if is_counted else ():
                for entry in await self.leaf(leaf):
                    count += entry.kind is Kind.FOLDER
        except CoopfsError:
            return UNKNOWN_LINK_COUNT  # damage is reported by whoever looks inside
        self._link_counts[tree] = count
        if len(self._link_counts) > LINK_COUNTS_KEPT:
            self._link_counts.popitem(last=False)
        return count


def _checked_leaves(tree: TreeId, leaves: tuple[TreeChild, ...]) -> tuple[TreeChild, ...]:
    count = sum(leaf.entry_count for leaf in leaves)
    if not leaves or count > ENTRIES_MAX:
        raise ObjectCorrupt(f"tree {short_hex(tree)}: {count} entries in {len(leaves)} nodes")
    return leaves
