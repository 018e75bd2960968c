"""Disks that are really full: said clearly, nothing half-written, and the next run completes."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fulldisks import KINDS, Room, a_room
from hosts import Host, Ran, everything_below

pytestmark = pytest.mark.root

MIB = 1 << 20
# All three with COOPFS_TEST_SOAK=1; other tests of full disks use a tmpfs, without a quota.
TRIED = KINDS if os.environ.get("COOPFS_TEST_SOAK") else ("quota",)
# SQLite has no word for a quota: it calls it an I/O error.
FULL = r"no room left|No space left|Disk quota exceeded|is full|I/O error.* make room"


@pytest.fixture(params=TRIED)
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    with a_room(request.param, tmp_path) as room:
        yield room


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rng = random.Random(1)
    (folder / "large").write_bytes(rng.randbytes(9 * MIB))
    for number in range(300):
        (folder / f"file {number}").write_bytes(rng.randbytes(300))
    return folder


def assert_full(ran: Ran, place: Path, code: int = 1) -> None:
    assert ran.code == code, (ran.code, ran.out, ran.err)
    assert re.search(FULL, ran.err), ran.err
    assert str(place) in ran.err, ran.err
    assert "internal error" not in ran.err and "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 3, ran.err


def assert_all_is_well(host: Host, source: Path, back: Path) -> None:
    checked = host.ok("check", "--read-data", "--json").lines()[-1]
    assert checked["is_whole"], checked
    host.ok("restore", f"latest:{source}", "--target", back)
    assert (
        everything_below(source).items()
        <= {
            name.rpartition("source/")[2]: data for name, data in everything_below(back).items()
        }.items()
    )


def strangers_in(store: Path) -> list[str]:
    return [
        str(path)
        for path in store.rglob("*")
        if path.is_file() and not re.fullmatch(r"config|[0-9a-f]{64}", path.name)
    ]


def test_a_store_that_fills_keeps_nothing_half_and_takes_the_rest_later(
    room: Room, source: Path, tmp_path: Path
) -> None:
    host, store = Host(tmp_path), room.path / "store"
    host.init(store)
    room.fill(leave=5 * MIB)
    assert_full(host.run("snapshot", source, "--series", "s"), store)
    assert strangers_in(store) == []
    assert host.ok("snapshots", "--json").lines()[-1]["snapshots"] == 0
    room.relieve()
    host.ok("snapshot", source, "--series", "s")
    assert strangers_in(store) == []
    assert_all_is_well(host, source, tmp_path / "back")


def test_a_disk_with_no_byte_left_lets_nothing_begin_and_can_be_read(
    room: Room, source: Path, tmp_path: Path
) -> None:
    host, store = Host(tmp_path), room.path / "store"
    host.init(store)
    host.ok("snapshot", source, "--series", "s")
    room.fill(leave=0)
    (source / "new").write_bytes(random.Random(2).randbytes(MIB))
    assert_full(host.run("snapshot", source, "--series", "s"), store)
    assert strangers_in(store) == []
    host.ok("check", "--read-data")
    host.ok("ls", "latest")
    room.relieve()
    host.ok("snapshot", source, "--series", "s")
    assert_all_is_well(host, source, tmp_path / "back")


def test_a_full_disk_under_the_state_is_named_and_no_state_is_lost(
    room: Room, source: Path, tmp_path: Path
) -> None:
    host = Host(room.path)
    host.init(tmp_path / "store")
    codes = []
    for leave in (0, 60_000, 400_000):  # it fills at once, and in the middle
        room.fill(leave)
        ran = host.run("snapshot", source, "--series", "s")
        codes.append(ran.code)
        if ran.code:
            assert_full(ran, room.path)
            seen = host.run("doctor")
            assert seen.code == 1
            assert "damaged" not in seen.out and "move it away" not in seen.out
    assert codes[0] == 1
    room.relieve()
    host.ok("snapshot", source, "--series", "s")
    assert_all_is_well(host, source, tmp_path / "back")


def test_a_full_disk_under_the_cache_is_no_hindrance(
    room: Room, source: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path)
    cache = {"COOPFS_CACHE_DIR": str(room.path / "cache")}
    host.init(tmp_path / "store")
    host.ok("snapshot", source, "--series", "s", **cache)
    room.fill(leave=0)
    host.ok("restore", f"latest:{source}", "--target", tmp_path / "first", **cache)
    host.ok("check", "--read-data", **cache)
    (source / "new").write_bytes(b"new")
    host.ok("snapshot", source, "--series", "s", **cache)
    room.relieve()
    assert_all_is_well(host, source, tmp_path / "back")


def test_a_restore_onto_a_full_disk_says_so_and_completes_later(
    room: Room, source: Path, tmp_path: Path
) -> None:
    host, target = Host(tmp_path), room.path / "target"
    host.init(tmp_path / "store")
    host.ok("snapshot", source, "--series", "s")
    room.fill(leave=4 * MIB)
    ran = host.run("restore", f"latest:{source}", "--target", target)
    assert_full(ran, target)
    assert not (target / "large").exists()  # what has its name is whole
    expected = everything_below(source)
    assert everything_below(target).items() <= expected.items()
    room.relieve()
    host.ok("restore", f"latest:{source}", "--target", target)
    assert everything_below(target) == expected


def test_an_archive_is_not_made_by_half(room: Room, source: Path, tmp_path: Path) -> None:
    host = Host(room.path)
    room.fill(leave=0)
    ran = host.run("init", tmp_path / "store", "--no-passphrase", "--host", "anna")
    assert_full(ran, room.path)
    room.relieve()
    host.init(tmp_path / "store")
    host.ok("snapshot", source, "--series", "s")
    assert_all_is_well(host, source, tmp_path / "back")
