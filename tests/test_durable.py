from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from coopfs import durable

NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one" / "file"
    path.parent.mkdir()
    path.write_bytes(b"content")
    (tmp_path / "two").mkdir()
    return path


def test_a_moved_file_has_its_new_name_only(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "two" / "moved"

    assert durable.move_new(str(file), str(target))

    assert target.read_bytes() == b"content"
    assert not file.exists()


def test_a_taken_name_is_not_taken_away(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "two" / "moved"
    target.write_bytes(b"other")

    assert not durable.move_new(str(file), str(target))

    assert target.read_bytes() == b"other"
    assert file.read_bytes() == b"content"


def test_the_new_name_is_durable_before_the_old_one_goes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: str) -> None:
        assert file.exists()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "sync_folder", failing)
    with pytest.raises(OSError, match="Input/output"):
        durable.move_new(str(file), str(tmp_path / "two" / "moved"))

    assert file.read_bytes() == b"content"


def test_a_file_moves_where_there_are_no_hard_links(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    target = tmp_path / "two" / "moved"

    assert durable.move_new(str(file), str(target))
    assert target.read_bytes() == b"content"
    assert not file.exists()


def test_a_replaced_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state"
    durable.replace(str(path), b"old")
    durable.replace(str(path), b"new and longer")

    assert path.read_bytes() == b"new and longer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failed_replacement_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "state"
    durable.replace(str(path), b"old")

    def failing(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="No space"):
        durable.replace(str(path), b"new")
    monkeypatch.undo()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.root
def test_what_root_writes_belongs_to_the_servers_user(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    durable.replace(str(tmp_path / "state"), b"by root")
    os.close(durable.open_lock(str(tmp_path / "lock")))

    for name in ("state", "lock"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)


@pytest.mark.root
def test_a_root_that_may_give_nothing_away_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.setattr(os, "fchown", refused)
    durable.replace(str(tmp_path / "state"), b"content")

    assert (tmp_path / "state").read_bytes() == b"content"


def test_a_lock_file_locks(tmp_path: Path) -> None:
    first, second = (durable.open_lock(str(tmp_path / "lock")) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(first)
        os.close(second)
