"""What people type for a snapshot and a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from archive_fixtures import Lab, write
from vectors import samples as s

from coopfs.archive.select import (
    entry_at,
    folder_name,
    folder_names,
    local_time,
    resolve,
    split_spec,
)
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import NotFound, UsageError
from coopfs.format.snapshot import Counts, SnapshotFacts, State
from coopfs.format.tree import Kind
from coopfs.ids import SnapshotId, TreeId

DAY_NS = 86_400 * 10**9
START_NS = 1_795_421_311 * 10**9  # 2026-11-23 08:08:31 UTC


def snapshot(
    id_hex: str,
    *,
    time_ns: int = START_NS,
    host: str = "anna",
    series: str = "home",
    state: State = State.COMPLETE,
    tags: tuple[str, ...] = (),
    zone_s: int = 3600,
) -> Snapshot:
    facts = SnapshotFacts(
        host, series, 1, (), time_ns, zone_s, "CET", None, TreeId(bytes(32)), (b"/home",), (), tags,
        "", Counts(), (), 0, state, None, "1", s.WRITER.writer_id, time_ns,
    )  # fmt: skip
    return Snapshot(SnapshotId(bytes.fromhex(id_hex.ljust(64, "0"))), facts)


def archive_of(*snapshots: Snapshot) -> Any:
    ordered = sorted(snapshots, key=lambda each: each.facts.time_ns)
    return SimpleNamespace(
        snapshots=lambda: ordered, settings=SimpleNamespace(name="default")
    )  # as much of an archive as is used


ONE = snapshot("aaaa1111", time_ns=START_NS - 2 * DAY_NS, tags=("weekly",))
TWO = snapshot("aaaa2222", time_ns=START_NS - DAY_NS, series="etc", tags=("weekly", "x"))
LATE = snapshot("bbbb3333", state=State.PARTIAL)
BOBS = snapshot("cccc4444", time_ns=START_NS - DAY_NS // 2, host="bob")
ALL = archive_of(ONE, TWO, LATE, BOBS)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("latest", BOBS),  # the newest complete one
        ("home/latest", BOBS),
        ("anna/home/latest", ONE),
        ("bob/home/latest", BOBS),
        ("aaaa1", ONE),
        ("AAAA2222", TWO),
        ("bbbb", LATE),
        (LATE.snapshot_id.hex(), LATE),
        ("2026-11-21", ONE),
        ("2026-11-21_09", ONE),
        ("2026-11-21 09:08", ONE),
        ("2026-11-21T09:08:31", ONE),
        ("2026-11-21_09-08-31", ONE),
        ("2026-11-23", LATE),
        ("anna/etc/2026-11-22", TWO),
        (f"2026-11-23_09-08-31~{LATE.snapshot_id.hex()[:8]}", LATE),
    ],
)
def test_a_snapshot_is_named_in_many_ways(spec: str, expected: Snapshot) -> None:
    assert resolve(ALL, spec) is expected


def test_a_choice_of_host_series_and_tags_narrows_what_is_meant() -> None:
    assert resolve(ALL, "latest", host="anna") is TWO
    assert resolve(ALL, "latest", series="home", host="anna") is ONE
    assert resolve(ALL, "latest", tags=("weekly",)) is TWO
    assert resolve(ALL, "latest", tags=("weekly", "x")) is TWO
    assert resolve(archive_of(LATE), "latest") is LATE  # rather a partial one than none


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("dddd", "no snapshot of that id"),
        ("2025-01-01", "from 2026-11-21 to 2026-11-23"),
        ("nobody/home/latest", "no snapshot of nobody/home"),
        ("2026-11-23_09-08-31~dddd", "no snapshot of that id"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(spec: str, said: str) -> None:
    with pytest.raises(NotFound, match=said):
        resolve(ALL, spec)
    with pytest.raises(NotFound, match="no snapshot in archive 'default'"):
        resolve(archive_of(), spec.rpartition("/")[2])


@pytest.mark.parametrize("spec", ["aaaa", "2026-11-22"])
def test_what_could_be_several_is_refused_and_they_are_listed(spec: str) -> None:
    with pytest.raises(UsageError, match=r"could be .*aaaa.*, .*; give one of them"):
        resolve(ALL, spec)


@pytest.mark.parametrize("spec", ["", "aaa", "newest", "a/b/c/d", "2026-11-2", "2026-11-23_9"])
def test_what_names_no_snapshot_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        resolve(ALL, spec)


@pytest.mark.parametrize(
    ("spec", "name", "path"),
    [
        ("latest", "latest", b""),
        ("latest:", "latest", b""),
        ("latest:/home/ann", "latest", b"/home/ann"),
        ("anna/home/latest:a:b", "anna/home/latest", b"a:b"),
        ("2026-11-23_09-08-31:/x", "2026-11-23_09-08-31", b"/x"),
        ("2026-11-23 09:08:31", "2026-11-23 09:08:31", b""),
        ("2026-11-23 09:08:/x", "2026-11-23 09:08", b"/x"),
        ("home/2026-11-23T09:08:31:/x", "home/2026-11-23T09:08:31", b"/x"),
        ("latest:/logs/2026-11-23_09:08", "latest", b"/logs/2026-11-23_09:08"),
        ("latest:/a\udcff\n", "latest", b"/a\xff\n"),
    ],
)
def test_a_path_follows_the_first_colon_that_is_not_a_times(
    spec: str, name: str, path: bytes
) -> None:
    assert split_spec(spec) == (name, path)


def test_names_in_the_mount_are_local_and_told_apart() -> None:
    assert folder_name(ONE.facts) == "2026-11-21_09-08-31"
    assert local_time(ONE.facts).utcoffset() is not None
    twice = snapshot("eeee5555", zone_s=0, time_ns=START_NS + 3600 * 10**9)  # the hour again
    names = folder_names([LATE, twice, ONE])
    assert names == {
        "2026-11-23_09-08-31~bbbb3333": LATE,
        "2026-11-23_09-08-31~eeee5555": twice,
        "2026-11-21_09-08-31": ONE,
    }


def test_a_path_is_looked_up_part_by_part_and_links_are_not_followed(tmp_path: Path) -> None:
    lab = Lab(tmp_path).init()
    write(lab.source / "a" / "b", "content")
    (lab.source / "link").symlink_to("a")
    lab.take()
    with lab.open() as (archive, _):
        (found,) = archive.snapshots()
        top = str(lab.source).encode()
        root = entry_at(archive, found, b"/")
        assert (root.name, root.kind, root.tree) == (b"/", Kind.FOLDER, found.facts.root)
        assert entry_at(archive, found, b"") == root
        assert entry_at(archive, found, top + b"//a/./b/").size == 7
        assert entry_at(archive, found, top.strip(b"/") + b"/a").kind is Kind.FOLDER
        for path, said in (
            # With the series: "latest" may have meant another's.
            (top + b"/x", r"source/x: not in snapshot \w+ \([\w.-]+/[\w.-]+/20"),
            (top + b"/a/b/c", "source/a/b: is not a folder"),
            (top + b"/link/b", "source/link: is not a folder"),
            (top + b"/../x", r"\.\.: not in snapshot"),
        ):
            with pytest.raises(NotFound, match=said):
                entry_at(archive, found, path)


def test_latest_is_by_a_trusted_writer_where_there_is_one() -> None:
    old, new = (
        snapshot("aa"),
        replace(snapshot("bb", time_ns=START_NS + DAY_NS), is_distrusted=True),
    )
    assert resolve(archive_of(old, new), "latest") == old
    assert resolve(archive_of(new), "latest") == new
    assert resolve(archive_of(old, new), "bbbb"[:2] + "00") == new
