"""Inode numbers: per visited folder path, stable, and never two for one thing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_view_catalogue import NOON_NS, build, snapshot

from coopfs.format.nodes import TreeChild, TreeNode
from coopfs.format.tree import Entry, Kind
from coopfs.ids import TreeId
from coopfs.view.names import ROOT_INO, Folder, Names, leaves_of

TREE = TreeId(bytes(32))


def file(name: bytes, hard_link_id: bytes | None = None) -> Entry:
    return Entry(name, Kind.FILE, 0o644, 0, 0, 0, hard_link_id=hard_link_id, inline=b"")


def leaf(first_name: bytes, count: int) -> TreeChild:
    return TreeChild(first_name, TREE, count)


def visit(names: Names, ino: int, *leaves: TreeChild, number: int = 1) -> Folder:
    return names.add_folder(ino, None, b"", snapshot(number), TREE, leaves)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=20))
def test_every_place_of_every_folder_has_its_own_number(folders: list[list[int]]) -> None:
    names = Names(build(snapshot(1)))
    given_out = set()
    for number, counts in enumerate(folders):
        folder = visit(names, 1_000_000 + number, *(leaf(b"x", count) for count in counts))
        assert folder.count == sum(counts)
        for place in range(folder.count):
            ino = names.entry_ino(folder, place, file(b"x"))
            assert ino not in given_out
            assert names.virtual(ino) is None
            given_out.add(ino)
            found = names.place(ino)
            assert found is not None
            assert (found.folder, found.place) == (folder, place)
            chosen, start = folder.leaf_at(place)
            assert start <= place < start + chosen.entry_count


def test_numbers_never_given_out_stand_for_nothing() -> None:
    names = Names(build(snapshot(1)))
    assert names.place(ROOT_INO) is None
    empty = visit(names, 500, leaf(b"", 0))
    assert names.place(empty.base) is None
    assert names.place(1 << 60) is None


def test_a_folder_visited_again_keeps_its_numbers() -> None:
    names = Names(build(snapshot(1)))
    first = visit(names, 500, leaf(b"a", 3))
    assert visit(names, 500, leaf(b"a", 3)) is first
    assert names.folder_count == 1


def test_links_of_one_group_share_a_number_within_their_snapshot_only() -> None:
    names = Names(build(snapshot(1)))
    one, two = visit(names, 500, leaf(b"a", 3)), visit(names, 501, leaf(b"a", 3))
    other = visit(names, 502, leaf(b"a", 3), number=2)
    group = bytes(16)
    ino = names.entry_ino(one, 1, file(b"x", group))
    assert names.entry_ino(two, 2, file(b"y", group)) == ino
    assert names.entry_ino(other, 0, file(b"z", group)) != ino
    assert names.entry_ino(two, 1, file(b"x", b"1" * 16)) != ino


def test_a_name_is_looked_for_in_the_one_leaf_that_can_hold_it() -> None:
    names = Names(build(snapshot(1)))
    folder = visit(names, 500, leaf(b"b", 2), leaf(b"m", 2), leaf(b"t", 2))
    assert folder.leaf_for(b"a") is None
    assert folder.leaf_for(b"b") == (folder.leaves[0], 0)
    assert folder.leaf_for(b"lzz") == (folder.leaves[0], 0)
    assert folder.leaf_for(b"m") == (folder.leaves[1], 2)
    assert folder.leaf_for(b"zz") == (folder.leaves[2], 4)


def test_an_empty_folder_has_one_empty_leaf() -> None:
    assert leaves_of(TREE, TreeNode(0, (), ())) == (TreeChild(b"", TREE, 0),)


def test_what_stays_in_the_catalogue_keeps_its_number() -> None:
    one, two = snapshot(1), snapshot(2, NOON_NS + 1_000_000_000)
    names = Names(build(one))
    before = {path: names._virtual_inos[path] for path in names._virtual_inos}
    names.replace_catalogue(build(one, two))
    latest = b"by-host/anna/home/latest"
    for path, ino in before.items():
        assert names._virtual_inos[path] == ino
        node = names.virtual(ino)
        assert node is not None
        assert node.path == path
    assert names.virtual(before[latest]).target == b"2026-11-23_12-00-01"  # type: ignore[union-attr]  # it is there
    assert len(names._virtual_inos) > len(before)


def test_another_snapshot_under_an_old_name_is_another_inode() -> None:
    names = Names(build(snapshot(1)))
    path = b"by-host/anna/home/2026-11-23_12-00-00"
    before = names._virtual_inos[path]
    names.replace_catalogue(build(snapshot(2)))
    assert names._virtual_inos[path] != before


def test_the_folder_above_a_virtual_node_is_known() -> None:
    names = Names(build(snapshot(1)))
    inos = names._virtual_inos
    assert names.virtual_parent_ino(inos[b"by-host/anna"]) == inos[b"by-host"]
    assert names.virtual_parent_ino(inos[b"by-host"]) == ROOT_INO
    assert names.virtual_parent_ino(ROOT_INO) == ROOT_INO
