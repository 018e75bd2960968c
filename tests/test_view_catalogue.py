"""The folders above the snapshots, from lists of snapshots alone."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import replace

from vectors.samples import SNAPSHOT

from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import State
from coopfs.ids import SnapshotId
from coopfs.view.catalogue import VirtualNode, build_catalogue

DAY_NS = 86_400_000_000_000
NOON_NS = 1_795_435_200_000_000_000  # 2026-11-23 12:00:00 UTC


def snapshot(number: int, time_ns: int = NOON_NS, **changes: object) -> Snapshot:
    facts = replace(
        SNAPSHOT, host="anna", series="home", number=number, time_ns=time_ns, zone_offset_s=0
    )
    facts = replace(facts, **changes)  # type: ignore[arg-type]  # each test knows its fields
    name = f"{facts.host} {facts.series} {number}".encode()
    return Snapshot(SnapshotId(hashlib.sha256(name).digest()), facts)


def at(top: VirtualNode, path: str) -> VirtualNode:
    """Return the node at *path*, symlinks followed."""
    node = top
    walked = ""
    for name in path.split("/"):
        assert node.children is not None, walked
        node = node.children[name.encode()]
        walked = posixpath.join(walked, name)
        if node.target:
            walked = posixpath.normpath(posixpath.join(walked, "..", node.target.decode()))
            node = at(top, walked)
    return node


def names(node: VirtualNode) -> list[str]:
    return [name.decode() for name in node.children or {}]


def build(*snapshots: Snapshot, shadow: bool = False) -> VirtualNode:
    return build_catalogue(snapshots, shadow=shadow, mounted_ns=5)


def test_without_snapshots_the_folders_are_there_and_empty() -> None:
    top = build()
    assert names(top) == [".coopfs", "by-date", "by-host"]
    assert names(at(top, "by-host")) == []
    assert at(top, ".coopfs/status").children is None


def test_a_snapshot_is_found_by_host_and_by_date() -> None:
    one = snapshot(1)
    top = build(one)
    assert names(at(top, "by-host/anna/home")) == ["2026-11-23_12-00-00", "latest"]
    assert at(top, "by-host/anna/home/2026-11-23_12-00-00").snapshot == one
    assert names(at(top, "by-date")) == ["2026-11-23"]
    assert at(top, "by-date/2026-11-23/anna_home_12-00-00").snapshot == one


def test_names_are_in_the_time_of_the_snapshot_not_of_the_mount() -> None:
    top = build(snapshot(1, zone_offset_s=13 * 3600))
    assert names(at(top, "by-date")) == ["2026-11-24"]
    assert "2026-11-24_01-00-00" in names(at(top, "by-host/anna/home"))


def test_latest_is_the_newest_complete_one() -> None:
    one, two = snapshot(1), snapshot(2, NOON_NS + DAY_NS)
    partial = snapshot(3, NOON_NS + 2 * DAY_NS, state=State.PARTIAL)
    top = build(one, two, partial)
    assert at(top, "by-host/anna/home/latest").snapshot == two
    assert "2026-11-25_12-00-00" in names(at(top, "by-host/anna/home"))


def test_latest_goes_by_number_where_a_clock_was_wrong() -> None:
    wrong, right = snapshot(1, NOON_NS + 900 * DAY_NS), snapshot(2)
    top = build(right, wrong)
    assert at(top, "by-host/anna/home/latest").snapshot == right


def test_without_a_complete_snapshot_there_is_no_latest() -> None:
    top = build(snapshot(1, state=State.PARTIAL))
    assert "latest" not in names(at(top, "by-host/anna/home"))


def test_two_snapshots_of_one_name_get_digits_of_their_ids() -> None:
    one, two = snapshot(1), snapshot(2)
    top = build(one, two)
    folder = at(top, "by-host/anna/home")
    digits = {s.snapshot_id.hex()[:8] for s in (one, two)}
    assert {name.partition("~")[2] for name in names(folder)} - {""} == digits
    assert len(names(at(top, "by-date/2026-11-23"))) == 2
    assert at(top, "by-host/anna/home/latest").snapshot == two


def test_hosts_and_series_do_not_mix() -> None:
    other = snapshot(1, host="bert", series="etc")
    top = build(snapshot(1), other)
    assert names(at(top, "by-host")) == ["anna", "bert"]
    assert at(top, "by-host/bert/etc/latest").snapshot == other
    assert names(at(top, "by-date/2026-11-23")) == ["anna_home_12-00-00", "bert_etc_12-00-00"]


def test_names_for_samba_are_in_utc() -> None:
    one = snapshot(1, zone_offset_s=3600)
    top = build(one, shadow=True)
    assert at(top, "by-host/anna/home/@GMT-2026.11.23-12.00.00").snapshot == one
    assert "2026-11-23_13-00-00" in names(at(top, "by-host/anna/home"))


def test_folders_are_as_young_as_what_is_in_them() -> None:
    top = build(snapshot(1), snapshot(2, NOON_NS + DAY_NS))
    assert at(top, "by-host/anna").mtime_ns == NOON_NS + DAY_NS
    assert at(top, "by-date/2026-11-23").mtime_ns == NOON_NS
    assert build().mtime_ns == 5


def test_latest_is_the_newest_of_a_trusted_writer_where_there_is_one() -> None:
    one, two = snapshot(1), replace(snapshot(2, NOON_NS + DAY_NS), is_distrusted=True)
    assert at(build(one, two), "by-host/anna/home/latest").snapshot == one
    assert len(names(at(build(one, two), "by-host/anna/home"))) == 3
    assert at(build(two), "by-host/anna/home/latest").snapshot == two
