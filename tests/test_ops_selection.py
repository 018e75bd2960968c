"""The walk over a snapshot: order, patterns, and folders that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checked import opened
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.errors import ChunkMissing
from coopfs.format.nodes import TreeNode
from coopfs.ids import TreeId
from coopfs.ops.exclude import Excludes
from coopfs.ops.selection import Event, Selection, Visit, walk


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    base = tmp_path_factory.mktemp("selection")
    source = base / "source"
    for name in ("a/x/1", "a/x/2", "a/y/1", "b/1", "b/x/3", "c"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    (source / "empty").mkdir()
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", source, "--series", "s")
    return host


@pytest.fixture
def archive(host: Host) -> Iterator[Archive]:
    with opened(host) as (archive, _):
        archive.refresh()
        yield archive


def visits(
    archive: Archive, host: Host, selection: Selection, unreadable: list[bytes] | None = None
) -> Iterator[Visit]:
    path = bytes(host.base / "source")
    top = entry_at(archive, archive.snapshots()[-1], path)
    problems = [] if unreadable is None else unreadable
    return walk(archive, top, path + b"/", selection, lambda folder, _: problems.append(folder))


def taken(archive: Archive, host: Host, selection: Selection) -> list[str]:
    """Return the paths of what is taken, folders with a slash, in the order of the walk."""
    paths: list[str] = []
    above: list[str] = []
    for event, entry, is_taken in visits(archive, host, selection):
        name = entry.name.decode()
        if event is Event.LEAVE:
            assert above.pop() == name
        elif event is Event.ENTER:
            above.append(name)
            if is_taken:
                paths.append("/".join(above) + "/")
        else:
            assert is_taken
            paths.append("/".join([*above, name]))
    assert above == []
    return paths


def pick(*includes: str, excludes: tuple[str, ...] = ()) -> Selection:
    return Selection(Excludes.from_patterns(includes), Excludes.from_patterns(excludes))


EVERYTHING = [
    "a/", "a/x/", "a/x/1", "a/x/2", "a/y/", "a/y/1", "b/", "b/1", "b/x/", "b/x/3", "c", "empty/",
]  # fmt: skip


def test_without_patterns_everything_is_visited_in_order(archive: Archive, host: Host) -> None:
    assert taken(archive, host, Selection()) == EVERYTHING


def test_an_included_folder_brings_all_below_it(archive: Archive, host: Host) -> None:
    assert taken(archive, host, pick("x")) == ["a/x/", "a/x/1", "a/x/2", "b/x/", "b/x/3"]
    assert taken(archive, host, pick("x/")) == ["a/x/", "a/x/1", "a/x/2", "b/x/", "b/x/3"]


def test_an_included_name_is_found_at_any_depth(archive: Archive, host: Host) -> None:
    assert taken(archive, host, pick("1")) == ["a/x/1", "a/y/1", "b/1"]


def test_an_anchored_pattern_is_a_path_from_the_root(archive: Archive, host: Host) -> None:
    assert taken(archive, host, pick(f"{host.base}/source/b/x")) == ["b/x/", "b/x/3"]
    assert taken(archive, host, pick("/b/x")) == []


def test_excluded_folders_are_not_entered(archive: Archive, host: Host) -> None:
    assert taken(archive, host, pick(excludes=("x", "empty/"))) == [
        "a/", "a/y/", "a/y/1", "b/", "b/1", "c",
    ]  # fmt: skip


def test_excludes_win(archive: Archive, host: Host) -> None:
    assert taken(archive, host, pick("a", excludes=("1",))) == ["a/", "a/x/", "a/x/2", "a/y/"]


def test_a_folder_that_cannot_be_read_is_reported_and_left(
    archive: Archive, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bytes(host.base / "source" / "a")
    broken = entry_at(archive, archive.snapshots()[-1], path).tree
    load = archive.load_tree_node

    def load_all_but_one(tree_id: TreeId) -> TreeNode:
        if tree_id == broken:
            raise ChunkMissing("gone")
        return load(tree_id)

    monkeypatch.setattr(archive, "load_tree_node", load_all_but_one)
    unreadable: list[bytes] = []
    events = [
        (visit.event, visit.entry.name) for visit in visits(archive, host, Selection(), unreadable)
    ]
    assert unreadable == [path + b"/"]
    assert events[:3] == [(Event.ENTER, b"a"), (Event.LEAVE, b"a"), (Event.ENTER, b"b")]
    assert events[-1] == (Event.LEAVE, b"empty")


def test_the_path_may_be_the_root(archive: Archive, host: Host, tmp_path: Path) -> None:
    top = entry_at(archive, archive.snapshots()[-1], b"")
    chosen = pick(f"{host.base}/source/c")
    found = [v for v in walk(archive, top, b"/", chosen, lambda *_: None) if v.is_taken]
    assert [visit.entry.name for visit in found] == [b"c"]
