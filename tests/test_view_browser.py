"""Folders of any depth of nodes, found by inode and by name; nodes that lie are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import pytest
from test_view_catalogue import build, snapshot

from coopfs.errors import ChunkMissing, NotFound, ObjectCorrupt
from coopfs.format.nodes import TreeChild, TreeNode
from coopfs.format.tree import Entry, Kind, Totals
from coopfs.ids import TreeId
from coopfs.view.browser import UNKNOWN_LINK_COUNT, Browser
from coopfs.view.fetcher import Fetcher
from coopfs.view.names import Names


class Shelf:
    """Stands for the fetcher: nodes in memory, made level by level."""

    def __init__(self) -> None:
        self.nodes: dict[TreeId, TreeNode] = {}
        self.loads = 0

    def peek_tree(self, tree_id: TreeId) -> TreeNode | None:
        return None

    async def tree(self, tree_id: TreeId) -> TreeNode:
        self.loads += 1
        if tree_id not in self.nodes:
            raise ChunkMissing(tree_id.hex())
        return self.nodes[tree_id]

    def put(self, node: TreeNode) -> TreeId:
        tree_id = TreeId(hashlib.sha256(b"%d" % len(self.nodes)).digest())
        self.nodes[tree_id] = node
        return tree_id

    def folder(self, entries: Sequence[Entry], fan_out: int) -> TreeId:
        """Store a folder with at most *fan_out* items a node."""
        level = 0
        items: list[Any] = list(entries)
        while True:
            children = []
            for at in range(0, max(len(items), 1), fan_out):
                part = tuple(items[at : at + fan_out])
                if level == 0:
                    node = TreeNode(0, part, ())
                    count = len(part)
                else:
                    node = TreeNode(level, (), part)
                    count = sum(child.entry_count for child in part)
                first = part[0][0] if part else b""
                children.append(TreeChild(first, self.put(node), count))
            if len(children) == 1:
                return children[0].tree_id
            items = list(children)
            level += 1


def file(name: bytes) -> Entry:
    return Entry(name, Kind.FILE, 0o644, 0, 0, 0, inline=b"")


def browser_of(shelf: Shelf) -> tuple[Browser, Names]:
    names = Names(build(snapshot(1)))
    return Browser(names, cast(Fetcher, shelf)), names


async def visited(browser: Browser, names: Names, tree: TreeId) -> int:
    """Make *tree* a folder with a number; return the number."""
    leaves = await browser._leaves(tree)
    return names.add_folder(9_000, None, b"", snapshot(1), tree, leaves).ino


@pytest.mark.parametrize("fan_out", [2, 3, 100])
async def test_every_entry_is_found_by_name_and_by_number(fan_out: int) -> None:
    shelf = Shelf()
    entries = [file(b"%03d" % number) for number in range(0, 60, 2)]
    browser, names = browser_of(shelf)
    folder = await browser.folder(await visited(browser, names, shelf.folder(entries, fan_out)))
    assert folder.count == len(entries)
    for place, entry in enumerate(entries):
        found = await browser.child(folder, entry.name)
        assert found is not None
        assert (found.place, found.entry) == (place, entry)
        again = await browser.entry(names.entry_ino(folder, place, entry))
        assert (again.place, again.entry) == (place, entry)
        assert again.leaf[place - again.leaf_start] == entry
    for name in (b"", b"001", b"059", b"zzz"):
        assert await browser.child(folder, name) is None


async def test_an_empty_folder_has_nothing_and_two_links() -> None:
    shelf = Shelf()
    tree = shelf.folder([], 4)
    browser, names = browser_of(shelf)
    folder = await browser.folder(await visited(browser, names, tree))
    assert folder.count == 0
    assert await browser.child(folder, b"x") is None
    assert await browser.link_count(tree) == 2


async def test_links_of_a_folder_are_counted_over_all_its_nodes_and_only_once() -> None:
    shelf = Shelf()
    inner = shelf.folder([], 4)
    entries = [
        Entry(b"%02d" % number, Kind.FOLDER, 0o755, 0, 0, 0, tree=inner)
        if number % 3 == 0
        else file(b"%02d" % number)
        for number in range(30)
    ]
    tree = shelf.folder(entries, 3)
    browser, _ = browser_of(shelf)
    assert await browser.link_count(tree) == 12
    loads = shelf.loads
    assert await browser.link_count(tree) == 12
    assert shelf.loads == loads


async def test_links_of_a_folder_of_very_many_entries_are_not_counted() -> None:
    shelf = Shelf()
    folders = [file(b"%05d" % n)._replace(kind=Kind.FOLDER) for n in range(10_100)]
    many, fewer = shelf.folder(folders, 100), shelf.folder(folders[:9_900], 100)
    browser, _ = browser_of(shelf)
    assert await browser.link_count(many) == UNKNOWN_LINK_COUNT
    assert shelf.loads == 3  # what lies above the 101 nodes of entries
    assert await browser.link_count(fewer) == 9_902


def test_links_need_no_node_where_the_totals_say_it() -> None:
    browser, _ = browser_of(Shelf())
    entry = Entry(b"f", Kind.FOLDER, 0o755, 0, 0, 0, tree=TreeId(bytes(32)))
    assert browser.known_link_count(entry._replace(totals=Totals(9, 0, 5))) == 2
    assert browser.known_link_count(entry._replace(totals=Totals(9, 1, 5))) == 3
    assert browser.known_link_count(entry._replace(totals=Totals(9, 2, 5))) is None
    assert browser.known_link_count(entry) is None


async def test_links_of_a_damaged_folder_are_unknown_not_an_error() -> None:
    browser, _ = browser_of(Shelf())
    assert await browser.link_count(TreeId(bytes(32))) == UNKNOWN_LINK_COUNT


async def test_nodes_that_contradict_their_parent_are_refused() -> None:
    shelf = Shelf()
    leaf = shelf.put(TreeNode(0, (file(b"a"), file(b"b")), ()))
    for top in (
        TreeNode(1, (), (TreeChild(b"a", leaf, 3),)),  # one entry fewer than promised
        TreeNode(2, (), (TreeChild(b"a", leaf, 2),)),  # a leaf where a node should be
    ):
        browser, names = browser_of(shelf)
        with pytest.raises(ObjectCorrupt):
            folder = await browser.folder(await visited(browser, names, shelf.put(top)))
            await browser.child(folder, b"a")


async def test_a_claim_of_absurdly_many_entries_is_refused() -> None:
    shelf = Shelf()
    leaf = shelf.put(TreeNode(0, (file(b"a"),), ()))
    for children in ((TreeChild(b"a", leaf, 1 << 62),), ()):
        browser, names = browser_of(shelf)
        with pytest.raises(ObjectCorrupt):
            await visited(browser, names, shelf.put(TreeNode(1, (), children)))


async def test_numbers_that_are_no_folders_are_not_found() -> None:
    shelf = Shelf()
    browser, names = browser_of(shelf)
    tree = shelf.folder([file(b"a")], 4)
    folder = await browser.folder(await visited(browser, names, tree))
    for ino in (1, 77_777, names.entry_ino(folder, 0, file(b"a"))):
        with pytest.raises(NotFound):
            await browser.folder(ino)
