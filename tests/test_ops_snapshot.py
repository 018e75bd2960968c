"""Taking snapshots: what is in them, what is read, what is sent, what is reported."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import (
    ROOT_ONLY,
    Lab,
    archived_picture,
    content_of,
    entry_below,
    lab,
    no_race,
    real_picture,
    request_for,
    take,
    write,
)

from coopfs.archive.archive import Archive
from coopfs.archive.lock import series_lock
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import Interrupted, StateBusy, UsageError, WrongKey
from coopfs.format.snapshot import State
from coopfs.format.tree import Entry, Kind
from coopfs.ops.progress import NoProgress
from coopfs.ops.roots import absolute_paths, default_series
from coopfs.ops.snapshot import (
    take_snapshot,
)
from coopfs.ops.source_paths import SourceMissing
from coopfs.store.base import Kind as StoreKind

__all__ = ["lab", "no_race"]  # fixtures


def tree_of(archive: Archive, report: object, path: Path | bytes) -> Entry:
    return entry_below(archive, report.facts.root, path)  # type: ignore[attr-defined]


def fill(folder: Path, seed: int = 1) -> None:
    """Write a tree with files of every size class."""
    rng = random.Random(seed)
    write(folder / "empty")
    write(folder / "inline", b"x" * 256)
    write(folder / "least", rng.randbytes(257))
    write(folder / "a" / "one chunk", rng.randbytes(8192))
    write(folder / "a" / "chunks", rng.randbytes(300_000))
    write(folder / "a" / "b" / "long", rng.randbytes(5_000_000))
    write(folder / "a" / "b" / "text", "all work and no play\n" * 20_000)
    write(folder / "z" / "exe", b"#!/bin/sh\n", mode=0o4755)
    (folder / "empty folder").mkdir()


# --- sources -----------------------------------------------------------------------


def test_everything_in_a_folder_comes_back_as_it_was(lab: Lab) -> None:
    fill(lab.source)
    report = lab.take()
    lab.expect_archived(report)
    counts = report.facts.counts
    assert (counts.files, counts.folders, counts.others) == (8, 5, 0)
    assert counts.files_new == 8
    assert (
        counts.size == counts.read == sum(e.size for e in real_picture(lab.source).entries.values())
    )
    assert report.facts.state is State.COMPLETE
    assert report.facts.problem_count == 0


def test_paths_keep_their_place_below_folders_that_look_as_they_do(tmp_path: Path) -> None:
    lab = Lab(tmp_path).init()
    deep = lab.base / "one" / "two" / "three"
    write(deep / "file", "x")
    (lab.base / "one" / "two").chmod(0o711)
    os.utime(lab.base / "one" / "two", ns=(5, 12_345_678_901))
    os.setxattr(lab.base / "one", "user.note", b"hello")
    report = lab.take(deep)
    with lab.open() as (archive, _):
        two = tree_of(archive, report, lab.base / "one" / "two")
        assert (two.mode, two.mtime_ns) == (0o711, 12_345_678_901)
        assert tree_of(archive, report, lab.base / "one").xattrs == ((b"user.note", b"hello"),)
        # Nothing beside the source is there.
        above = tree_of(archive, report, lab.base)
        assert above.tree is not None
        assert [e.name for e in archive.iter_entries(above.tree)] == [b"one"]


def test_several_sources_share_the_folders_above_them(lab: Lab) -> None:
    first, second = lab.base / "p" / "first", lab.base / "p" / "second" / "deep"
    write(first / "f", "1")
    write(second / "g", "22")
    single = write(lab.base / "p" / "single", "333")
    report = lab.take(second, single, first)
    lab.expect_archived(report, first)
    lab.expect_archived(report, second)
    with lab.open() as (archive, _):
        p = tree_of(archive, report, lab.base / "p")
        assert p.tree is not None and p.totals is not None
        assert [e.name for e in archive.iter_entries(p.tree)] == [b"first", b"second", b"single"]
        assert tuple(p.totals) == (3, 3, 6)
    assert report.facts.sources == tuple(os.fsencode(x) for x in (second, single, first))


def test_sources_are_made_absolute_and_nested_ones_are_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.fsencode(tmp_path)
    assert absolute_paths(("a/../b", "b/c", "b", "./b/", "bb")) == (here + b"/b", here + b"/bb")
    assert absolute_paths((".",)) == (here,)
    assert absolute_paths(("//etc", "/etc")) == (b"/etc",)
    assert absolute_paths(("/", "/usr", "//")) == (b"/",)
    assert absolute_paths(("/a/b", "/a-b", "/a", "/a/b/c")) == (b"/a", b"/a-b")
    many = tuple(f"/files/{number}" for number in range(20_000))  # a shell's wildcard
    assert len(absolute_paths(many)) == 20_000
    assert absolute_paths(("/a\udcff",)) == (b"/a\xff",)


@pytest.mark.parametrize(
    ("paths", "series"),
    [
        ((b"/home/ann",), "ann"),
        ((b"/",), "root"),
        ((b"/a b/c d",), "c-d"),
        ((b"/x/...",), "default"),
        ((b"/x/\xff\xfe",), "default"),
        ((b"/a", b"/b"), "default"),
        ((), "default"),
    ],
)
def test_a_series_is_called_after_a_single_source(paths: tuple[bytes, ...], series: str) -> None:
    assert default_series(paths) == series


def test_the_root_of_a_small_file_system_of_its_own_can_be_a_source(lab: Lab) -> None:
    # What "/" alone does: the walked folder is the snapshot's root itself.
    write(lab.source / "f", "x")
    report = lab.take(lab.source)
    with lab.open() as (archive, _):
        names = [e.name for e in archive.iter_entries(report.facts.root)]
    assert names == [os.fsencode(lab.source).split(b"/")[1]]


def test_a_single_file_is_a_source_and_is_read_once(lab: Lab, no_race: None) -> None:
    file = write(lab.source / "dump", random.Random(3).randbytes(700_000))
    first = lab.take(file)
    with lab.open() as (archive, _):
        assert content_of(archive, tree_of(archive, first, file)) == file.read_bytes()
    second = lab.take(file)
    assert (second.facts.counts.read, second.facts.counts.files_unchanged) == (0, 1)
    assert second.facts.root == first.facts.root
    with file.open("ab") as writing:
        writing.write(b"more")
    third = lab.take(file)
    assert (third.facts.counts.files_changed, third.facts.counts.read) == (1, 700_004)
    with lab.open() as (archive, _):
        assert content_of(archive, tree_of(archive, third, file)) == file.read_bytes()


def test_a_symlink_is_taken_as_such_even_as_a_source(lab: Lab) -> None:
    write(lab.source / "file", "x")
    link = lab.base / "link"
    link.symlink_to("source")
    report = lab.take(link)
    with lab.open() as (archive, _):
        entry = tree_of(archive, report, link)
    assert (entry.kind, entry.target, entry.tree) == (Kind.SYMLINK, b"source", None)
    assert (report.facts.counts.files, report.facts.counts.others) == (0, 1)


def test_a_source_that_is_not_there_is_reported_and_the_others_are_taken(lab: Lab) -> None:
    write(lab.source / "f", "x")
    report = lab.take(lab.base / "gone", lab.source)
    assert [p.path for p in report.facts.problems] == [os.fsencode(lab.base / "gone")]
    lab.expect_archived(report)
    with pytest.raises(SourceMissing, match="gone"):
        lab.take(lab.base / "gone")


# --- what files are and have ----------------------------------------------------------


def test_names_are_bytes(lab: Lab) -> None:
    top = os.fsencode(lab.source)
    for name in (b"\xff\xfe", b"new\nline", b"\x01", "käse".encode(), b" ", b"-rf", b"a" * 255):
        (lab.source / os.fsdecode(name)).write_bytes(name)
    os.symlink(b"\xfe\xff/../x", top + b"/link \xfd")
    os.mkdir(top + b"/\x80")
    lab.expect_archived(lab.take())


def test_fifos_sockets_and_symlinks_are_taken_without_being_opened(lab: Lab) -> None:
    os.mkfifo(lab.source / "fifo", 0o620)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(lab.source / "sock"))
        (lab.source / "dangling").symlink_to("/nowhere/at all")
        report = lab.take()
        lab.expect_archived(report)
    assert (report.facts.counts.files, report.facts.counts.others) == (0, 3)


@ROOT_ONLY
def test_device_nodes_other_owners_and_capabilities_are_taken(lab: Lab) -> None:
    os.mknod(lab.source / "null", 0o600 | 0o020000, os.makedev(1, 3))
    os.mknod(lab.source / "loop", 0o640 | 0o060000, os.makedev(259, 70_000))
    file = write(lab.source / "tool", "x", mode=0o755)
    os.chown(file, 1, 54_321)
    # cap_net_raw+ep, version 2, as setcap writes it
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(file, "security.capability", capability)
    report = lab.take()
    lab.expect_archived(report)
    with lab.open() as (archive, _):
        entry = tree_of(archive, report, file)
        assert (entry.user, entry.group) == (b"daemon", b"")
        assert entry.xattrs == ((b"security.capability", capability),)


def test_acls_and_extended_attributes_of_files_and_folders_are_taken(lab: Lab) -> None:
    file = write(lab.source / "f", "x", mode=0o640)
    os.setxattr(file, "user.b", b"\0binary\xff")
    os.setxattr(file, "user.a", b"")
    # user::rw-, user:daemon:r--, group::r--, mask::r--, other::---
    acl = bytes.fromhex("02000000") + b"".join(
        bytes.fromhex(part)
        for part in (
            "01000600ffffffff", "0200040001000000", "04000400ffffffff",
            "10000400ffffffff", "20000000ffffffff",
        )
    )  # fmt: skip
    os.setxattr(file, "system.posix_acl_access", acl)
    folder = lab.source / "folder"
    folder.mkdir()
    os.setxattr(folder, "system.posix_acl_default", acl)
    report = lab.take()
    lab.expect_archived(report)
    with lab.open() as (archive, _):
        names = [name for name, _ in tree_of(archive, report, file).xattrs]
    assert names == [b"system.posix_acl_access", b"user.a", b"user.b"]


def test_times_are_exact_to_the_nanosecond_also_before_1970(lab: Lab) -> None:
    for name, mtime_ns in (("now", 1_700_000_000_123_456_789), ("old", -1_000_000_001)):
        os.utime(write(lab.source / name, "x"), ns=(0, mtime_ns))
    os.utime(lab.source, ns=(0, 987_654_321))
    lab.expect_archived(lab.take())


# --- hard links ------------------------------------------------------------------------


def test_hard_links_are_one_file_read_once(lab: Lab) -> None:
    first = write(lab.source / "b" / "first", random.Random(1).randbytes(100_000))
    (lab.source / "a").mkdir()
    os.link(first, lab.source / "a" / "second")
    os.link(first, lab.base / "outside")
    os.link(write(lab.source / "x", "inline"), lab.source / "y")
    (lab.source / "s").symlink_to("t")
    os.link(lab.source / "s", lab.source / "s2", follow_symlinks=False)
    report = lab.take()
    lab.expect_archived(report)
    assert report.facts.counts.read == 100_006
    with lab.open() as (archive, _):
        entry = tree_of(archive, report, first)
        assert entry.link_count == 3  # of the source, the one outside too


def test_hard_links_stay_whole_whatever_becomes_of_the_group(lab: Lab, no_race: None) -> None:
    first = write(lab.source / "a" / "first", random.Random(1).randbytes(50_000))
    write(lab.source / "c" / "other", "x")
    os.link(first, lab.source / "b")
    os.link(first, lab.source / "c" / "third")
    lab.expect_archived(lab.take())
    first.unlink()  # the one the group was named by
    lab.expect_archived(lab.take())
    (lab.source / "c").rename(lab.source / "aa")
    lab.expect_archived(lab.take())
    os.link(lab.source / "b", lab.source / "0")  # now the first in order
    lab.expect_archived(lab.take())
    with (lab.source / "b").open("ab") as writing:
        writing.write(b"changed")
    lab.expect_archived(lab.take())
    (lab.source / "b").unlink()
    write(lab.source / "b", "no link any more")
    lab.expect_archived(lab.take())


def test_a_link_written_to_after_its_first_name_was_read_is_read_again(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(lab.source / "a" / "first", b"before" * 100)
    (lab.source / "b").mkdir()
    os.link(first, lab.source / "b" / "second")
    from coopfs.ops import walk

    opened_folders = walk.Walker._open_folder

    def opening(self: walk.Walker, path: bytes, *args: object) -> object:
        if path.endswith(b"/b"):
            first.write_bytes(b"after!" * 100)
        return opened_folders(self, path, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(walk.Walker, "_open_folder", opening)
        report = lab.take()
    with lab.open() as (archive, _):
        second = tree_of(archive, report, lab.source / "b" / "second")
        assert content_of(archive, second) == b"after!" * 100
    lab.expect_archived(lab.take())


# --- unchanged, touched, changed -------------------------------------------------------


def test_with_nothing_changed_nothing_is_read_and_only_the_snapshot_is_stored(
    lab: Lab, no_race: None
) -> None:
    fill(lab.source)
    first = lab.take()
    with lab.open() as (archive, store):
        store.requests.clear()
        second = take(archive, lab.source)
        puts = {kind: n for (operation, kind), n in store.requests.items() if operation == "put"}
    assert puts == {StoreKind.SNAPSHOTS: 1}
    assert (second.facts.counts.read, second.facts.counts.new) == (0, 0)
    assert second.facts.counts.files_unchanged == second.facts.counts.files == 8
    assert second.facts.root == first.facts.root
    assert second.snapshot is not None and first.snapshot is not None
    assert second.facts.previous == (first.snapshot.snapshot_id,)
    assert second.parent == first.snapshot.snapshot_id
    assert (first.facts.number, second.facts.number) == (1, 2)


def test_what_changed_within_two_seconds_of_being_read_is_read_again(lab: Lab) -> None:
    # Its times may stay the same although its content does not.
    file = write(lab.source / "f", "one two")
    lab.take()
    second = lab.take()
    assert second.facts.counts.read == 7
    assert second.facts.counts.new == 0
    assert second.facts.counts.files_unchanged == 1
    alone = [lab.take(file).facts.counts for _ in range(2)]
    assert [(c.read, c.files_new, c.files_unchanged) for c in alone] == [(7, 1, 0), (7, 0, 1)]
    assert file.read_text() == "one two"


def test_a_touched_file_is_read_and_not_sent(lab: Lab, no_race: None) -> None:
    fill(lab.source)
    lab.take()
    os.utime(lab.source / "a" / "b" / "long", ns=(1, 1))
    report = lab.take()
    assert (report.facts.counts.read, report.facts.counts.files_changed) == (5_000_000, 1)
    assert report.facts.counts.files_unchanged == 7
    assert 0 < report.facts.counts.new < 10_000  # the nodes of the trees above it
    lab.expect_archived(report)


def test_content_exchanged_under_the_same_size_and_mtime_is_noticed(
    lab: Lab, no_race: None
) -> None:
    file = write(lab.source / "f", b"a" * 1000)
    os.utime(file, ns=(5, 5))
    lab.take()
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=(5, 5))  # ctime still tells
    lab.expect_archived(lab.take())
    # And with --ignore-ctime that is what a user has asked not to be noticed.
    from coopfs.ops.witness import WitnessRules

    rules = {"witness": WitnessRules(ignore_ctime=True)}
    os.utime(file, ns=(10**18, 10**18))
    lab.take(series="careless", rules=rules)
    file.write_bytes(b"c" * 1000)
    os.utime(file, ns=(10**18, 10**18))
    assert lab.take(series="careless", rules=rules).facts.counts.read == 0


def test_inodes_may_change_where_they_are_to_be_ignored(lab: Lab, no_race: None) -> None:
    from coopfs.ops.witness import WitnessRules

    rules = {"witness": WitnessRules(ignore_inode=True, ignore_ctime=True)}
    file = write(lab.source / "f", b"a" * 1000)
    os.utime(file, ns=(5, 5))
    lab.take(rules=rules)
    copy = write(lab.source / "g", b"a" * 1000)
    os.utime(copy, ns=(5, 5))
    copy.rename(file)
    assert lab.take(rules=rules).facts.counts.read == 0
    assert lab.take(series="other", rules=rules).facts.counts.read == 1000


def test_each_series_has_its_own_witnesses_and_numbers(lab: Lab, no_race: None) -> None:
    write(lab.source / "f", b"x" * 5000)
    assert lab.take(series="one").facts.number == 1
    other = lab.take(series="two")
    assert (other.facts.number, other.facts.counts.read, other.parent) == (1, 5000, None)
    assert other.facts.counts.new == 0
    assert lab.take(series="one").facts.counts.read == 0


def test_a_file_becomes_a_folder_and_back(lab: Lab, no_race: None) -> None:
    thing = write(lab.source / "d" / "thing", "file")
    write(lab.source / "e", "x")
    lab.expect_archived(lab.take())
    thing.unlink()
    write(thing / "inner" / "deep", "folder")
    lab.expect_archived(lab.take())
    (thing / "inner" / "deep").unlink()
    (thing / "inner").rmdir()
    thing.rmdir()
    thing.symlink_to("e")
    lab.expect_archived(lab.take())


def test_a_changed_folder_mode_deep_down_is_noticed(lab: Lab, no_race: None) -> None:
    fill(lab.source)
    lab.take()
    (lab.source / "a" / "b").chmod(0o700)
    report = lab.take()
    assert report.facts.counts.read == 0
    lab.expect_archived(report)
    os.setxattr(lab.source / "a", "user.new", b"1")
    lab.expect_archived(lab.take())


def test_a_folder_of_very_many_files_is_walked_without_keeping_their_stats(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.folder.STATS_KEPT", 20)
    for number in range(60):
        write(lab.source / f"f{number:03}", f"content {number}" * 50)
    write(lab.source / "f030.d" / "inner", "x")
    lab.expect_archived(lab.take())
    again = lab.take()
    assert again.facts.counts.read == 0
    assert again.facts.counts.new == 0
    (lab.source / "f030.d" / "inner").write_text("y")  # what was passed over is as it was
    lab.expect_archived(lab.take())
    (lab.source / "f010").unlink()
    write(lab.source / "f011", "changed")
    report = lab.take()
    assert report.facts.counts.read == 7
    lab.expect_archived(report)


def test_more_entries_than_a_node_holds_come_back(lab: Lab, no_race: None) -> None:
    for number in range(5000):
        (lab.source / f"{number * 7919 % 5000:04}").touch()
    lab.expect_archived(lab.take())
    (lab.source / "2500x").touch()
    (lab.source / "0001").unlink()
    report = lab.take()
    lab.expect_archived(report)
    assert report.facts.counts.files_unchanged == 4999


# --- leaving out -------------------------------------------------------------------------


def names_in(archive: Archive, report: object, top: Path) -> set[bytes]:
    tree = tree_of(archive, report, top).tree
    assert tree is not None
    return set(archived_picture(archive, tree).entries)


def test_what_is_excluded_is_not_there_and_comes_back_when_it_no_longer_is(
    lab: Lab, no_race: None
) -> None:
    fill(lab.source)
    excludes = ("*.o", "/**/a/b/", "z/exe", "!keep.o")
    write(lab.source / "x.o", "x")
    write(lab.source / "keep.o", "x")
    report = lab.take(excludes=excludes)
    with lab.open() as (archive, _):
        found = names_in(archive, report, lab.source)
    assert b"keep.o" in found and b"a/chunks" in found
    assert not found & {b"x.o", b"a/b", b"a/b/long"}
    everything = lab.take()
    lab.expect_archived(everything)
    lab.take(excludes=excludes)
    lab.expect_archived(lab.take())


def test_of_a_marked_cache_folder_only_the_mark_is_taken(lab: Lab, no_race: None) -> None:
    signature = b"Signature: 8a477f597d28d172789f06886806bc55\n# made by a test"
    write(lab.source / "cache" / "CACHEDIR.TAG", signature)
    write(lab.source / "cache" / "junk" / "file", "x")
    write(lab.source / "no cache" / "CACHEDIR.TAG", b"something else")
    write(lab.source / "no cache" / "file", "x")
    os.mkfifo(lab.source / "CACHEDIR.TAG")  # must not hold the run up
    report = lab.take(rules={"exclude_caches": True})
    with lab.open() as (archive, _):
        found = names_in(archive, report, lab.source)
    assert b"cache/CACHEDIR.TAG" in found and b"no cache/file" in found
    assert not any(name.startswith(b"cache/junk") for name in found)
    lab.expect_archived(lab.take())


# --- trees are deterministic ---------------------------------------------------------------


def test_the_same_content_makes_the_same_tree_on_another_host(lab: Lab) -> None:
    fill(lab.source)
    os.link(lab.source / "inline", lab.source / "z" / "link")
    first = lab.take()
    other = lab.second_host()
    second = other.take()
    assert second.facts.root == first.facts.root
    assert second.facts.counts.new == 0
    assert (second.facts.host, second.facts.number) == ("bob", 1)


# --- problems ------------------------------------------------------------------------------


def test_a_file_that_vanishes_before_it_is_read_is_reported(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab.source)
    victim = lab.source / "a" / "chunks"
    from coopfs.ops import files

    opening = files.open_for_reading

    def open_late(path: bytes) -> int:
        if path == os.fsencode(victim):
            victim.unlink()
        return opening(path)

    monkeypatch.setattr(files, "open_for_reading", open_late)
    report = lab.take()
    assert [(p.path, p.reason) for p in report.facts.problems] == [
        (os.fsencode(victim), "vanished before it was read")
    ]
    assert report.facts.problem_count == 1


@pytest.mark.parametrize("becomes", ["fifo", "folder", "symlink", "zero"])
def test_a_file_exchanged_for_something_else_before_it_is_read_harms_nothing(
    lab: Lab, becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if becomes == "zero" and os.geteuid():
        pytest.skip("needs root")
    fill(lab.source)
    victim = lab.source / "a" / "b" / "long"
    from coopfs.ops import files

    opening = files.open_for_reading

    def open_late(path: bytes) -> int:
        if path == os.fsencode(victim):
            victim.unlink()
            match becomes:
                case "fifo":
                    os.mkfifo(victim)
                case "folder":
                    victim.mkdir()
                case "symlink":
                    victim.symlink_to("/etc/passwd")
                case "zero":
                    os.mknod(victim, 0o666 | 0o020000, os.makedev(1, 5))
        return opening(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_for_reading", open_late)
        report = lab.take()
    assert [p.path for p in report.facts.problems] == [os.fsencode(victim)]
    with lab.open() as (archive, _):
        assert b"a/b/long" not in names_in(archive, report, lab.source)
    lab.expect_archived(lab.take())


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_stored_as_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lab.source / "grows", random.Random(1).randbytes(100_000))
    write(lab.source / "shrinks", random.Random(2).randbytes(100_000))
    write(lab.source / "tiny", b"x" * 10)
    from coopfs.ops import files

    opening = files.open_for_reading

    def open_late(path: bytes) -> int:
        if not path.endswith(b"/still"):
            with open(path, "r+b") as file:
                if path.endswith(b"/shrinks"):
                    file.truncate(30_000)
                else:
                    file.seek(0, os.SEEK_END)
                    file.write(random.Random(3).randbytes(50_000))
        return opening(path)

    write(lab.source / "still", "x")
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_for_reading", open_late)
        report = lab.take()
    assert {p.path.rpartition(b"/")[2] for p in report.facts.problems} == {
        b"grows", b"shrinks", b"tiny",
    }  # fmt: skip
    assert {p.reason for p in report.facts.problems} == {
        "changed while it was read; stored as read"
    }
    lab.expect_archived(report)  # they have not changed since
    assert lab.take().facts.problem_count == 0


@ROOT_ONLY
def test_what_may_not_be_read_is_reported_and_the_rest_goes_on(lab: Lab) -> None:
    # Root may read everything: an immutable stand-in is a file of /proc that refuses.
    write(lab.source / "good", "x")
    report = lab.take(lab.source, Path("/proc/self/mem"))
    assert [p.path for p in report.facts.problems] == [b"/proc/self/mem"]
    lab.expect_archived(report)


def test_a_folder_that_cannot_be_listed_is_taken_empty_and_looked_at_again(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab.source)
    listing = os.listdir

    def refuse(path: bytes) -> object:
        if path == os.fsencode(lab.source / "a"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr("coopfs.ops.folder.os.listdir", refuse)
        report = lab.take()
        assert [(p.path, p.reason) for p in report.facts.problems] == [
            (os.fsencode(lab.source / "a"), "Permission denied")
        ]
        with lab.open() as (archive, _):
            found = names_in(archive, report, lab.source)
        assert b"a" in found and b"a/chunks" not in found and b"z/exe" in found
        assert lab.take().facts.problem_count == 1  # reported every time
    lab.expect_archived(lab.take())


def test_more_problems_than_are_kept_are_all_counted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.tally.PROBLEMS_MAX", 3)

    def refuse(path: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("coopfs.ops.files.open_for_reading", refuse)
    for number in range(10):
        write(lab.source / str(number), "x")
    report = lab.take()
    assert (len(report.facts.problems), report.facts.problem_count) == (3, 10)
    assert report.facts.counts.files == 0


def test_more_than_a_snapshot_can_say_is_refused_before_the_work(lab: Lab) -> None:
    write(lab.source / "f", "x")
    before = lab.objects(StoreKind.DATA)
    with pytest.raises(UsageError, match="too much for one snapshot"):
        lab.take(excludes=[f"pattern{n}" for n in range(10_001)])
    with pytest.raises(UsageError, match="too much"):
        lab.take(tags=("x",) * 10_001)
    assert lab.objects(StoreKind.DATA) == before


def test_a_time_that_no_64_bits_of_nanoseconds_hold_becomes_the_nearest(
    lab: Lab, no_race: None
) -> None:
    path = write(lab.source / "f", "x")
    far_ns = 13_000_000_000 * 10**9  # the year 2381: ext4 keeps it, into 2446
    os.utime(path, ns=(far_ns, far_ns))
    if path.stat().st_mtime_ns != far_ns:
        pytest.skip("this file system keeps no time in the year 2381")
    for _ in range(2):
        report = lab.take()
        assert report.facts.problem_count == 0
    assert report.facts.counts.files_unchanged == 1
    with lab.open() as (archive, _store):
        entry = entry_below(archive, report.facts.root, path)
        assert entry.mtime_ns == (1 << 63) - 1


# --- a run as a whole -----------------------------------------------------------------------


def test_a_dry_run_tells_what_would_be_done_and_stores_nothing(lab: Lab, no_race: None) -> None:
    fill(lab.source)
    with lab.open() as (archive, store):
        store.requests.clear()
        report = take(archive, lab.source, is_dry_run=True)
        assert not [key for key in store.requests if key[0] == "put"]
        assert report.snapshot is None
        assert report.facts.counts.new > 5_000_000
        assert report.facts.counts.files_new == 8
    assert lab.objects(StoreKind.DATA) == set()
    real = lab.take()
    assert real.facts.number == 1
    assert real.facts.counts.read == report.facts.counts.read  # it kept no witness
    assert real.facts.counts.new == report.facts.counts.new
    write(lab.source / "new", b"y" * 1000)
    dry = lab.take(is_dry_run=True)
    assert (dry.facts.counts.read, dry.facts.counts.files_new) == (1000, 1)
    lab.expect_archived(lab.take())


def test_one_series_is_taken_once_at_a_time_on_a_host(lab: Lab) -> None:
    write(lab.source / "f", "x")
    with lab.open() as (archive, _), series_lock(archive.state_folder, "anna/main"):
        with pytest.raises(StateBusy, match="another snapshot of this series"):
            take(archive, lab.source)
        take(archive, lab.source, series="other")
    assert lab.take().facts.number == 1


def test_a_run_that_ended_between_refresh_and_lock_is_continued_not_forked(lab: Lab) -> None:
    write(lab.source / "f", "x")
    with lab.open() as (late, _):
        first = lab.take()
        second = take(late, lab.source)
    assert first.snapshot is not None
    assert second.facts.previous == (first.snapshot.snapshot_id,)
    assert second.facts.number == 2


def test_a_host_that_is_not_enrolled_takes_nothing(lab: Lab) -> None:
    sheets = lab.host.ok("--json", "key", "export").lines()[0]
    other = Lab(lab.base, "eve")
    other.host.ok(
        *("writer", "request", lab.store_path, "--host", "eve", "--no-passphrase"),
        stdin=sheets["archive_key_words"],
    )
    with pytest.raises(WrongKey, match="not enrolled"):
        other.take()


def test_facts_say_what_was_asked_for(lab: Lab) -> None:
    write(lab.source / "f", "x")
    report = lab.take(tags=("weekly", "käse"), description="before the move", excludes=("*.o",))
    with lab.open() as (archive, _):
        (snapshot,) = archive.snapshots()
    assert snapshot.facts == report.facts
    assert snapshot.facts.tags == ("weekly", "käse")
    assert snapshot.facts.description == "before the move"
    assert (snapshot.facts.host, snapshot.facts.series) == ("anna", "main")
    assert snapshot.facts.time_ns <= snapshot.facts.end_ns


def test_a_run_can_be_stopped_where_nothing_has_changed(lab: Lab, no_race: None) -> None:
    for number in range(20):
        write(lab.source / str(number) / "f", "x")
    lab.take()
    asked = []

    def is_stopped() -> bool:
        asked.append(1)
        return len(asked) > 5

    with lab.open() as (archive, _), pytest.raises(Interrupted):
        take(archive, lab.source, is_stopped=is_stopped)
    assert len(asked) == 6
    assert lab.take().facts.number == 2


# --- a stream ---------------------------------------------------------------------------------


def take_stream(lab: Lab, content: bytes, **options: object) -> tuple[object, bytes]:
    """Take *content* from a pipe; return the report and what is in the archive."""
    read_fd, write_fd = os.pipe()

    def feed() -> None:
        with os.fdopen(write_fd, "wb") as pipe:
            pipe.write(content)

    feeder = threading.Thread(target=feed)
    feeder.start()
    kept = os.dup(0)
    try:
        os.dup2(read_fd, 0)
        os.close(read_fd)
        with lab.open() as (archive, _):
            request = request_for(stdin_name="db.sql", **options)  # type: ignore[arg-type]
            report = take_snapshot(archive, request, NoProgress())
            entry = entry_below(archive, report.facts.root, b"db.sql")
            return report, content_of(archive, entry)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        feeder.join()


def test_what_another_process_hears_of_while_a_run_begins_is_stored_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mount, say, that has read a prune's marks after this run had read the index.
    write(lab.source / "file", os.urandom(8000))
    lab.take()
    with lab.open() as (archive, _), lab.open() as (other, _):
        (pack,) = [pack for pack in archive.index.packs() if not pack.is_meta]
        (block,) = archive.index.blocks_of(pack.pack_no)

        class LateWriter(ArchiveWriter):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                other.index.mark_lost(pack.pack_id, "marked meanwhile")

        monkeypatch.setattr("coopfs.ops.snapshot.ArchiveWriter", LateWriter)
        take(archive, lab.source, series="other")  # where nothing is known to be unchanged
        archive.index.reload()
        assert not archive.index.is_usable(pack.pack_no)
        assert archive.index.has(block.chunk_ids[0])


@pytest.mark.parametrize("size", [0, 1, 256, 257, 8192, 8193, 3_000_000, 20_000_001])
def test_a_stream_is_stored_whole(lab: Lab, size: int) -> None:
    content = random.Random(size).randbytes(size)
    report, archived = take_stream(lab, content)
    assert archived == content
    counts = report.facts.counts  # type: ignore[attr-defined]
    assert (counts.files, counts.size, counts.read) == (1, size, size)


def test_a_stream_is_cut_as_the_same_file_is(lab: Lab) -> None:
    content = random.Random(9).randbytes(9_000_000)
    take_stream(lab, content)
    write(lab.source / "db.sql", content)
    report = lab.take()
    assert report.facts.counts.new < 10_000  # trees only
    # And stored again a day later with a change in the middle, little is new.
    changed = content[:4_000_000] + b"one row more" + content[4_000_000:]
    report, archived = take_stream(lab, changed)  # type: ignore[assignment]
    assert archived == changed
    assert report.facts.counts.new < 500_000


def test_a_stream_needs_a_plain_name(lab: Lab) -> None:
    for name in ("a/b", "..", "", "."):
        with lab.open() as (archive, _), pytest.raises(UsageError, match="stdin-name"):
            take_snapshot(archive, request_for(stdin_name=name), NoProgress())


def test_standard_input_that_cannot_be_read_is_an_error_not_an_empty_file(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.open(lab.source, os.O_RDONLY)
    kept = os.dup(0)
    try:
        os.dup2(folder, 0)
        with lab.open() as (archive, _), pytest.raises(UsageError, match="cannot be read"):
            take_snapshot(archive, request_for(stdin_name="x"), NoProgress())
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(folder)
    with lab.open() as (archive, _):
        assert archive.snapshots() == []


def test_a_silent_pipe_does_not_keep_a_run_from_being_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.content.WAIT_S", 0.01)
    read_fd, write_fd = os.pipe()
    kept = os.dup(0)
    try:
        os.dup2(read_fd, 0)
        with lab.open() as (archive, _), pytest.raises(Interrupted):
            take_snapshot(archive, request_for(stdin_name="x"), NoProgress(), lambda: True)
    finally:
        os.dup2(kept, 0)
        for fd in (kept, read_fd, write_fd):
            os.close(fd)
