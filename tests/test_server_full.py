"""A depot whose disk is full: a clear refusal, nothing half, and room made counts."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from depots import DAY_NS, Lab, name_of, names, put, read, rot, some_bytes, sums
from fulldisks import a_room

from coopfs.errors import StoreFull
from coopfs.server.upload import BUFFER_LEN

MIB = 1 << 20


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "coopfs-test", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {run.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 12 MiB."""
    yield from mounted(tmp_path / "disk", "size=12m")


def fill(folder: Path, leave: int) -> Path:
    """Let somebody else use the disk but for about *leave* bytes."""
    figures = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(figures.f_bavail * figures.f_frsize - leave))
    return ballast


def assert_as_before(lab: Lab, data: bytes, kept: list[str]) -> None:
    assert names(lab.depot) == sorted(kept)
    assert list((lab.folder / "incoming").iterdir()) == []
    usage = lab.depot.usage()
    assert (usage.objects, usage.reserved) == (len(kept), 0)
    assert name_of(data) not in kept
    assert sums(lab.depot) == sums(lab.restart())


@pytest.mark.root
def test_a_disk_that_fills_during_an_upload(disk: Path) -> None:
    lab = Lab(disk / "serve")
    kept = put(lab.depot, some_bytes(100_000, seed=1))
    data = some_bytes(4 * MIB)
    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        upload.write(data[:MIB])
        ballast = fill(disk, leave=MIB)
        with pytest.raises(StoreFull, match="no room left"):
            upload.write(data[MIB:])
    ballast.unlink()
    assert_as_before(lab, data, [kept])

    put(lab.depot, data)
    assert read(lab.depot, "data", name_of(data)) == data


@pytest.mark.root
def test_a_quota_on_the_servers_own_disk_that_is_reached_during_an_upload(tmp_path: Path) -> None:
    # The disk has room, so nothing can be said before the upload.
    with a_room("quota", tmp_path) as room:
        lab = Lab(room.path / "serve")
        kept = put(lab.depot, some_bytes(100_000, seed=1))
        data = some_bytes(4 * MIB)
        room.fill(leave=MIB)
        with (
            pytest.raises(StoreFull, match="no room left"),
            lab.depot.begin_put("data", name_of(data), len(data)) as upload,
        ):
            for start in range(0, len(data), MIB):
                upload.write(data[start : start + MIB])
            upload.finish()
        room.relieve()
        assert_as_before(lab, data, [kept])
        put(lab.depot, data)
        assert read(lab.depot, "data", name_of(data)) == data


@pytest.mark.root
def test_a_full_disk_refuses_before_any_byte_and_still_reads_and_lists(disk: Path) -> None:
    lab = Lab(disk / "serve")
    held = some_bytes(100_000, seed=1)
    kept = put(lab.depot, held)
    data = some_bytes(4 * MIB)
    fill(disk, leave=MIB)

    with pytest.raises(StoreFull, match="are free on the partner's disk"):
        lab.depot.begin_put("data", name_of(data), len(data))

    assert read(lab.depot, "data", kept) == held
    put(lab.depot, held)  # the answer had been lost
    assert_as_before(lab, data, [kept])


@pytest.mark.root
def test_a_disk_without_any_room_lets_the_owner_make_some(disk: Path) -> None:
    lab = Lab(disk / "serve")
    pieces = [some_bytes(100_000, seed=number) for number in range(5)]
    for data in pieces:
        put(lab.depot, data)
    lab.depot.delete("data", name_of(pieces[0]))
    fill(disk, leave=0)
    assert os.statvfs(disk).f_bavail == 0

    lab.depot.delete("data", name_of(pieces[1]))
    lab.depot.undelete([name_of(pieces[1])])
    lab.clocks.pass_(31 * DAY_NS)
    assert lab.depot.empty_trash().objects == 1
    put(lab.depot, some_bytes(50_000, seed=77))

    assert sums(lab.depot) == sums(lab.restart())


@pytest.mark.root
def test_a_disk_without_any_room_can_be_scrubbed(disk: Path) -> None:
    lab = Lab(disk / "serve")
    name = put(lab.depot, some_bytes(100_000))
    rot(lab.path("data", name))
    ballast = fill(disk, leave=0)

    found = []
    while not (step := lab.depot.scrub_step(50_000)).is_pass_done:
        found += step.found
    ballast.unlink()

    assert [finding.name for finding in found] == [name]


@pytest.mark.root
def test_a_server_starts_on_a_full_disk(disk: Path) -> None:
    lab = Lab(disk / "serve")
    held = some_bytes(100_000)
    name = put(lab.depot, held)
    fill(disk, leave=0)

    lab.restart()

    assert read(lab.depot, "data", name) == held


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for few files."""
    yield from mounted(tmp_path / "disk", "size=12m,nr_inodes=700")


@pytest.mark.root
def test_a_disk_without_inodes_is_full(few_inodes: Path) -> None:
    lab = Lab(few_inodes / "serve")
    kept = []
    with pytest.raises(StoreFull, match="no room left"):
        for number in range(700):
            data = some_bytes(10, seed=number)
            kept.append(put(lab.depot, data))

    assert len(kept) > 5
    assert_as_before(lab, data, kept)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "open", "link"])
def test_whatever_call_says_so_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """A quota of the server's own user (EDQUOT) shows anywhere, on NFS as late as fsync."""
    lab = Lab(tmp_path / "serve")
    kept = put(lab.depot, some_bytes(1000, seed=1))
    data = some_bytes(BUFFER_LEN + 100)
    real = getattr(os, call)

    def full(*args: Any, **more: Any) -> Any:
        if call != "open" or args[1] & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(*args, **more)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StoreFull, match=f"no room left .{os.strerror(number)}"):
        put(lab.depot, data)
    monkeypatch.undo()

    assert_as_before(lab, data, [kept])
    put(lab.depot, data)
