"""A store that shows less than it did: said at once, and accepted only by a person's word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, write
from hosts import everything_below
from pruning import expect_all_readable

from coopfs.errors import Rollback
from coopfs.store.base import Kind

__all__ = ["lab"]  # a fixture


def grow(lab: Lab, count: int) -> list[bytes]:
    """Take *count* snapshots, each with a file more; return their ids."""
    ids = []
    for _ in range(count):
        write(lab.source / f"file{len(list(lab.source.iterdir()))}", os.urandom(20_000))
        report = lab.take()
        assert report.snapshot is not None
        ids.append(report.snapshot.snapshot_id)
    return ids


def numbers(lab: Lab) -> list[int]:
    lines = lab.host.ok("snapshots", "--json").lines()
    return [line["number"] for line in lines if line["type"] == "snapshot"]


def object_path(lab: Lab, name: bytes) -> Path:
    return lab.store_path / "snapshots" / name.hex()


@pytest.fixture
def older(lab: Lab) -> Lab:
    """Five snapshots were taken, and the store was put back to when there were two."""
    grow(lab, 2)
    copy = lab.base / "copy"
    shutil.copytree(lab.store_path, copy)
    grow(lab, 3)
    lab.store_path.rename(lab.base / "newest")
    shutil.copytree(copy, lab.store_path)
    return lab


def test_an_older_copy_of_the_store_is_an_error_that_says_what_is_missing(older: Lab) -> None:
    before = everything_below(older.store_path)
    (older.base / "mnt").mkdir()
    for command in (
        ["snapshots"],
        ["snapshot", older.source, "--series", "main"],
        ["stats"],
        ["ls", "latest"],
        ["mount", "--foreground", older.base / "mnt"],
        ["restore", "latest", "-t", older.base / "target"],
        ["forget", "--keep-last", 1],
        ["prune"],
        ["repair"],
    ):
        ran = older.host.run(*command)
        assert ran.code == 1, command
        for part in ("number 3 (", "number 4 (", "number 5 (", "of anna/main, taken 20"):
            assert part in ran.err, command
        assert "the newest that is left is number 2, taken 20" in ran.err
        assert '"coopfs repair --accept-rollback"' in ran.err
    ran = older.host.run("check")
    assert ran.code == 1
    assert "number 5 of anna/main, was seen by this machine" in ran.err
    assert everything_below(older.store_path) == before


def test_accepted_it_goes_on_and_is_remembered(older: Lab) -> None:
    host = older.host
    assert "number 4 (" in host.ok("repair", "--accept-rollback", "--dry-run").out
    assert host.run("snapshots").code == 1
    done = host.ok("repair", "--accept-rollback", "--json").lines()[-1]
    assert [item["number"] for item in done["missing"]] == [3, 4, 5]
    assert numbers(older) == [1, 2]
    write(older.source / "later", b"later" * 100)
    report = older.take()
    assert (report.facts.number, len(report.facts.previous)) == (3, 1)
    assert expect_all_readable(older) == 3
    said = host.ok("snapshots")
    assert said.err == ""
    assert "missing, and accepted so on this machine: 3 snapshots" in said.out
    assert "number 5 of anna/main (" in said.out and "is missing; accepted on 20" in said.out
    assert [
        a["number"] for a in host.ok("snapshots", "--json").lines()[-1]["accepted_missing"]
    ] == [
        3,
        4,
        5,
    ]
    assert len(host.ok("stats", "--json").lines()[0]["accepted_missing"]) == 3
    assert "accepted so on this machine" in host.ok("stats").out
    assert "is missing; accepted on" in host.ok("check", "--read-data").out
    host.ok("prune")
    assert "nothing is missing" in host.ok("repair", "--accept-rollback").out
    # It is a matter of each machine, and outlives the state that is rebuilt.
    for path in (host.dirs.state).rglob("index.db*"):
        path.unlink()
    assert "3 snapshots" in host.ok("snapshots").out


def test_what_is_open_meanwhile_goes_on_once_it_is_accepted(older: Lab) -> None:
    with older.open(refresh=False) as (archive, _):  # a mount, say
        with pytest.raises(Rollback):
            archive.refresh()
        assert len(archive.snapshots()) == 5  # what it knew
        older.host.ok("repair", "--accept-rollback")
        archive.refresh()
        assert [s.facts.number for s in archive.snapshots()] == [1, 2]
        assert [head.number for head in archive.heads.all()] == [2]


def test_another_machine_that_has_seen_more_says_so_for_itself(lab: Lab) -> None:
    bob = lab.second_host()
    (first, second) = grow(lab, 2)
    assert numbers(bob) == [1, 2]
    object_path(lab, second).unlink()
    lab.host.ok("repair", "--accept-rollback")
    ran = bob.host.run("snapshots")
    assert ran.code == 1
    assert "number 2 (" in ran.err
    bob.host.ok("repair", "--accept-rollback")
    assert numbers(bob) == numbers(lab) == numbers(lab.second_host("carol")) == [1]
    assert first


def test_what_comes_back_is_no_longer_missing(older: Lab) -> None:
    older.host.ok("repair", "--accept-rollback")
    shutil.rmtree(older.store_path)
    (older.base / "newest").rename(older.store_path)
    assert numbers(older) == [1, 2, 3, 4, 5]
    assert older.host.ok("snapshots", "--json").lines()[-1]["accepted_missing"] == []
    assert older.take().facts.number == 6
    # And should it go again, that is said again.
    newest = max(older.objects(Kind.SNAPSHOTS), key=lambda n: object_path(older, n).stat().st_mtime)
    object_path(older, newest).unlink()
    assert older.host.run("snapshots").code == 1


def test_the_heads_are_enough_when_the_local_state_is_lost(older: Lab) -> None:
    for path in older.host.dirs.state.rglob("index.db*"):
        path.unlink()
    ran = older.host.run("snapshots")
    assert ran.code == 1
    assert "number 5 (" in ran.err and "of anna/main; the newest that is left" in ran.err
    done = older.host.ok("repair", "--accept-rollback", "--json").lines()[-1]
    assert [item["number"] for item in done["missing"]] == [5]


@pytest.mark.parametrize("places", [[2], [0, 1], [1, 2, 3]])
def test_one_withheld_from_among_them_is_missed(lab: Lab, places: list[int]) -> None:
    bob = lab.second_host()
    ids = grow(lab, 5)
    for place in places:
        object_path(lab, ids[place]).unlink()
    ran = lab.host.run("snapshots")
    assert ran.code == 1
    for place in places:
        assert f"number {place + 1} ({ids[place].hex()[:8]})" in ran.err
    # Who has never seen it sees that others are based on it.
    ran = bob.host.ok("snapshots")
    assert f"snapshot {ids[places[-1]].hex()[:8]}, on which number {places[-1] + 2}" in ran.err
    assert bob.host.run("check").code == 1
    for who in (lab, bob):
        who.host.ok("repair", "--accept-rollback")
        assert numbers(who) == [place + 1 for place in range(5) if place not in places]
        assert who.host.ok("snapshots").err == ""
        assert who.host.ok("check").err == ""
    lab.host.ok("prune")
    assert expect_all_readable(lab) == 5 - len(places)


def test_prune_deletes_nothing_while_somebody_misses_one(lab: Lab) -> None:
    ids = grow(lab, 3)
    object_path(lab, ids[1]).unlink()
    for path in lab.host.dirs.state.rglob("index.db*"):
        path.unlink()  # so that it was never seen
    ran = lab.host.run("prune", "--grace", "0")
    assert ran.code == 1
    assert "Nothing was pruned" in ran.err and "--accept-rollback" in ran.err
    lab.host.ok("repair", "--accept-rollback")
    lab.host.ok("prune", "--grace", "0")
    assert expect_all_readable(lab) == 2


def test_everything_gone_is_everything_missing(lab: Lab) -> None:
    for name in grow(lab, 2):
        object_path(lab, name).unlink()
    ran = lab.host.run("snapshots")
    assert ran.code == 1
    assert "nothing is left of that series" in ran.err
    lab.host.ok("repair", "--accept-rollback")
    out = lab.host.ok("snapshots").out
    assert "has no snapshots yet" in out and "accepted so on this machine: 2 snapshots" in out
    assert lab.take().facts.number == 1
    assert expect_all_readable(lab) == 1


# --- objects in each other's place --------------------------------------------------------


def test_a_snapshot_of_another_archive_or_under_another_name_is_rejected(
    lab: Lab, tmp_path: Path
) -> None:
    ids = grow(lab, 3)
    (tmp_path / "b").mkdir()
    other = Lab(tmp_path / "b").init()
    write(other.source / "f", b"theirs" * 100)
    theirs = other.take().snapshot
    assert theirs is not None
    # Of another archive, under its own name; an old one, under a name of its own.
    shutil.copy(object_path(other, theirs.snapshot_id), object_path(lab, theirs.snapshot_id))
    shutil.copy(object_path(lab, ids[0]), object_path(lab, b"\x17" * 32))
    bob = lab.second_host()
    for who in (lab, bob):
        ran = who.host.ok("snapshots")
        assert "was sealed with another key" in ran.err
        assert "its bytes are not the ones its name stands for" in ran.err
        assert numbers(who) == [1, 2, 3]
        assert who.host.run("check").code == 1
    assert lab.host.run("prune").code == 1


def test_two_swapped_snapshots_are_both_rejected(lab: Lab) -> None:
    ids = grow(lab, 3)
    one, two = object_path(lab, ids[0]), object_path(lab, ids[2])
    content = one.read_bytes(), two.read_bytes()
    for path, data in ((one, content[1]), (two, content[0])):
        path.chmod(0o600)
        path.write_bytes(data)
    bob = lab.second_host()
    ran = bob.host.ok("snapshots")
    assert ran.err.count("its bytes are not the ones its name stands for") == 2
    assert numbers(bob) == [2]
    # Who had read them before needs not read them again.
    assert numbers(lab) == [1, 2, 3]
    assert lab.host.run("check").code == 1
    one.write_bytes(content[0])
    two.write_bytes(content[1])
    assert numbers(bob) == [1, 2, 3]
    assert bob.host.ok("check").err == ""
